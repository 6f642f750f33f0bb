"""Real commands in real windows, wide and narrow, with colours and without, and where nobody looks."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.conftest import ROOT, VERSION

COMMANDS = {
    "list": ("--list",),
    "help": ("build", "--help"),
    "plan": ("plan", "--k8s", "v1.15.3", "--toolchain", "el7", "--runc-source", "git"),
    "matrix": ("matrix",),
    "releases": ("matrix", "--k8s", "v1.20"),
    "cache": ("cache.show",),
    "patches": ("patches",),
    "no release": ("build", "--k8s", "v1.20.99"),
    "no command": ("bulid",),
    "no option": ("build", "--k8z", VERSION),
    "no value": ("build", "--k8s", VERSION, "--builder", "podman"),
    "no result": ("verify", "--dist", "/no/such/folder"),
}
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
#: Of a word that is never broken (a path, a hash, a command), what stands before it on its line.
BEFORE = 30


def in_a_window(words: tuple[str, ...], columns: int, environment: dict[str, str]) -> str:
    """What a command prints in a terminal of so many columns, both streams."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with subprocess.Popen(
        [sys.executable, str(ROOT / "tasks.py"), *words],
        env=environment,
        stdin=its,
        stdout=its,
        stderr=its,
    ):
        os.close(its)
        found = b""
        try:
            while block := os.read(ours, 1 << 16):
                found += block
        except OSError:  # so a terminal says that nobody writes any more
            pass
        os.close(ours)
    return found.decode()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    hidden = {"CI", "NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {"TERM": "xterm-256color", "NOKMEM_CACHE": str(tmp_path), "LC_ALL": "C.UTF-8"}


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_runs_out_of_a_window(name: str, columns: int, environment: dict[str, str]) -> None:
    coloured = in_a_window(COMMANDS[name], columns, environment)
    plain = in_a_window(COMMANDS[name], columns, environment | {"NO_COLOR": "1"})
    assert "Traceback" not in coloured and coloured.strip()
    assert not re.search(r"\x1b\[[0-9;]*3\dm", plain), "a colour"
    for text in (ESCAPE.sub("", coloured), ESCAPE.sub("", plain)):
        for line in text.splitlines():
            longest = max(map(len, line.split()), default=0)
            assert len(line) <= columns or longest + BEFORE > columns, (columns, line)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_pipe_gets_text_alone_and_whole_lines(name: str, environment: dict[str, str]) -> None:
    """The same words as in a window too wide to break anything."""
    argv = [sys.executable, str(ROOT / "tasks.py"), *COMMANDS[name]]
    wide = ESCAPE.sub("", in_a_window(COMMANDS[name], 2000, environment))
    for more in ({}, {"CI": "true", "COLUMNS": "20"}):
        asked = subprocess.run(argv, env=environment | more, capture_output=True, text=True)
        said = asked.stdout + asked.stderr
        assert "\x1b" not in said and "Traceback" not in said
        assert set(said.split()) == set(wide.split())
