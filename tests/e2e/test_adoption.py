"""Real kubelets replace each other over running pods: what restarts, and what does not.

"old" and "new" compute other container hashes and other UIDs of static pods (tests/data/old-hash);
"-stock" is without adoption.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from builders.model.releases import Facts
from builders.model.series import ADOPTION
from tests.conftest import VERSION
from tests.e2e.lab import NETWORK, STATE, Lab
from tests.e2e.zoo import STAYS
from tests.node import MINUTE, Node, until

REVISION = next(patch.revision for patch in Facts().patches if patch.brings == ADOPTION)
ID = f"{VERSION}+nokmem.{REVISION}"
SANDBOX = "POD"
#: A pod with a UID of its own: that is one of no kubelet's making.
NAMED = "named"


@pytest.fixture(scope="module")
def lab(node: Node, kubelets: dict[str, Path]) -> Lab:
    return Lab(node, kubelets)


@pytest.fixture
def old(lab: Lab) -> Lab:
    """The zoo under a stock kubelet of another age, which is stopped, with what garbage collection
    may have taken long ago taken."""
    lab.baseline = {}
    lab.reset("old-stock")
    until(lambda: ("finished", SANDBOX) not in lab.running(), "what finished is put away")
    lab.stop()
    lab.node.run("sh", "-c", "docker rm $(docker ps -aqf name=_initialized- -f status=exited)")
    return lab


@pytest.fixture
def adopted(request: pytest.FixtureRequest, lab: Lab) -> Lab:
    """That zoo under the new kubelet; it is left by a test to the next one unless a container that
    nobody touched was lost."""
    if lab.build != "new" or not lab.baseline or not kept(lab):
        request.getfixturevalue("old")
        lab.baseline, before = lab.running(), lab.ids()
        lab.seed()
        lab.swap("new")
        assert kept(lab)
        assert not lab.made(before), "what had ended runs again, or an init container"
        assert lab.baseline["retried", "app"].restarts == 1
    return lab


def kept(lab: Lab) -> bool:
    """Whether all that is to stay has its ids, start times and restart counts."""
    running = lab.running()
    return {key: running.get(key) for key in lab.baseline} == lab.baseline


def recorded(lab: Lab, builds: int) -> Any:
    """The state, once that many builds have noted what they expect of each container: soon, not at
    once."""

    def noted() -> bool:
        kept = lab.state()["containers"].values()
        return all(len(one.get("expected", ())) == builds for one in kept)

    until(noted, "what is expected of each container is written")
    return lab.state()


def change(lab: Lab, name: str, **changes: Any) -> set[str]:
    """Another manifest for a pod, of which nothing is to stay from now on; the ids of what ran of
    it."""
    before = {run.id for key, run in lab.baseline.items() if key[0] == name}
    assert before, f"{name} was changed before"
    manifest = copy.deepcopy(lab.pods[name])
    manifest["spec"]["containers"][0].update(changes.pop("container", {}))
    manifest["spec"].update(changes)
    lab.edit(manifest)
    lab.baseline = {key: run for key, run in lab.baseline.items() if key[0] != name}
    return before


@pytest.mark.parametrize(
    ("build", "seeded", "mark"), [("new-stock", True, ""), ("new", False, ""), ("new", True, "off")]
)
def test_without_adoption_everything_restarts(
    old: Lab, build: str, seeded: bool, mark: str
) -> None:
    """The control: the stock kubelet; a node without the state; adoption switched off."""
    before, finished = old.running(), old.ids("finished")
    if seeded:
        old.seed()
    state = old.node.run("cat", STATE, check=False)
    old.start(build, mark)
    named = before.pop((NAMED, SANDBOX))
    old.gone({run.id for run in before.values()})
    after = old.running()
    assert after.pop((NAMED, SANDBOX)) == named
    counts = {key: run.restarts for key, run in before.items()}
    counts[NAMED, "app"] += 1  # the other pods are new ones
    assert {key: run.restarts for key, run in after.items()} == counts
    assert old.ids("finished") - finished
    assert old.node.run("cat", STATE, check=False) == state
    assert not old.metrics()


def test_a_sandbox_that_lost_its_address(old: Lab) -> None:
    """The stock kubelet makes it anew, with all that runs in it; adoption keeps it."""
    for name in ("one", "critical"):
        pid = old.node.run(
            "docker", "inspect", "-f", "{{.State.Pid}}", old.running()[name, SANDBOX].id
        ).strip()
        flush = ("ip", "addr", "flush", "dev", "eth0")
        old.node.run("nsenter", "--target", pid, "--net", *flush)
        before, ids = old.running(), old.ids()
        if name == "one":
            old.start("old-stock")
            old.gone({run.id for key, run in before.items() if key[0] == name})
            old.stop()
        else:
            old.seed()
            old.swap("new")
            assert old.running() == before and not old.made(ids)
            assert old.log("reports no address and is kept")
            assert old.metrics()['errors_total{reason="address"}'] >= 1


def test_another_cgroup_root_restarts_everything(old: Lab) -> None:
    """By upstream's own rule, which adoption leaves alone: there the pods' limits would be lost."""
    before = old.running()
    old.node.run("sh", "-c", "for one in /sys/fs/cgroup/*/; do mkdir $one/elsewhere; done")
    old.seed()
    old.start("new", "", "--cgroup-root=/elsewhere")
    old.gone({run.id for run in before.values()})
    assert not old.log("would not be admitted")


def test_a_takeover_restarts_nothing_and_is_recorded(adopted: Lab) -> None:
    containers = {
        f"docker://{run.id}" for (_, name), run in adopted.baseline.items() if name != SANDBOX
    }
    state = recorded(adopted, 1)
    assert state["build"] == ID and not state["retired"]
    assert state["containers"].keys() == containers
    assert state["manifests"].keys() == {adopted.path(name) for name in adopted.pods}
    assert all(one["uid"] for one in state["manifests"].values())
    assert adopted.node.run("stat", "-c", "%a %U", STATE) == "600 root\n"
    metrics = adopted.metrics()
    assert metrics[f'build_info{{build="{ID}"}}'] == 1
    assert metrics["containers"] == len(containers)
    assert metrics['events_total{event="adopted"}'] == len(containers)
    assert not [name for name, value in metrics.items() if name.startswith("errors") and value]
    assert adopted.log(f"nokmem: {ID} takes over from {VERSION}: {len(containers)} running")


def test_three_restarts_and_a_kill_restart_nothing(adopted: Lab) -> None:
    before, state = adopted.ids(), recorded(adopted, 1)
    for _ in range(3):
        adopted.swap("new")
    adopted.node.run("systemctl", "kill", "--signal=KILL", "kubelet")
    adopted.settle()
    assert kept(adopted) and not adopted.made(before)
    assert adopted.state() == state


def test_rolling_back_and_forth_restarts_nothing(adopted: Lab) -> None:
    before = adopted.ids()
    for build in ("old", "new"):
        adopted.swap(build)
        assert kept(adopted) and not adopted.made(before)
        recorded(adopted, 2)


def test_an_edited_pod_restarts_alone(adopted: Lab) -> None:
    adopted.gone(change(adopted, "one", container={"image": "app:2"}))
    assert kept(adopted)


def test_a_pod_that_was_edited_while_the_kubelet_was_down_restarts_alone(adopted: Lab) -> None:
    adopted.stop()
    before = change(adopted, "several", container={"image": "app:2"})
    adopted.swap("new")
    adopted.gone(before)
    assert kept(adopted)


def test_a_pod_that_was_edited_during_a_swap_restarts_alone(adopted: Lab) -> None:
    adopted.stop()
    before = change(adopted, "secure", container={"env": [{"name": "NEW", "value": "1"}]})
    adopted.swap("old")
    adopted.gone(before)
    adopted.swap("new")
    assert kept(adopted)


def test_a_command_that_changed_during_a_swap_under_the_same_uid(adopted: Lab) -> None:
    adopted.stop()
    script = f": another; {STAYS}"
    before = change(adopted, NAMED, container={"command": ["/bin/sh", "-c", script]})
    sandbox = adopted.running()[NAMED, SANDBOX]
    adopted.swap("old")
    adopted.gone(before - {sandbox.id})
    adopted.swap("new")
    after = adopted.running()
    assert after[NAMED, "app"].restarts == 1
    assert after[NAMED, SANDBOX] == sandbox
    assert kept(adopted)


@pytest.mark.parametrize("harm", [("truncate", "--size=-9"), ("rm",)])
def test_a_lost_state_restarts_nothing(adopted: Lab, harm: tuple[str, ...]) -> None:
    before = adopted.ids()
    adopted.stop()
    adopted.node.run(*harm, STATE)
    adopted.swap("old")
    assert kept(adopted) and not adopted.made(before)
    assert adopted.log(f"nokmem: {STATE}: it is ")
    assert adopted.metrics()['errors_total{reason="state"}'] == 1
    adopted.swap("new")
    assert kept(adopted) and not adopted.made(before)


def test_a_network_plugin_that_is_away_during_a_swap_restarts_nothing(adopted: Lab) -> None:
    before, conflist = adopted.ids(), adopted.node.read(NETWORK)
    adopted.stop()
    adopted.node.run("rm", NETWORK)
    adopted.start("old")
    waiting = adopted.pods.keys() - {"finished", "host"}

    def refused() -> bool:
        text = "\n".join(adopted.log("network is not ready"))
        return all(f'"{name}-node_' in text for name in waiting)

    until(refused, "no pod is synced without a network")
    assert kept(adopted)
    adopted.node.put(conflist.encode(), NETWORK)
    adopted.settle()
    assert kept(adopted) and not adopted.made(before)
    adopted.swap("new")


def test_a_reboot_starts_each_once_and_empties_the_state(adopted: Lab) -> None:
    before, ids = adopted.running(), adopted.ids()
    adopted.node.reboot()
    adopted.settle()
    after, made = adopted.running(), adopted.made(ids)
    assert after.keys() == {key for key in before if key[0] != "once"}  # as its policy says
    assert made.keys() == after.keys() | {("initialized", "first"), ("initialized", "second")}
    assert set(made.values()) == {1}
    until(lambda: adopted.state()["retired"], "the state is retired", 4 * MINUTE)
    state = adopted.state()
    assert not state["containers"] and state["manifests"]
    assert adopted.running() == after
    adopted.swap("new")
    assert adopted.running() == after
