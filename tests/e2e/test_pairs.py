"""Pair by pair, with all its pods: what a stock and what a patched kubelet restarts of another's.

Without more the pairs are of the kubelets that this level builds. NOKMEM_PAIRS names others, of
releases that this machine need not be able to build: a folder with RELEASE/kubelet and
RELEASE-stock/kubelet, and pairs in it:

    NOKMEM_PAIRS="dist v1.15.12:v1.16.15" ./run test --level e2e --select test_pairs
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.conftest import VERSION
from tests.e2e.lab import Lab
from tests.node import Node

FOLDER, *NAMED = os.environ.get("NOKMEM_PAIRS", "").split() or [""]
PAIRS = [tuple(pair.split(":")) for pair in NAMED] or [("old", "new"), ("new", "old")]

RUNS = ("docker", "ps", "--quiet", "--no-trunc")
#: What is to end has this long, in seconds, once all that is to run runs.
GRACE = 4


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, node: Node) -> Lab:
    if not FOLDER:
        return Lab(node, request.getfixturevalue("kubelets"))
    releases = {release for pair in PAIRS for release in pair}
    names = releases | {f"{release}-stock" for release in releases}
    return Lab(node, {name: Path(FOLDER) / name / "kubelet" for name in sorted(names)})


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_what_restarts(
    lab: Lab, first: str, second: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """There by the stock one, for comparison; then there, back and there by patched ones."""
    for builds in ([f"{second}-stock"], [second, first, second]):
        lab.reset(f"{first}-stock")
        before = {run.id for run in lab.running().values()}
        if builds[0] == second:
            lab.stop()
            lab.seed(first if FOLDER else VERSION)
        lost = []
        for build in builds:
            lab.swap(build)
            time.sleep(GRACE)
            lost.append(len(before - set(lab.node.run(*RUNS).split())))
        with capsys.disabled():
            print(f"\n{first}-stock, then {', '.join(builds)}: of {len(before)} restarted {lost}")
        if builds[0] == second:
            assert lost == [0, 0, 0]
        else:
            assert any(lost) or FOLDER
