"""Cache -> rows: what is kept, how large it is, whether today's releases still need it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builders.tools.cache import Cache, size_of
from builders.tools.container import ContainerBuilder
from builders.tools.rootfs import Rootfs

KEY_LENGTH = 16


@dataclass(frozen=True)
class Row:
    """One kept thing. `kind`: file, tree, go, run (in the cache folder), image, volume (in the
    engine). `size` in bytes."""

    kind: str
    name: str
    size: int
    needed: bool


def rows(
    cache: Cache,
    needed_files: set[str],
    needed_keys: set[str],
    builders: Sequence[ContainerBuilder | Rootfs],
) -> tuple[Row, ...]:
    """Everything kept, files first. Files in use count as one row each."""
    found = [
        Row("file", path.name, path.stat().st_size, path.name in needed_files)
        for path in _children(cache.root / "files")
    ]
    for kind, folder in (("tree", "trees"), ("go", "go")):
        found += [
            Row(kind, path.name, size_of(path), path.name in needed_keys)
            for path in _children(cache.root / folder)
        ]
    short_keys = {key[:KEY_LENGTH] for key in needed_keys}
    for builder in builders:
        if isinstance(builder, ContainerBuilder):
            found += [
                Row(kind, name, size, name[-KEY_LENGTH:] in short_keys)
                for kind, name, size in builder.inventory()
            ]
    return tuple(found)


def remove(
    doomed: Iterable[Row], cache: Cache, builders: Sequence[ContainerBuilder | Rootfs]
) -> None:
    """Remove rows, each by whoever holds it."""
    containers = [b for b in builders if isinstance(b, ContainerBuilder)]
    trees = [b for b in builders if isinstance(b, Rootfs)]
    folders = {"tree": "trees", "go": "go"}
    for row in doomed:
        if row.kind == "file":
            cache.file(row.name).unlink(missing_ok=True)
        elif row.kind in folders:
            for builder in trees:
                builder.discard(cache.root / folders[row.kind] / row.name)
        else:
            for engine in containers:
                engine.discard(row.kind, row.name)


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
