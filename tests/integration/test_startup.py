"""Nothing heavy is imported before it is needed: listing and planning cost a moment."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT, VERSION

HEAVY = {"botocore", "docker", "git", "requests", "jinja2", "debian", "elftools", "hypothesis"}


@pytest.mark.parametrize(
    ("words", "banned"),
    [
        (["--list"], HEAVY | {"rich", "builders.model", "builders.steps"}),
        (["plan", "--k8s", VERSION, "--format", "json"], HEAVY),
        (["matrix", "--help"], HEAVY | {"rich"}),
        (["publish", "--help"], HEAVY | {"rich"}),
    ],
)
def test_what_a_command_imports(words: list[str], banned: set[str]) -> None:
    argv = [sys.executable, "-X", "importtime", str(ROOT / "tasks.py"), *words]
    asked = subprocess.run(argv, capture_output=True, text=True, check=True)
    imported = set(re.findall(r"^import time:.*\| +([\w.]+)$", asked.stderr, re.M))
    assert len(imported) > 50, "the list is there"
    assert "builders.tools.front" in imported
    assert not [one for one in imported if any(f"{one}.".startswith(f"{b}.") for b in banned)]
