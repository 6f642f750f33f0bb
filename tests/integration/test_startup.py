"""Nothing heavy is imported before it is needed: listing and planning cost a moment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

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


#: A Python of the version that the environment says, which knows what it installed itself.
PYTHON = """\
#!/bin/sh
here=${0%/*} made=$here/$AGE
case "$*" in
-V) echo "Python $AGE.7" ;;
"-c import "*) ;;
"-m venv --clear "*) rm -rf "$4" && mkdir -p "$4/bin" && cp "$0" "$4/bin/python" && touch "$4/bin/$AGE" ;;
"-m pip --version") test -e "$made" ;;
"-m pip install "*) touch "$made.installed" ;;
*/tasks.py*) test -e "$made.installed" && echo ran ;;
*) exit 9 ;;
esac
"""


def test_another_python_in_the_place_of_the_one_before_is_set_up_again(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text(PYTHON)
    python.chmod(0o755)
    shutil.copy(ROOT / "run", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")

    def run(age: str) -> list[str]:
        environment = {**os.environ, "PYTHON": str(python), "AGE": age}
        done = subprocess.run(
            [tmp_path / "run"], env=environment, capture_output=True, text=True, check=True
        )
        return [*done.stdout.split(), *re.findall("setting up", done.stderr)]

    assert run("3.11") == ["ran", "setting up"]
    assert run("3.11") == ["ran"]
    assert run("3.12") == ["ran", "setting up"]
    assert run("3.12") == ["ran"]
    (tmp_path / ".venv/bin/python").unlink()
    assert run("3.12") == ["ran", "setting up"]
