"""The embedded builder: a tree entered by unshare and chroot, without any engine.

As root it uses mount, pid, ipc and network namespaces; for anyone else a user namespace on
top, in which the user's subordinate ids (/etc/subuid) stand for the ids of the tree.
"""

from __future__ import annotations

import dataclasses
import os
import pwd
import re
import shlex
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from builders.errors import MachineError, ToolchainError, UnavailableError, UsageError
from builders.tools import memory, process
from builders.tools.builder import BUILDER_ID, WORK, Kept, Limits, Recipe
from builders.tools.cache import Cache, size_of, surely
from builders.tools.process import OnLine, Result

ENTER = Path(__file__).with_name("rootfs-enter.sh")
PROGRAMS = ("unshare", "mount", "chroot", "tar")
USER_PROGRAMS = ("newuidmap", "newgidmap")
COMPLETE = ".complete"
#: What unshare (util-linux 2.38) says, and ends with 1, where what it started was killed; and sh's
#: exit code of that.
CHILD_KILLED, KILLED = "unshare: sigprocmask unblock failed", 137


def why_not() -> MachineError | None:
    """None where this machine can enter a tree, else what is missing and how to get it."""
    try:
        for program in PROGRAMS + (() if os.geteuid() == 0 else USER_PROGRAMS):
            process.require(program, "by the embedded builder")
        if os.geteuid() != 0:
            _check_subordinate_ids()
        with tempfile.TemporaryDirectory(prefix="nokmem-probe-") as folder:
            result, text = process.capture(
                [*_unshare(), "mount", "-t", "proc", "proc", folder], timeout=20
            )
    except MachineError as error:
        return error
    if not result.ok:
        reason = text.strip().rpartition("\n")[2] or "no reason given"
        return MachineError(
            f"namespaces cannot be made: {reason}",
            place=result.command,
            next_step="run as root, or use an engine (--builder container); in a container, it "
            "must be allowed to unshare and mount",
        )
    return None


class Rootfs:
    """Trees and sessions below one cache folder."""

    name = "rootfs"

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        problem = why_not()
        if problem is not None:
            raise problem

    def close(self) -> None:
        """Nothing is held open."""

    def has(self, key: str) -> bool:
        return (self._cache.tree(key) / COMPLETE).exists()

    def answer(self, base: str) -> str | None:
        del base
        return "the embedded builder makes nothing of images"

    def make(self, key: str, recipe: Recipe, on_line: OnLine) -> None:
        seed = recipe.files.get(recipe.seed)
        if not isinstance(seed, Path):
            raise UnavailableError(
                "this toolchain begins with an image, of which the embedded builder makes nothing",
                place=recipe.base,
                next_step="use --builder container, or --toolchain debian",
            )
        tree = self._cache.tree(key)
        with self._cache.run_folder() as scratch:
            try:
                root = scratch / "root"
                root.mkdir()
                root.chmod(0o755)  # whatever the umask: others compile below it
                self._outside(
                    ["tar", "-xpf", str(seed), "--numeric-owner", "-C", str(root)], on_line
                )
                result = process.run(
                    [
                        *self._enter(root, None, None),
                        *(f"BUILDER_ID={BUILDER_ID}", "/bin/sh", "/nokmem/bootstrap.sh"),
                    ],
                    on_line=on_line,
                )
                if not result.ok:
                    raise ToolchainError(
                        f"the tree's second stage failed with exit code {result.exit_code}",
                        place=str(recipe.dockerfile.with_name("bootstrap.sh")),
                        next_step="read the lines above; `./run doctor` checks the machine",
                        detail=result.tail,
                    )
                self._outside(["touch", str(root / COMPLETE)], on_line)
                remove(tree)
                tree.parent.mkdir(parents=True, exist_ok=True)
                root.rename(tree)
            finally:
                surely(partial(remove, scratch))

    def memory(self) -> int | None:
        return memory.available()

    def admit(self, limits: Limits) -> None:
        if limits.memory is not None:
            raise UsageError(
                "the embedded builder cannot limit memory",
                place="--memory",
                next_step="use --builder container, or set the limit around the whole command "
                "(systemd-run --scope -p MemoryMax=...)",
            )
        _on_cores(limits.cpus)

    @contextmanager
    def start(self, key: str, limits: Limits, *, keep: bool = False) -> Iterator[RootfsSession]:
        self.admit(limits)
        cores = _on_cores(limits.cpus)
        with self._cache.run_folder() as scratch:
            try:
                work, go = scratch / "work", self._cache.go(key)
                go.mkdir(parents=True, exist_ok=True)
                work.mkdir()
                owner = f"{BUILDER_ID}:{BUILDER_ID}"
                self._outside(["chown", owner, str(work), str(go)], lambda _: None)
                prefix = [*cores, *self._enter(self._cache.tree(key), work, go)]
                yield RootfsSession(prefix, str(scratch))
            finally:
                if not keep:
                    surely(partial(remove, scratch))

    def inventory(self) -> list[Kept]:
        found = [
            Kept(kind, path.name, size_of(path), path.name)
            for kind, folder in (("tree", "trees"), ("go", "go"))
            for path in sorted((self._cache.root / folder).glob("*"))
        ]
        runs = [Kept("run", path.name, size_of(path), "") for path in self._cache.abandoned()]
        return found + runs

    def discard(self, kept: Kept) -> bool:
        folders = {"tree": "trees", "go": "go", "run": "runs"}
        path = self._cache.root / folders[kept.kind] / kept.name
        _end_commands_in(path)
        remove(path)
        return True

    def sweep(self) -> int:
        return sweep(self._cache)

    def _outside(self, argv: Sequence[str], on_line: OnLine) -> None:
        """Run one of the machine's programs with the ids of the tree."""
        result = process.run([*_unshare(), *argv], on_line=on_line)
        if not result.ok:
            raise ToolchainError(
                f"{argv[0]} failed with exit code {result.exit_code}",
                place=result.command,
                next_step="look at free disk space and the cache folder's owner",
                detail=result.tail,
            )

    def _enter(self, tree: Path, work: Path | None, go: Path | None) -> list[str]:
        """The words before a command that runs inside; assignments may follow."""
        shell = process.require("sh", "to enter a tree")
        words = [*_unshare(), shell, str(ENTER), str(tree)]
        return words + ([str(work), str(go), str(BUILDER_ID)] if work and go else ["", "", "0"])


