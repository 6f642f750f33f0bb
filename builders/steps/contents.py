"""Cache -> rows: what is kept, how large it is, whether today's releases still need it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from builders.tools.builder import Builder, Kept
from builders.tools.cache import Cache, size_of


@dataclass(frozen=True)
class Row:
    """One kept thing: a verified file, a git store, or what a builder keeps. `size` in bytes."""

    kind: str
    name: str
    size: int
    needed: bool
    kept: tuple[Builder, Kept] | None = None


def rows(
    cache: Cache, needed_files: set[str], needed_keys: set[str], builders: Iterable[Builder]
) -> tuple[Row, ...]:
    """Everything kept, files first. What belongs to no toolchain, such as what a killed run
    left, is not needed."""
    found = [
        Row("file", path.name, path.stat().st_size, path.name in needed_files)
        for path in cache.files()
    ]
    found += [Row("git", path.name, size_of(path), True) for path in cache.repositories()]
    for builder in builders:
        for kept in builder.inventory():
            needed = any(key.startswith(kept.key) for key in needed_keys) if kept.key else False
            found.append(Row(kept.kind, kept.name, kept.size, needed, (builder, kept)))
    return tuple(found)


def remove(doomed: Iterable[Row], cache: Cache) -> tuple[Row, ...]:
    """Remove rows; returns those that went. What an engine holds in use stays."""
    gone = []
    for row in doomed:
        if row.kind == "file":
            cache.file(row.name).unlink(missing_ok=True)
            gone.append(row)
        elif row.kept is None:
            shutil.rmtree(cache.repository(row.name))
            gone.append(row)
        elif row.kept[0].discard(row.kept[1]):
            gone.append(row)
    return tuple(gone)
