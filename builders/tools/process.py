"""The one seam through which programs are started.

Every program gets a rebuilt environment, a closed stdin unless one is given, and a process
group of its own that is killed if the caller is interrupted.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from builders.errors import MachineError

OnLine = Callable[[str], None]

#: What a program may expect to find in its environment; nothing else is inherited.
BASE_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}
TAIL_LINES = 40

#: program -> (Debian and Ubuntu package, EL package)
PACKAGES = {
    "apt-get": ("apt", "apt"),
    "chroot": ("coreutils", "coreutils"),
    "git": ("git", "git"),
    "gpgv": ("gpgv", "gnupg2"),
    "mount": ("mount", "util-linux"),
    "newgidmap": ("uidmap", "shadow-utils"),
    "newuidmap": ("uidmap", "shadow-utils"),
    "taskset": ("util-linux", "util-linux"),
    "setpriv": ("util-linux", "util-linux"),
    "shellcheck": ("shellcheck", "ShellCheck"),
    "tar": ("tar", "tar"),
    "unshare": ("util-linux", "util-linux"),
}


@dataclass(frozen=True)
class Result:
    """How a program ended: its words, its status and the last lines it printed."""

    argv: tuple[str, ...]
    exit_code: int
    tail: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    @property
    def command(self) -> str:
        """The command, quoted for pasting into a shell."""
        return shlex.join(self.argv)


def install_hint(program: str) -> str:
    """The command that installs `program` on Debian, Ubuntu and EL."""
    debian, el = PACKAGES.get(program, (program, program))
    return f"apt-get install {debian}   (Debian, Ubuntu)   |   dnf install {el}   (EL)"


def find(program: str) -> str | None:
    """The absolute path of `program` on the fixed search path, or None."""
    return shutil.which(program, path=BASE_ENVIRONMENT["PATH"])


def require(program: str, purpose: str) -> str:
    """The absolute path of `program`; MachineError naming the package that has it if absent."""
    path = find(program)
    if path is None:
        raise MachineError(
            f"{program} is not installed; it is needed {purpose}",
            place=f"searched {BASE_ENVIRONMENT['PATH']}",
            next_step=install_hint(program),
        )
    return path


def run(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    on_line: OnLine | None = None,
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    timeout: float | None = None,
    on_start: Callable[[Callable[[], None]], object] | None = None,
) -> Result:
    """Run a program to its end.

    `on_start` is given a function that kills it, for use from another thread.

    Output goes line by line to `on_line`; where `stdout` is a file, it takes stdout untouched
    and only stderr is read as lines. A timeout (seconds) kills the group and counts as exit
    code 124, as timeout(1) has it; a signal's number counts from 128, as sh has it.
    """
    words = tuple(argv)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    process = subprocess.Popen(
        words,
        stdin=stdin if stdin is not None else subprocess.DEVNULL,
        stdout=stdout if stdout is not None else subprocess.PIPE,
        stderr=subprocess.PIPE if stdout is not None else subprocess.STDOUT,
        env={**BASE_ENVIRONMENT, **(environment or {})},
        start_new_session=True,
    )
    if on_start:
        on_start(partial(_kill_group, process))
    stream = process.stderr if stdout is not None else process.stdout
    assert stream is not None
    try:
        if timeout is not None:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                return Result(words, 124, (f"no answer within {timeout:g} s",))
            for line in (out or err or b"").decode(errors="replace").splitlines():
                tail.append(line)
                if on_line:
                    on_line(line)
        else:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip("\r\n")
                tail.append(line)
                if on_line:
                    on_line(line)
        process.wait()
    finally:
        _kill_group(process)
        stream.close()
    code = process.returncode
    return Result(words, code if code >= 0 else 128 - code, tuple(tail))


def capture(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> tuple[Result, str]:
    """Run a short program and return its whole output (stdout and stderr together)."""
    lines: list[str] = []
    result = run(argv, environment=environment, on_line=lines.append, timeout=timeout)
    return result, "\n".join(lines)


def attached(argv: Sequence[str], *, cwd: Path) -> int:
    """Run a developer's tool on this very terminal, with its environment; the exit code."""
    return subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, check=False).returncode


def end_sessions() -> None:
    """Kill each program that was started from here in a session of its own, and all in there."""
    while True:
        rows = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, parent, _, session = entry.read_text().rpartition(")")[2].split()[:4]
                rows.append((int(entry.parent.name), state, int(parent), int(session)))
        heads = {number for number, _, parent, _ in rows if parent == os.getpid()}
        living = [number for number, state, _, head in rows if head in heads and state != "Z"]
        if not living:
            return
        for number in living:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.01)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
