"""The node script on a node that an API server knows: its heartbeat, its pods."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Sums
from tests.e2e.faults import QUICK, Struck
from tests.e2e.lab import KUBECONFIG, Cluster
from tests.e2e.zoo import NODE, pod
from tests.node import Node, until

SERVER = "kube-apiserver"


class ClusterSwap(Cluster, Struck):
    """Such a node, with an API that brings its pods."""

    def __init__(
        self, node: Node, kubelets: dict[str, Path], dist: Path, leaking: Path, servers: list[Path]
    ) -> None:
        Struck.__init__(self, node, kubelets, dist, leaking)
        self.serve(servers)


@pytest.fixture(scope="module")
def lab(node: Node, built: Path, stock: Path, servers: list[Path]) -> ClusterSwap:
    kubelets = {"new": built / "kubelet", "old": stock / "kubelet"}
    return ClusterSwap(node, kubelets, built, stock / "runc", servers)


@pytest.fixture
def old(lab: ClusterSwap) -> ClusterSwap:
    lab.forget()
    lab.clear()
    lab.start("old")
    until(lambda: NODE in lab.items("nodes"), "the node is registered")
    lab.create(pod("web", nodeName=NODE), pod("mail", nodeName=NODE))
    lab.settle()
    return lab


def seen(lab: ClusterSwap) -> object:
    """What the API says of pods: when each condition began."""
    return {
        name: [(each["type"], each["status"], each["lastTransitionTime"]) for each in conditions]
        for name, conditions in (
            (name, one["status"]["conditions"]) for name, one in lab.items("pods").items()
        )
    }


def test_its_heartbeat_goes_on_and_no_pod_is_seen_to_flap(old: ClusterSwap, sums: Sums) -> None:
    running, pods = old.running(), seen(old)
    done = old.script("apply", *QUICK, "--timeout", "90")
    assert done.code == 0, done
    assert done.finding("node").startswith("ok Ready, heartbeat 20")
    assert old.hashes() == sums.new
    assert (old.running(), seen(old)) == (running, pods)
    assert old.script("verify").finding("node").startswith("ok Ready, heartbeat 20")
    done = old.script("rollback")
    assert done.code == 0 and done.finding("node").startswith("ok Ready, heartbeat 20")
    assert old.hashes() == sums.old
    assert (old.running(), seen(old)) == (running, pods)
    old.create(pod("brief", nodeName=NODE))
    old.settle()
    delete = f"kubectl --kubeconfig={KUBECONFIG} delete pod brief --now"
    old.strike("after", "forward start_kubelet ok", delete)
    done = old.script("apply", *QUICK, "--timeout", "90")
    assert done.code == 0 and "deleted their pods" in done.finding("containers"), done
    assert old.struck() and "brief" not in old.items("pods")


def test_drained_ends_no_pod_that_nobody_brings_back(old: ClusterSwap, sums: Sums) -> None:
    running = old.running()
    done = old.script("apply", "--mode", "drained", *QUICK)
    assert done.code == 20
    assert done.finding("pods").endswith("brings back here: default/mail/app, default/web/app")
    assert (old.hashes(), old.running()) == (sums.old, running)


def test_a_heartbeat_that_does_not_move_takes_it_back(old: ClusterSwap, sums: Sums) -> None:
    running = old.running()
    old.strike("before", "forward start_kubelet begin", f"systemctl stop {SERVER}")
    done = old.script("apply", *QUICK)
    assert done.code == 30 and "its heartbeat does not move: no answer" in done.said["summary"]
    assert (old.hashes(), old.running()) == (sums.old, running)
    old.node.run("systemctl", "start", SERVER)
    until(lambda: old.kubectl("get", "nodes", check=False), "the API answers")
    assert old.struck() and not old.leftovers()
