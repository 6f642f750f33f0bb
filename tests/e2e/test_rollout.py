"""The node script on a real node: swap, prove, roll back, with pods that run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.tools import container
from builders.tools.cache import sha256_of
from tests import debian
from tests.conftest import leave_out
from tests.e2e.swap import STATE, Swap
from tests.node import MINUTE, PACKAGES, Node, until

QUICK = ("--settle", "3", "--stable", "0")


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, built: Path, stock: Path) -> Iterator[Swap]:
    problem = container.why_not()
    if problem is not None:
        leave_out(request, "container", problem.fact)
    node = Node(debian.image(request, "nokmem/test-node", PACKAGES))
    kubelets = {"new": built / "kubelet", "old": stock / "kubelet"}
    try:
        yield Swap(node, kubelets, built, stock / "runc")
    finally:
        node.close()


@pytest.fixture
def old(lab: Swap) -> Swap:
    """A node that nobody swapped yet; its pods may be of an earlier test's."""
    if not lab.pods:
        lab.reset("old")
    lab.forget()
    if lab.build != "old":
        lab.node.run("rm", "-rf", "/var/lib/kubelet/version-cache.json")
    lab.swap("old")
    return lab


@pytest.fixture(scope="module")
def olds(built: Path, stock: Path) -> tuple[str, ...]:
    """What Swap.hashes gives of a node that is wholly old."""
    kubelet = sha256_of(stock / "kubelet")
    return kubelet, kubelet, sha256_of(stock / "runc")


@pytest.fixture(scope="module")
def news(built: Path) -> tuple[str, ...]:
    """And of one that is wholly new."""
    kubelet = sha256_of(built / "kubelet")
    return kubelet, kubelet, sha256_of(built / "runc")


def test_apply_verify_and_back(old: Swap, olds: tuple[str, ...], news: tuple[str, ...]) -> None:
    before = old.running()
    assert old.hashes() == olds
    assert old.script("preflight").code == 20, "nothing is staged"
    assert old.script("stage").code == 0
    assert old.script("stage").code == 10
    assert old.script("apply", "--dry-run").code == 0
    assert old.hashes() == olds
    done = old.script("apply", *QUICK)
    assert done.code == 0, done
    found = done.finding("containers")
    assert f"ok {len(before) - 1} that were stable run on" in found
    assert found.endswith("restarting before: default/retried-node/app"), (
        "it looks like a crash loop"
    )
    assert old.hashes() == news and old.running() == before
    assert old.script("verify").code == 0
    assert old.script("apply").code == 10
    assert old.script("status").said["facts"]["state"] == "finished"
    back = old.script("rollback", *QUICK)
    assert back.code == 0, back
    assert old.hashes() == olds and old.running() == before
    assert old.script("rollback").code == 10
    left = old.node.run("sh", "-c", "ls /usr/bin/.*nokmem* /usr/sbin/.*nokmem*", check=False)
    assert not left


def test_what_nobody_confirms_goes_back(
    old: Swap, olds: tuple[str, ...], news: tuple[str, ...]
) -> None:
    assert old.script("apply", *QUICK, "--confirm-within", "60").code == 0
    assert old.hashes() == news
    assert old.script("confirm").code == 0
    assert old.script("confirm").code == 10
    assert old.script("rollback").code == 0
    assert old.script("apply", *QUICK, "--confirm-within", "60").code == 0
    until(lambda: old.hashes() == olds, "nobody confirms", 2 * MINUTE)
    until(lambda: old.script("status").said["facts"]["state"] == "undone", "it is done")
    assert old.node.read(f"{STATE}/current/result") == "30\n"


def kubepods(lab: Swap) -> str:
    return lab.node.run("stat", "-c", "%i", "/sys/fs/cgroup/memory/kubepods")


def test_drained_makes_the_cgroups_of_pods_anew(
    old: Swap, olds: tuple[str, ...], news: tuple[str, ...]
) -> None:
    before, cgroup = old.running(), kubepods(old)
    old.node.run("docker", "run", "--detach", "--rm", "--name", "somebodys", "app:1")
    try:
        refused = old.script("apply", "--mode", "drained", *QUICK)
        assert refused.code == 20 and "not Kubernetes'" in refused.finding("foreign")
    finally:
        old.node.run("docker", "kill", "somebodys")
    assert old.hashes() == olds and old.running() == before and kubepods(old) == cgroup
    done = old.script("apply", "--mode", "drained", *QUICK)
    assert done.code == 0, done
    old.settle()
    assert old.hashes() == news and kubepods(old) != cgroup
    after = old.running()
    assert not {run.id for run in before.values()} & {run.id for run in after.values()}
    assert old.script("rollback", *QUICK).code == 0
    assert old.hashes() == olds


def test_reboot_switches_at_the_next_boot(
    old: Swap, olds: tuple[str, ...], news: tuple[str, ...]
) -> None:
    done = old.script("apply", "--mode", "reboot", *QUICK)
    assert done.code == 50 and "the next boot" in done.said["summary"], done
    assert old.hashes() == olds
    assert old.script("status").said["facts"]["state"] == "waiting"
    assert old.script("apply", "--mode", "reboot").finding("run").startswith("refuse")
    assert old.script("resume").code == 10
    old.node.reboot()
    until(lambda: old.script("status").said["facts"]["state"] == "finished", "the swap is done")
    assert old.node.read(f"{STATE}/current/result") == "0\n"
    old.settle()
    assert old.hashes() == news
    assert old.script("verify").code == 0
    old.script("rollback", *QUICK)
    assert old.script("apply", "--mode", "reboot", *QUICK).code == 50
    assert old.script("rollback", *QUICK).code == 0, "before the boot it can be taken back"
    old.node.reboot()
    until(lambda: old.hashes() == olds, "the old kubelet runs")
