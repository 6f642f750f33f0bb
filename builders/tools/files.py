"""Folders and files that change in one step, and contents that are programs."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

#: A file on its way; its lock is held while its run lives.
PART = ".nokmem-"
AT_FDCWD = -100
RENAME_EXCHANGE = 2


class Program(bytes):
    """The content of a file that may be executed."""


def exchange(left: Path, right: Path) -> None:
    """Swap two folders in one step (renameat2, Linux 3.15 and later)."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        if renameat2(AT_FDCWD, bytes(left), AT_FDCWD, bytes(right), RENAME_EXCHANGE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code), str(right))
    # Some C libraries and filesystems cannot exchange: two renames, and the earlier folder is
    # never deleted before the new one is in place.
    aside = right.with_name(f"{left.name}.old")
    right.rename(aside)
    left.rename(right)
    aside.rename(left)


@contextmanager
def part(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A file with a name of its own, by which nothing is left of it in the end."""
    handle, name = tempfile.mkstemp(prefix=PART, dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file, Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def finish(file: BinaryIO, mode: int) -> None:
    """See to it that all of a part is on the disk, with these rights."""
    file.flush()
    os.fchmod(file.fileno(), mode)
    os.fsync(file.fileno())


def sweep(folder: Path) -> None:
    """Remove the parts that killed runs left."""
    for path in folder.glob(f"{PART}*"):
        with suppress(OSError), path.open("rb") as left:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
