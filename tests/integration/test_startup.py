"""Nothing heavy is imported before it is needed: listing and planning cost a moment."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT, VERSION

HEAVY = {"docker", "git", "requests", "jinja2", "debian", "elftools", "hypothesis"}


@pytest.mark.parametrize(
    ("words", "banned"),
    [
        (["--list"], HEAVY | {"rich", "builders"}),
        (["plan", "--k8s", VERSION, "--format", "json"], HEAVY),
        (["matrix", "--help"], HEAVY | {"rich"}),
    ],
)
def test_what_a_command_imports(words: list[str], banned: set[str]) -> None:
    argv = [sys.executable, "-X", "importtime", "-m", "invoke", "--search-root", str(ROOT), *words]
    asked = subprocess.run(argv, capture_output=True, text=True, check=True)
    imported = set(re.findall(r"^import time:.*\| +([\w.]+)$", asked.stderr, re.M))
    assert len(imported) > 50, "the list is there"
    assert not {name.partition(".")[0] for name in imported} & banned
