"""Whatever happens in the middle of a swap: the node ends wholly new or wholly old, and running."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollout.script import script
from tests.e2e.conftest import Sums
from tests.e2e.faults import KILL, POWER, QUICK, SMALL, Struck
from tests.e2e.lab import MANIFESTS
from tests.e2e.swap import DIST, KUBELET, RUNC, SCRIPT, STATE
from tests.node import MINUTE, until
from tests.rollout import Done, manifest

#: Every moment of every step, and both ways out; else every second step in one moment and one way.
ALL = os.environ.get("NOKMEM_TEST_FAULTS") == "all"
FORWARD = (
    "record", "backup", "place", "seed", "hold", "arm", "switch_runc", "stop_kubelet",
    "switch_kubelet", "start_kubelet", "verify", "finish",
)  # fmt: skip
BACK = (
    "record", "place", "stop_kubelet", "restore_kubelet", "restore_runc", "restore_state",
    "start_engine", "start_kubelet", "verify_old", "finish",
)  # fmt: skip
#: Before a step is noted, noted and not done, done and not noted.
MOMENTS = (("before", "begin"), ("after", "begin"), ("before", "ok"))


@pytest.fixture
def old(struck: Struck, sums: Sums) -> Iterator[Struck]:
    """A node that nobody swapped yet, whatever the test before left of it."""
    if not struck.pods:
        struck.reset("old")
    struck.forget()
    if struck.hashes() != sums.old:
        struck.node.run("rm", "-rf", "/var/lib/kubelet/version-cache.json")
        struck.swap("old")
    yield struck
    assert struck.struck(), "not all that should have happened did"


def is_old(lab: Struck, sums: Sums) -> bool:
    return lab.hashes() == sums.old


def kept(lab: Struck, sums: tuple[str, ...], before: object) -> None:
    """It is wholly that, no container was touched, and nothing is left lying about."""
    assert lab.hashes() == sums
    assert lab.running() == before
    assert not lab.leftovers()


def goes_back(lab: Struck, sums: Sums, why: str, *words: str) -> Done:
    """An apply that fails, and undoes itself; no container is touched."""
    before = lab.running()
    done = lab.script("apply", *QUICK, *words)
    assert done.code == 30, done
    assert why in done.said["summary"], done.said["summary"]
    kept(lab, sums.old, before)
    return done


def kills() -> Iterator[tuple[str, str, tuple[str, str], str]]:
    """A step there, a step back, a moment and a way out."""
    for number, step in enumerate(FORWARD):
        back = BACK[number % len(BACK)]
        for which, moment in enumerate(MOMENTS):
            for other, way in enumerate(("resume", "rollback")):
                if ALL or (2 * which, 2 * other) == (number % 6, number % 4):
                    yield step, back, moment, way


@pytest.mark.parametrize(("step", "back", "moment", "way"), [*kills()])
def test_killed(
    step: str, back: str, moment: tuple[str, str], way: str, old: Struck, sums: Sums
) -> None:
    before = old.running()
    when, mark = moment
    old.strike(when, f"forward {step} {mark}", KILL)
    assert old.script("apply", *QUICK, "--confirm-within", "600").code == 60
    if way == "resume":
        assert old.script("resume").code == 0
        assert old.hashes() == sums.new and old.running() == before
    old.strike(when, f"back {back} {mark}", KILL)
    assert old.script("rollback").code == 60
    done = old.script(way)
    assert done.code == 0, done
    kept(old, sums.old, before)


def test_killed_and_a_child_of_it_lives_on(old: Struck, sums: Sums) -> None:
    """It holds the lock until systemd has ended it, and nobody is told before that it is over."""
    before = old.running()
    deaf = "trap '' TERM; kill -9 $PPID; sleep 5"
    old.strike("after", "forward switch_kubelet begin", deaf)
    assert old.script("apply", *QUICK).code == 60
    assert old.script("rollback").code == 0
    kept(old, sums.old, before)


def test_killed_while_kubelet_is_down_it_goes_on_by_itself(old: Struck, sums: Sums) -> None:
    before = old.running()
    old.strike("after", "forward switch_kubelet begin", KILL)
    assert old.script("apply", *QUICK).code == 60
    assert "goes on by itself" in old.script("status").finding("run")
    assert old.at_rest() == "finished"
    assert old.node.read(f"{STATE}/current/result") == "0\n"
    kept(old, sums.new, before)


def test_killed_with_all_done_and_noted(old: Struck, sums: Sums) -> None:
    """There is nothing to go on with, but what waits for the boot is taken away."""
    before = old.running()
    ways = {"forward": (("apply", *QUICK), sums.new), "back": (("rollback",), sums.old)}
    for direction, (words, hashes) in ways.items():
        old.strike("after", f"{direction} finish ok", KILL)
        assert old.script(*words).code == 60
        assert old.leftovers()
        assert old.script("resume").code == 10
        kept(old, hashes, before)


AFTER_THE_BOOT = "forward switch_kubelet begin"


def cuts() -> Iterator[tuple[str, str, str]]:
    """A mode, and the line of the journal before or after which the power goes."""
    yield from (("in-place", "after", f"forward {step} begin") for step in FORWARD)
    yield from (("in-place", "before", f"forward {step} ok") for step in FORWARD)
    yield "in-place", "after", f"forward {FORWARD[-1]} ok"
    for step in ("stop_pods", "stop_engine", "remove_cgroups", "switch_runc", "start_engine"):
        yield "drained", "after", f"forward {step} begin"
    for step in ("wait_for_boot", "switch_kubelet"):
        yield "reboot", "after", f"forward {step} begin"


#: Nothing could have been changed; one file of two is; both are; cgroups are gone; the boot is waited for.
FEW = (
    ("in-place", "after", "forward seed begin"),
    ("in-place", "after", "forward stop_kubelet begin"),
    ("in-place", "before", "forward switch_kubelet ok"),
    ("drained", "after", "forward remove_cgroups begin"),
    ("reboot", "after", "forward wait_for_boot begin"),
)


@pytest.mark.parametrize(("mode", "moment", "line"), [*cuts()] if ALL else FEW)
def test_power_cut(mode: str, moment: str, line: str, old: Struck, sums: Sums) -> None:
    before = old.running()
    old.strike(moment, line, POWER)
    if (mode, line) == ("reboot", AFTER_THE_BOOT):
        assert old.script("apply", *QUICK, "--mode", mode).code == 50
        old.lose_power(boots=2)
    else:
        old.cut_power("apply", *QUICK, "--mode", mode)
    state = old.at_rest()
    if state == "forward":  # before anything could have been changed nothing waits for the boot
        assert old.hashes() == sums.old
        assert old.script("resume").code == 30
    else:
        assert state == "finished", state
        old.settle()
        assert old.hashes() == sums.new
        assert old.script("verify").code == 0
        assert old.script("rollback").code == 0
    old.settle()
    assert is_old(old, sums) and not old.leftovers()
    assert old.running().keys() == before.keys(), "all pods are back"


@pytest.mark.parametrize("step", BACK if ALL else ["restore_runc"])
def test_power_cut_on_the_way_back(step: str, old: Struck, sums: Sums) -> None:
    assert old.script("apply", *QUICK).code == 0
    old.strike("after", f"back {step} begin", POWER)
    old.cut_power("rollback")
    assert old.at_rest() == "undone"
    old.settle()
    assert is_old(old, sums) and not old.leftovers()


def test_power_cut_before_anybody_confirmed(old: Struck, sums: Sums) -> None:
    assert old.script("apply", *QUICK, "--confirm-within", "600").code == 0
    old.node.reboot()
    assert old.at_rest() == "undone"
    old.settle()
    assert is_old(old, sums) and not old.leftovers()


# ---- the disk


def full(folder: str) -> str:
    return f"cat /dev/zero >{folder}/filler 2>/dev/null"


@pytest.mark.parametrize("step", FORWARD if ALL else ["backup", "finish"])
def test_no_room_for_the_state(step: str, old: Struck, sums: Sums) -> None:
    """Every write since that step fails; the journal has the room that was reserved for it."""
    old.node.run("mkdir", "-p", STATE)
    old.node.run("mount", "-t", "tmpfs", "-o", "size=600m", "none", STATE)
    assert old.script("stage").code == 0
    before = old.running()
    old.strike("after", f"forward {step} begin", full(STATE))
    done = old.script("apply", *QUICK)
    assert done.code in (0, 30), done
    old.node.run("rm", f"{STATE}/filler")
    kept(old, sums.new if done.code == 0 else sums.old, before)
    assert step not in ("backup", "verify", "finish") or done.code == 30


@pytest.fixture
def small(old: Struck) -> Iterator[Struck]:
    with old.small():
        old.settle()
        yield old
    old.settle()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("forward place begin", full(SMALL)),
        ("forward place begin", f"mount -o remount,ro {SMALL}"),
        ("forward switch_kubelet begin", f"mount -o remount,ro {SMALL}"),
    ],
)
def test_kubelet_cannot_be_written(line: str, what: str, small: Struck, sums: Sums) -> None:
    before = small.running()
    small.strike("after", line, what)
    done = small.script("apply", *QUICK)
    assert done.code == 30, done
    assert "could not be" in done.said["summary"]
    assert small.running() == before
    running = small.node.run("sh", "-c", "sha256sum /proc/$(pidof kubelet)/exe </dev/null")
    assert running.split()[0] == sums.old[0]
    assert small.hashes()[2] == sums.old[2]


# ---- a kubelet or an engine that is sick


def test_kubelet_exits_at_once(old: Struck, sums: Sums) -> None:
    old.sicken("ExecStart=", "ExecStart=/usr/bin/kubelet --no-such-flag")
    goes_back(old, sums, "kubelet died 3 times")


def test_kubelet_hangs(old: Struck, sums: Sums) -> None:
    old.sicken("TimeoutStopSec=2")
    old.strike("after", "forward verify begin", "kill -STOP $(pidof kubelet)")
    goes_back(old, sums, "did not become healthy within 8 s", "--timeout", "8")


def test_kubelet_is_never_healthy(old: Struck, sums: Sums) -> None:
    # an address that is not this node's
    words = "ExecStart=/usr/bin/kubelet $KUBELET_ARGS --healthz-bind-address=192.0.2.1"
    old.sicken("ExecStart=", words)
    goes_back(old, sums, "did not become healthy within 8 s", "--timeout", "8")


def test_kubelet_cannot_be_started(old: Struck, sums: Sums) -> None:
    old.sicken("ExecStartPre=/bin/false", "Restart=no")
    goes_back(old, sums, "kubelet does not start")


def test_kubelet_restarts_what_ran(old: Struck, sums: Sums) -> None:
    """As a kubelet does that takes over nothing: here because a manifest is gone."""
    lost = f"mv {MANIFESTS}/one.yaml /opt/fault/"
    old.strike("before", "forward start_kubelet begin", lost)
    old.strike("before", "back stop_kubelet begin", f"mv /opt/fault/one.yaml {MANIFESTS}/")
    done = old.script("apply", *QUICK, "--settle", "20")
    assert done.code == 30 and "are gone or restarted: default/one-node/" in done.said["summary"]
    old.settle()
    assert is_old(old, sums) and not old.leftovers()


def test_engine_does_not_come_back(old: Struck, sums: Sums) -> None:
    settings = "/etc/docker/daemon.json"
    old.strike(
        "after", "forward stop_engine begin", f"mv {settings} /opt/fault/ && echo oops >{settings}"
    )
    old.strike("before", "back begun", f"mv /opt/fault/daemon.json {settings}")
    done = old.script("apply", *QUICK, "--mode", "drained")
    assert done.code == 30 and "docker.service does not come back" in done.said["summary"], done
    old.settle()
    assert is_old(old, sums) and not old.leftovers()


def test_engine_never_comes_back(old: Struck, sums: Sums) -> None:
    """What can be put back is, the rest is said, and a later rollback makes it good."""
    settings = "/etc/docker/daemon.json"
    old.strike(
        "after", "forward stop_engine begin", f"mv {settings} /opt/fault/ && echo oops >{settings}"
    )
    done = old.script("apply", *QUICK, "--mode", "drained")
    assert done.code == 31 and "docker.service does not come back" in done.said["summary"], done
    old.node.run("mv", "/opt/fault/daemon.json", settings)
    assert old.script("rollback").code == 0
    old.settle()
    assert is_old(old, sums) and not old.leftovers()


# ---- files that are not what they should be


@pytest.mark.parametrize(
    "what", ["printf x | dd bs=1 seek=5000 conv=notrunc of={}", "truncate -s -1 {}"]
)
@pytest.mark.parametrize("name", ["kubelet", "runc"])
def test_a_binary_that_is_not_the_proven_one(what: str, name: str, old: Struck, sums: Sums) -> None:
    path, before = f"{DIST}/{name}", old.running()
    old.node.run("cp", path, "/opt/fault/whole")
    old.node.run("sh", "-c", what.format(path))
    try:
        done = old.script("apply", *QUICK)
    finally:
        old.node.run("mv", "/opt/fault/whole", path)
    assert done.code == 20 and f"is not the {name} that was proven" in done.said["summary"]
    kept(old, sums.old, before)


@pytest.mark.parametrize("path", [KUBELET, RUNC])
def test_a_binary_is_tampered_with_before_the_switch(path: str, old: Struck, sums: Sums) -> None:
    folder, _, name = path.rpartition("/")
    beside = f"{folder}/.{name}.nokmem-new"
    old.strike(
        "before", "forward place ok", f"printf x | /bin/dd bs=1 seek=5000 conv=notrunc of={beside}"
    )
    goes_back(old, sums, f"{beside} is not what was placed there")


def test_binaries_of_another_architecture(old: Struck, sums: Sums) -> None:
    other = script(manifest(node={"machine": "aarch64", "glibc": "2.17"}))
    old.node.put(other.encode(), "/opt/other/nokmem-rollout")
    done = old.script("preflight", path="/opt/other/nokmem-rollout")
    assert done.code == 20 and "the binaries are for aarch64" in done.finding("machine")
    assert is_old(old, sums)


@pytest.mark.parametrize("path", [KUBELET, RUNC])
@pytest.mark.parametrize("what", ["rm -f {}", "truncate -s 99 {}"])
def test_the_backup_is_missing_or_damaged(path: str, what: str, old: Struck, sums: Sums) -> None:
    assert old.script("apply", *QUICK).code == 0
    before, backup = old.running(), f"{STATE}/current/backup{path}"
    old.node.run("cp", "-a", backup, "/opt/fault/backup")
    old.node.run("sh", "-c", what.format(backup))
    done = old.script("rollback")
    assert done.code == 20 and "missing or damaged" in done.finding("backup")
    kept(old, sums.new, before)
    old.node.run("cp", "-a", "/opt/fault/backup", backup)
    assert old.script("rollback").code == 0
    kept(old, sums.old, before)


@pytest.mark.parametrize("path", [KUBELET, RUNC])
def test_an_update_takes_the_fix_away(path: str, old: Struck, stock: Path, sums: Sums) -> None:
    """As rpm does it: another file by that name; what runs goes on."""
    before = old.running()
    assert old.script("apply", *QUICK).code == 0
    source = {KUBELET: "/opt/old/kubelet", RUNC: "/opt/leaking/runc"}[path]
    old.node.run("sh", "-c", f"cp {source} {path}.rpmnew && mv {path}.rpmnew {path}")
    assert path in old.status()["drift"]
    assert old.script("verify").code == 20
    done = old.script("apply", *QUICK)
    assert done.code == 0, done
    kept(old, sums.new, before)
    assert old.status()["drift"] == "none"


# ---- who else is there


def test_two_runs_at_once(old: Struck, sums: Sums) -> None:
    before = old.running()
    waits = "touch /opt/fault/waits; while [ -e /opt/fault/waits ]; do sleep 0.1; done"
    old.strike("after", "forward switch_runc begin", waits)
    with old.begin("apply", *QUICK) as first:
        until(
            lambda: old.node.run("ls", "/opt/fault/waits", check=False), "the first is on its way"
        )
        for command in ("apply", "rollback", "resume", "stage"):
            assert old.script(command).code == 40, command
        beside = old.leftovers()
        assert "/usr/bin/.kubelet.nokmem-new" in beside and "/usr/sbin/.runc.nokmem-new" in beside
        assert "nokmem-rollout-boot.service" in beside
        old.node.run("rm", "/opt/fault/waits")
        assert first.wait() == 0
    kept(old, sums.new, before)


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
def test_a_terminal_that_is_lost(name: str, old: Struck, sums: Sums) -> None:
    before = old.running()
    looks = r"$(grep -laP 'nokmem-rollout\x00apply' /proc/[0-9]*/cmdline | cut -d / -f 3)"
    old.strike("after", "forward backup begin", f"kill -{name} {looks}; sleep 1")
    assert old.script("apply", *QUICK).code == 60
    assert old.at_rest() == "finished"
    kept(old, sums.new, before)


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
def test_a_signal_to_the_work_itself(name: str, old: Struck, sums: Sums) -> None:
    before = old.running()
    old.strike("after", "forward switch_kubelet begin", f"kill -{name} $PPID")
    code = old.script("apply", *QUICK).code
    # a bash that waits for a program takes no notice of INT where the program takes none
    assert code == (60 if name == "TERM" else 0)
    if code:
        assert old.script("resume").code == 0
    kept(old, sums.new, before)


def test_the_clock_is_set_back(old: Struck, sums: Sums) -> None:
    """A date of the node's own, a year behind from the backup on: nobody may set this machine's clock."""
    before = old.running()
    late = b'#!/bin/sh\nexec /bin/date -d "last year" "$@"\n'
    old.node.put(late, "/opt/fault/late", 0o755)
    old.strike("after", "forward backup begin", "cp /opt/fault/late /opt/fault/date")
    try:
        assert old.script("apply", *QUICK, "--confirm-within", "60").code == 0
        last = old.node.read(f"{STATE}/current/journal").splitlines()[-1]
        assert last < old.node.run("date", "-u", "+%Y"), "it was set back"
        assert old.script("verify").code == 0
        until(lambda: old.at_rest() == "undone", "nobody confirms", 2 * MINUTE)
    finally:
        old.node.run("rm", "-f", "/opt/fault/date")
    kept(old, sums.old, before)


def test_the_script_itself_is_gone(old: Struck, sums: Sums) -> None:
    """What a run is done with stays on the node."""
    before = old.running()
    assert old.script("apply", *QUICK).code == 0
    old.node.run("mv", SCRIPT, "/opt/fault/script")
    try:
        assert (
            old.script("rollback", path=f"{STATE}/staged/v1.20.2+nokmem.1/nokmem-rollout").code == 0
        )
    finally:
        old.node.run("mv", "/opt/fault/script", SCRIPT)
    kept(old, sums.old, before)
