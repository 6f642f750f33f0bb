"""What every builder can do: make a toolchain once, then start, put, run, get, close.

A toolchain is known by its key. Files travel by stream, so a builder may be on another
machine. While a command runs there is no network, and it runs as BUILDER_ID.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from builders.tools.process import OnLine, Result

#: The user and group that compile; outside the ranges that distributions give to people,
#: services and systemd.
BUILDER_ID = 61000
#: Where a session works, and where Go's build cache is, inside every builder.
WORK = "/build"
GO_CACHE = "/cache/go"


@dataclass(frozen=True)
class Limits:
    """Bounds of a session: `memory` in bytes, `cpus` as a number of cores; None is no bound."""

    memory: int | None = None
    cpus: float | None = None


@dataclass(frozen=True)
class Recipe:
    """How a toolchain is made: a Dockerfile, the `files` beside it by name, its `arguments`.

    `seed`, one of the files, is the tree that all begins with; where it is "", an image does:
    `base`, by digest, and `network` says whether making it needs one.
    """

    dockerfile: Path
    files: Mapping[str, Path | bytes]
    arguments: Mapping[str, str] = field(default_factory=dict)
    seed: str = ""
    base: str = ""
    network: bool = False


@dataclass(frozen=True)
class Kept:
    """A thing that a builder keeps. `key` is the toolchain's, or its beginning, or "" where it
    belongs to none; `size` in bytes."""

    kind: str
    name: str
    size: int
    key: str


class Session(Protocol):
    """One build's room: empty at the start, gone at the end.

    `entry` is the command with which a person gets into a room that was kept, `disk` says where
    what is written in it lies.
    """

    entry: str
    disk: str

    def put(self, source: Path | bytes, destination: str) -> None:
        """Write a file to an absolute path inside; its folder is made."""

    def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: str = WORK,
        on_line: OnLine | None = None,
    ) -> Result:
        """Run a command to its end, stdout and stderr going to `on_line` line by line."""

    def stop(self) -> None:
        """End whatever runs here, from another thread; the room is of no use after it."""

    def get(self, path: str, destination: Path) -> None:
        """Write the file at `path` inside to `destination`."""


#: Runs its words on what others leave of the cores, also where the kernel weighs by session.
BEHIND = ("sh", "-c", '{ echo 19 >/proc/self/autogroup; } 2>/dev/null; exec nice -n 19 "$@"', "sh")


class Background:
    """The same room; what runs by this hand yields to what runs by others."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.entry, self.disk = session.entry, session.disk
        self.put, self.get, self.stop = session.put, session.get, session.stop

    def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: str = WORK,
        on_line: OnLine | None = None,
    ) -> Result:
        return self._session.run(
            [*BEHIND, *argv], environment=environment, folder=folder, on_line=on_line
        )


class Builder(Protocol):
    """A place where toolchains live and sessions run."""

    name: str

    def close(self) -> None:
        """Let go of the engine, if there is one."""

    def sweep(self) -> int:
        """Remove what killed runs left behind; how many there were."""

    def inventory(self) -> list[Kept]:
        """What is kept: toolchains, Go caches, and what killed runs left."""

    def discard(self, kept: Kept) -> bool:
        """Remove one thing of the inventory; False where it is in use."""

    def has(self, key: str) -> bool:
        """Whether the toolchain is there, whole."""

    def answer(self, base: str) -> str | None:
        """None where an image is at hand or its registry answers for it, else why not."""

    def make(self, key: str, recipe: Recipe, on_line: OnLine) -> None:
        """Make a toolchain. All or nothing."""

    def memory(self) -> int | None:
        """Bytes that a session here could take, None where nobody says."""

    def admit(self, limits: Limits) -> None:
        """UsageError for a limit that no session here could keep."""

    def start(
        self, key: str, limits: Limits, *, keep: bool = False
    ) -> AbstractContextManager[Session]:
        """A session on a toolchain, closed and cleaned up at the end unless `keep`."""
