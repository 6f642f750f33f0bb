"""The Go tests that the patches bring, in the tree that they patch; and that they can fail."""

from __future__ import annotations

import os
import re
from pathlib import Path

from builders.tools import process
from tests.conftest import ROOT, VERSION

MINUTES = 60
ADOPTION = "k8s.io/kubernetes/pkg/kubelet"


def run(*words: str) -> tuple[int, str]:
    result, text = process.capture(
        [str(ROOT / "run"), "patches", "--test", "--k8s", VERSION, *words],
        environment={**os.environ, "CI": "true"},
        timeout=30 * MINUTES,
    )
    return result.exit_code, text


def test_each_patched_package_tests_its_patch() -> None:
    code, text = run()
    assert code == 0, text
    for package in ("adoption", "config", "kuberuntime", "prober"):
        assert f"{ADOPTION}/{package}" in text
    assert f"{ADOPTION} " in text, "the kubelet's own package"
    assert re.search(r"adoption adds \d+ ns to upstream's \d+ ns, \d+\.\d\d", text)


def test_a_hook_that_is_lost_is_noticed() -> None:
    code, text = run("--patches", str(ROOT / "tests/data/broken-hook"))
    assert code == 9, text
    assert "the patches' own tests fail" in text and "TestAdoptionResumesReadiness" in text


def test_a_tree_that_is_patched_already_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "kubernetes").symlink_to(ROOT / "patches/kubernetes")
    code, text = run("--patches", str(tmp_path))
    assert code == 6, text
    assert "is applied already" in text
