"""A folder of this machine, or one that is mounted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builders.errors import MachineError, PublishError
from builders.tools import files
from builders.tools.cache import CHUNK, sha256_of
from builders.tools.targets import Body, Item, OnBytes


class Folder:
    def __init__(self, root: Path) -> None:
        self._root = root
        self.place = str(root)

    def find(self, item: Item) -> str | None:
        path = self._root / item.place
        with _said(path):
            if not self._root.is_dir():
                raise PublishError(
                    "there is no such folder", place=self.place, next_step="make it, or mount it"
                )
            if not os.path.lexists(path):
                return None
            if path.is_symlink() or not path.is_file():
                raise PublishError(
                    "what stands there is not a plain file",
                    place=str(path),
                    next_step="look at it, and move it away",
                )
            return sha256_of(path)

    def put(self, item: Item, on_bytes: OnBytes) -> None:
        path = self._root / item.place
        with _said(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            files.sweep(path.parent)
            with Body(item.path, on_bytes) as body, files.part(path.parent) as (file, part):
                shutil.copyfileobj(body, file, CHUNK)
                files.finish(file, 0o644 | item.path.stat().st_mode & 0o111)
                if sha256_of(part) == item.sha256:  # else it is not there, as it will be seen
                    part.replace(path)

    def finish(self, items: list[Item]) -> bool:  # noqa: ARG002 -- each was seen once it was there
        return False

    def close(self) -> None:
        pass


@contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"the target cannot be read or written: {error.strerror}",
            place=str(path),
            next_step="make room there, or look at the owner and the rights of that place",
        ) from error