class RootfsSession:
    """A work folder bound into a read-only tree. Each command gets fresh namespaces."""

    def __init__(self, prefix: Sequence[str], disk: str) -> None:
        self._prefix = list(prefix)
        self.disk = disk
        self._kills: list[Callable[[], None]] = []
        self._stopped = False
        self.entry = shlex.join([*prefix, "env", "-C", WORK, "bash"])

    def put(self, source: Path | bytes, destination: str) -> None:
        self._run(["install", "-d", os.path.dirname(destination)])
        with tempfile.TemporaryFile() if isinstance(source, bytes) else source.open("rb") as file:
            if isinstance(source, bytes):
                file.write(source)
                file.seek(0)
            words = [*self._prefix, "dd", "bs=1M", "status=none", f"of={destination}"]
            result = process.run(words, stdin=file)
        self._raise_for(result)

    def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: str = WORK,
        on_line: OnLine | None = None,
    ) -> Result:
        pairs = [f"{name}={value}" for name, value in environment.items()]
        words = [*self._prefix, "env", "-i", "-C", folder, *pairs, *argv]
        if self._stopped:
            raise InterruptedError("this room is closed")
        result = process.run(words, on_line=on_line, on_start=self._started)
        killed = any(line.startswith(CHILD_KILLED) for line in result.tail[-1:])
        return dataclasses.replace(result, exit_code=KILLED) if killed else result

    def _started(self, kill: Callable[[], None]) -> None:
        self._kills.append(kill)
        if self._stopped:  # it was, since that was asked
            kill()

    def stop(self) -> None:
        self._stopped = True
        for kill in self._kills:
            kill()

    def get(self, path: str, destination: Path) -> None:
        with destination.open("wb") as file:
            result = process.run([*self._prefix, "cat", path], stdout=file)
        self._raise_for(result)

    def _run(self, argv: Sequence[str]) -> None:
        self._raise_for(process.run([*self._prefix, *argv]))

    @staticmethod
    def _raise_for(result: Result) -> None:
        if not result.ok:
            raise MachineError(
                f"a file could not travel: {' '.join(result.tail[-1:])}",
                place=result.command,
                next_step="look at free disk space",
            )


def sweep(cache: Cache) -> int:
    """Remove what killed runs left in a cache, of whichever builder; the count of their folders."""
    count = 0
    for folder in cache.abandoned():
        _end_commands_in(folder)
        remove(folder)
        count += 1
    return count


def remove(path: Path) -> None:
    """Remove a folder, whichever subordinate ids own what is in it."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists() and os.geteuid() != 0:
        process.run([*_unshare(), "rm", "-rf", "--one-file-system", str(path)])
    if path.exists():
        raise MachineError(
            "this folder cannot be removed",
            place=str(path),
            next_step="look at the owner and the rights of what is in it",
        )


def _end_commands_in(folder: Path) -> None:
    """Kill what a killed run left running: each command's unshare names the folder, and leads
    the process group of all it started."""
    mark = f"{folder}/".encode()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = entry.read_bytes().split(b"\0")
            if words[0] == b"unshare" and any(word.startswith(mark) for word in words):
                os.killpg(int(entry.parent.name), signal.SIGKILL)


def _on_cores(cpus: float | None) -> list[str]:
    """The words that keep a command to so many cores; UsageError for a fraction."""
    if cpus is None:
        return []
    if cpus != int(cpus):
        raise UsageError(
            f"the embedded builder cannot give {cpus:g} cores",
            place="--cpus",
            next_step="write a whole number, or use --builder container",
        )
    chosen = sorted(os.sched_getaffinity(0))[: int(cpus)]
    return [process.require("taskset", "to limit cores"), "-c", ",".join(map(str, chosen))]


def _unshare() -> list[str]:
    words = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--net", "--fork", "--kill-child"]
    if os.geteuid() != 0:
        words += ["--user", "--map-root-user", "--map-auto"]
    return words


def _check_subordinate_ids() -> None:
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    for path in (Path("/etc/subuid"), Path("/etc/subgid")):
        text = path.read_text() if path.is_file() else ""
        match = re.search(rf"^(?:{re.escape(user)}|{os.geteuid()}):\d+:(\d+)$", text, re.M)
        if match is None or int(match[1]) <= BUILDER_ID:
            raise MachineError(
                f"{user} has no {BUILDER_ID + 1} subordinate ids",
                place=str(path),
                next_step=f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
            )
