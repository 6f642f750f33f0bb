"""The node script on a real node: swap, prove, roll back, with pods that run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Sums
from tests.e2e.swap import RUNC, STATE, Swap
from tests.e2e.zoo import pod
from tests.node import MINUTE, Node, until

QUICK = ("--settle", "3", "--stable", "0")


@pytest.fixture(scope="module")
def lab(node: Node, kubelets: dict[str, Path], built: Path, stock: Path) -> Swap:
    names = {"new": "new", "old": "new-stock", "aged": "old-stock"}
    return Swap(node, {as_: kubelets[name] for as_, name in names.items()}, built, stock / "runc")


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


def test_apply_verify_and_back(old: Swap, sums: Sums) -> None:
    before = old.running()
    assert old.hashes() == sums.old
    assert old.script("preflight").code == 20, "nothing is staged"
    said = old.script("apply", "--dry-run")
    assert said.code == 0 and "would be staged first" in said.finding("staged")
    assert old.script("stage").code == 0
    assert old.script("stage").code == 10
    assert old.script("apply", "--dry-run").code == 0
    assert old.hashes() == sums.old
    done = old.script("apply", *QUICK)
    assert done.code == 0, done
    found = done.finding("containers")
    assert f"ok {len(before) - 1} that were stable run on" in found
    assert found.endswith("restarting before: default/retried-node/app"), (
        "it looks like a crash loop"
    )
    assert old.hashes() == sums.new and old.running() == before
    assert old.script("verify").code == 0
    assert old.script("apply").code == 10
    assert old.script("status").said["facts"]["state"] == "finished"
    back = old.script("rollback", *QUICK)
    assert back.code == 0, back
    assert old.hashes() == sums.old and old.running() == before
    assert old.script("rollback").code == 10
    left = old.node.run("sh", "-c", "ls /usr/bin/.*nokmem* /usr/sbin/.*nokmem*", check=False)
    assert not left


def test_what_nobody_confirms_goes_back(old: Swap, sums: Sums) -> None:
    within = ("--confirm-within", "60", "--timeout", "25")
    assert "window" in old.script("apply", *QUICK, *within[:2]).said["summary"]
    assert old.script("apply", *QUICK, *within).code == 0
    assert old.hashes() == sums.new
    assert old.script("confirm").code == 0
    assert old.script("confirm").code == 10
    assert old.script("rollback").code == 0
    assert old.script("apply", *QUICK, *within).code == 0
    until(lambda: old.hashes() == sums.old, "nobody confirms", 2 * MINUTE)
    until(lambda: old.script("status").said["facts"]["state"] == "undone", "it is done")
    assert old.node.read(f"{STATE}/current/result") == "30\n"


def kubepods(lab: Swap) -> str:
    return lab.node.run("stat", "-c", "%i", "/sys/fs/cgroup/memory/kubepods")


def test_drained_makes_the_cgroups_of_pods_anew(old: Swap, sums: Sums) -> None:
    before, cgroup = old.running(), kubepods(old)
    old.node.run("docker", "run", "--detach", "--rm", "--name", "somebodys", "app:1")
    try:
        refused = old.script("apply", "--mode", "drained", *QUICK)
        assert refused.code == 20 and "not Kubernetes'" in refused.finding("foreign")
    finally:
        old.node.run("docker", "kill", "somebodys")
    assert old.hashes() == sums.old and old.running() == before and kubepods(old) == cgroup
    assert old.script("apply", *QUICK).code == 0
    done = old.script("apply", "--mode", "drained", *QUICK)
    assert done.code == 0, done
    old.settle()
    assert old.hashes() == sums.new and kubepods(old) != cgroup
    after = old.running()
    assert not {run.id for run in before.values()} & {run.id for run in after.values()}
    assert old.script("rollback", *QUICK).code == 0, "that run replaced no file, the one before did"
    assert old.hashes() == sums.old


def test_reboot_switches_at_the_next_boot(old: Swap, sums: Sums) -> None:
    done = old.script("apply", "--mode", "reboot", *QUICK)
    assert done.code == 50 and "the next boot" in done.said["summary"], done
    assert old.hashes() == sums.old
    assert old.script("status").said["facts"]["state"] == "waiting"
    assert old.script("apply", "--mode", "reboot").finding("run").startswith("refuse")
    assert old.script("resume").code == 10
    old.node.reboot()
    until(lambda: old.script("status").said["facts"]["state"] == "finished", "the swap is done")
    assert old.node.read(f"{STATE}/current/result") == "0\n"
    old.settle()
    assert old.hashes() == sums.new
    assert old.script("verify").code == 0
    old.script("rollback", *QUICK)
    assert old.script("apply", "--mode", "reboot", *QUICK).code == 50
    assert old.script("rollback", *QUICK).code == 0, "before the boot it can be taken back"
    assert old.script("apply", "--mode", "reboot", *QUICK).code == 50
    update = f"cp {RUNC} {RUNC}.rpmnew && echo >>{RUNC}.rpmnew && mv {RUNC}.rpmnew {RUNC}"
    old.node.run("sh", "-c", update)
    updated = old.hashes()[2]
    old.node.reboot()
    until(lambda: old.script("status").said["facts"]["state"] == "undone", "nothing is switched")
    until(lambda: old.node.run("cat", f"{STATE}/current/result", check=False), "it says so")
    assert old.hashes() == (*sums.old[:2], updated), "an update is not overwritten"
    assert "but for what somebody replaced: " + RUNC in old.node.read(f"{STATE}/current/report.txt")


def test_of_the_same_version_nothing_is_left_to_retire(old: Swap) -> None:
    before = old.running()
    assert old.script("retire").code == 10, "a stock kubelet keeps nothing"
    assert old.script("apply", *QUICK).code == 0
    until(lambda: old.state()["retired"], "no hash is another one")
    assert old.script("retire").code == 10
    assert old.script("rollback").code == 0
    assert old.running() == before


def test_a_state_that_keeps_nothing_yet_is_retired(old: Swap) -> None:
    before = old.running()
    old.seed()
    assert old.script("retire", "--dry-run").code == 0
    assert not old.state()["retired"]
    done = old.script("retire")
    assert done.code == 0 and done.finding("restart") == "ok no container restarts", done
    old.settle()
    assert old.state()["retired"] and old.running() == before


def test_who_restarts_is_said_before_and_by_name(old: Swap) -> None:
    """From a kubelet of another age, whose hashes are others."""
    old.swap("aged")
    before = old.running()
    done = old.script("apply", *QUICK)
    assert done.code == 0, done
    assert old.running() == before, "a kubelet that adopts restarts none"
    old.edit(pod("later"))
    old.settle()
    # all but its version is of another age
    old.node.run("sed", "-i", "s/^from .*/from v1.15.12/", f"{STATE}/current/plan")
    back = old.script("rollback")
    assert back.code == 20, back
    since = back.finding("restart").rpartition("born since: ")[2].split(", ")
    assert sorted(since) == ["default/later-node/POD", "default/later-node/app"]
    born = f"docker://{old.running()['later', 'app'].id}"
    until(lambda: born in old.state()["images"], "the new kubelet notes what its own runs")
    retired = old.script("retire")
    assert retired.code == 20 and "default/one-node/app" in retired.finding("restart")
    assert "later" not in retired.finding("restart")
    assert old.running().items() >= before.items()
    assert old.script("retire", "--accept", "restart").code == 0
    old.settle()
    until(lambda: old.running()["one", "app"].restarts == 1, "it restarts")
    assert old.running()["later", "app"].restarts == 0
    back = old.script("rollback", "--accept", "restart")
    assert back.code == 0, back
    del old.pods["later"]
    old.node.run("rm", old.path("later"))
