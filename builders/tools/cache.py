"""The cache folder: files by content, trees by key, and locks that die with their holder.

files/<sha256>          verified files, named by what they are; .part-* are on their way
git/<component>.git     the pinned commits of a component, without history
trees/<key>/            toolchain trees of the embedded builder
go/<key>/               Go build caches of the embedded builder, one for each toolchain, and what
                        else is kept for the next room
runs/<id>/ + <id>.lock  scratch of running builds; a folder whose lock is free is rubbish
locks/<name>            advisory locks (flock), released by the kernel if a run is killed
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from builders.errors import BusyError, IntegrityError, MachineError

CHUNK = 1 << 20
#: What is below its root, as above.
FOLDERS = ("files", "git", "trees", "go", "runs", "locks")
#: The lock that builds share; a prune wants it alone.
IN_USE = "in-use"


def sha256_of(path: Path) -> str:
    """The hex sha256 of a file, read in constant memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Bytes on disk below `path`, links not followed, vanishing files passed over."""
    total = 0
    for folder, _, names in os.walk(path, onerror=lambda _: None):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


@contextmanager
def locked(file: IO[str], name: str, *, wait: bool = True, shared: bool = False) -> Iterator[None]:
    """Hold the lock of an open file, exclusive unless `shared`; `name` is for the BusyError."""
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, kind | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise BusyError(
            f"another run is working on {name}",
            place=str(file.name),
            next_step=f"wait for it to end, or look for it with: fuser {file.name}",
        ) from error
    yield


def surely(clean: Callable[[], object]) -> None:
    """Clean up, from the beginning where a signal comes in the middle: only the first one does."""
    try:
        clean()
    except KeyboardInterrupt:
        clean()
        raise


class Cache:
    """One cache folder, made on first use and owned by whoever made it."""

    @classmethod
    def default(cls, environment: Mapping[str, str]) -> Cache:
        """The user's cache: NOKMEM_CACHE, else nokmem below XDG_CACHE_HOME or ~/.cache."""
        if environment.get("NOKMEM_CACHE"):
            return cls(Path(environment["NOKMEM_CACHE"]).absolute())
        base = Path(
            environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", ""), ".cache")
        )
        if not base.is_absolute():
            raise MachineError(
                "there is no home folder to keep a cache in",
                place="HOME",
                next_step="set NOKMEM_CACHE to a folder of your own",
            )
        return cls(Path(base, "nokmem"))

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o755)
            self._refuse_others()
            probe = root / f".probe-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise MachineError(
                f"the cache cannot be written: {error.strerror}",
                place=str(root),
                next_step="set NOKMEM_CACHE to a folder of your own",
            ) from error

    def _refuse_others(self) -> None:
        """MachineError for a cache that somebody else owns: what they wrote would be run here, and
        what root wrote there would be in their way."""
        for path in (self.root, *(self.root / name for name in FOLDERS)):
            with suppress(FileNotFoundError):
                owner = path.stat().st_uid
                if owner != os.geteuid():
                    raise MachineError(
                        f"the cache is somebody else's: uid {owner} owns this, not {os.geteuid()}",
                        place=str(path),
                        next_step="run as its owner, or set NOKMEM_CACHE to a folder of your own",
                    )

    @property
    def identity(self) -> str:
        """A random name of this cache, by which things kept elsewhere are known as its own."""
        path = self.root / "identity"
        with self.lock("identity"):
            if not path.exists():
                path.write_text(secrets.token_hex(8))
            return path.read_text()

    def file(self, sha256: str) -> Path:
        """Where the file with this content is, or would be."""
        return self.root / "files" / sha256

    def files(self) -> list[Path]:
        """Every whole file in the cache."""
        return sorted(p for p in (self.root / "files").glob("*") if not p.name.startswith("."))

    def repository(self, name: str) -> Path:
        """Where the git store of that name is, or would be."""
        return self.root / "git" / name

    def repositories(self) -> list[Path]:
        """Every git store in the cache."""
        return sorted((self.root / "git").glob("*.git"))

    def holds(self, sha256: str) -> bool:
        """Whether the file is here and still has that content; a damaged one is removed."""
        path = self.file(sha256)
        if not path.is_file():
            return False
        if sha256_of(path) == sha256:
            return True
        path.unlink(missing_ok=True)
        return False

    @contextmanager
    def keep(self, sha256: str, place: str) -> Iterator[Callable[[bytes], None]]:
        """Take in what is written, under its name once it is whole and has that content.

        IntegrityError, which names the `place` that it came from, where it has another.
        """
        digest = hashlib.sha256()
        try:
            with self._part() as part:
                with part.open("wb") as file:

                    def write(chunk: bytes) -> None:
                        file.write(chunk)
                        digest.update(chunk)

                    yield write
                if digest.hexdigest() != sha256:
                    raise IntegrityError(
                        f"wrong content: expected sha256 {sha256}, got {digest.hexdigest()}",
                        place=place,
                        next_step="what is there is not what was pinned: try another place; do "
                        "not change the pin to fit",
                    )
                part.chmod(0o644)
                part.replace(self.file(sha256))
        except OSError as error:
            raise MachineError(
                f"the file cannot be kept: {error.strerror}",
                place=str(self.file(sha256).parent),
                next_step="free some room there, or name another cache with NOKMEM_CACHE",
            ) from error

    def adopt(self, sha256: str, path: Path) -> None:
        """Take in a file of a run folder whose content has just been seen to be that."""
        place = self.file(sha256)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)

    @contextmanager
    def _part(self) -> Iterator[Path]:
        """A private file on its way, locked while its run lives."""
        folder = self.root / "files"
        folder.mkdir(parents=True, exist_ok=True)
        with self.lock("parts"):
            handle, name = tempfile.mkstemp(prefix=".part-", dir=folder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)
            os.close(handle)

    def sweep(self) -> None:
        """Remove what killed runs left on its way; what a living run writes stays."""
        with self.lock("parts"):
            for path in (self.root / "files").glob(".part-*"):
                with suppress(OSError), path.open("rb") as part:
                    fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()

    def tree(self, key: str) -> Path:
        """Where the tree of a toolchain is, or would be."""
        return self._private("trees") / key

    def go(self, key: str) -> Path:
        """Where Go's build cache for a toolchain is, or would be."""
        return self._private("go") / key

    def _private(self, name: str) -> Path:
        """A folder that nobody else may enter: trees hold old setuid programs."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.stat().st_mode & 0o077:
            path.chmod(0o700)
        return path

    @contextmanager
    def lock(self, name: str, *, wait: bool = True, shared: bool = False) -> Iterator[None]:
        """Hold a lock, exclusive unless `shared`; BusyError if it is taken and `wait` is false."""
        path = self.root / "locks" / re.sub(r"[^\w.-]", "_", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file, locked(file, name, wait=wait, shared=shared):
            yield

    @contextmanager
    def run_folder(self) -> Iterator[Path]:
        """A scratch folder; it outlives a killed run only until `abandoned` names it."""
        identity = secrets.token_hex(6)
        path = self._private("runs") / identity
        lock = path.with_suffix(".lock")
        with self._run_lock(lock):
            path.mkdir(mode=0o755)
            try:
                yield path
            finally:
                if not path.exists():
                    lock.unlink(missing_ok=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A run folder that goes at the end, with all that is in it."""
        with self.run_folder() as path:
            try:
                yield path
            finally:
                surely(partial(shutil.rmtree, path))

    @contextmanager
    def _run_lock(self, path: Path) -> Iterator[None]:
        """Make and hold a run's lock; a sweep may have taken the file away in between."""
        while True:
            with path.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                    yield
                    return

    def is_running(self, run: str) -> bool:
        """Whether the run of that folder name still lives."""
        try:
            with (self.root / "runs" / f"{run}.lock").open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True

    def abandoned(self) -> Iterator[Path]:
        """Run folders whose run is gone. The lock is held while the caller removes one."""
        for lock in sorted((self.root / "runs").glob("*.lock")):
            with suppress(OSError), lock.open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                folder = lock.with_suffix("")
                if folder.exists():
                    yield folder
                if not folder.exists():
                    lock.unlink(missing_ok=True)
