"""Files -> a target: what is missing there is sent, in the order in which it may be seen.

Nothing is taken on trust: what stands there already and what has just arrived are both asked for
their hash. No file is replaced by another but an index, which says what else is there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from builders.errors import ProofError, PublishError
from builders.model.artifact import MANIFEST, SIGNATURE, SUMS
from builders.tools import yum
from builders.tools.cache import sha256_of
from builders.tools.targets import Item, PassingError, Target
from builders.tools.terminal import Terminal

#: Seconds before each further try.
WAITS = (1.0, 4.0, 16.0)
#: Of a dist folder, those which say that it is there, in their order.
LAST = ("", SUMS, SIGNATURE, MANIFEST)
#: What a repository holds, each sort after the ones that it names.
SORTS = tuple(
    map(re.compile, (
        r"packages/[^/]+\.rpm|RPM-GPG-KEY-[^/]+|[^/]+\.repo",
        r"repodata/(?!repomd\.xml)[^/]+",
        r"repodata/repomd\.xml\.asc",
        r"repodata/repomd\.xml",
    ))
)  # fmt: skip
#: The first of the sorts that change by nature.
INDEX = 2
#: What is in a repository's folder while somebody writes it, and after that.
LOCK = ".lock"
Found = TypeVar("Found")


@dataclass(frozen=True)
class Row:
    """What becomes of a file: to be "sent", "kept" because it is there, or "refused" because
    another is."""

    item: Item
    fate: str
    there: str | None


def dist(folder: Path, name: str) -> list[Item]:
    """The files of a dist folder, which are published in one called `name`."""
    paths = sorted(folder.iterdir(), key=lambda path: _rank(path.name))
    return [_item(path, path.name, folder=name) for path in paths]


def repository(folder: Path) -> list[Item]:
    """The files of a yum repository; ProofError where one is missing, changed or no part of it."""
    found = [p.relative_to(folder) for p in folder.rglob("*") if not _is_folder(p)]
    names = sorted(str(p) for p in found if str(p) != LOCK)
    ranks = {name: rank for name in names for rank, s in enumerate(SORTS) if s.fullmatch(name)}
    strange = [name for name in names if name not in ranks or (folder / name).is_symlink()]
    _refuse(strange, "no part of a repository", folder)
    _refuse([] if "repodata/repomd.xml" in names else ["repodata/repomd.xml"], "missing", folder)
    ordered = sorted(names, key=lambda name: (ranks[name], name))
    items = [_item(folder / n, n, index=ranks[n] >= INDEX) for n in ordered]
    there = {item.name: item.sha256 for item in items}
    listed = yum.listed(folder)
    _refuse(sorted(set(listed) - set(there)), "missing", folder)
    changed = sorted(name for name in listed if listed[name] != there[name])
    _refuse(changed, "not what the index says", folder)
    return items


def compare(items: list[Item], target: Target, on_line: Callable[[str], None]) -> list[Row]:
    """What would become of each file. Changes nothing there."""
    rows = []
    for item in items:
        on_line(item.place)
        there = _patiently(lambda item=item: target.find(item))  # type: ignore[misc]
        fate = "sent" if there is None else "kept" if there == item.sha256 else "refused"
        rows.append(Row(item, "sent" if fate == "refused" and item.index else fate, there))
    return rows


def refuse(rows: list[Row], target: Target) -> None:
    """PublishError where a file would take another one's place."""
    refused = [row for row in rows if row.fate == "refused"]
    if refused:
        count = "a file" if len(refused) == 1 else f"{len(refused)} files"
        raise PublishError(
            f"{count} of other content there already: {', '.join(r.item.name for r in refused)}",
            place=target.place,
            next_step="publish under another address, or have them removed there; nothing was sent",
            detail=tuple(
                f"{r.item.place}: there sha256 {r.there}, here {r.item.sha256}" for r in refused
            ),
        )


def send(rows: list[Row], target: Target, terminal: Terminal) -> bool:
    """Send what is to be sent, see it arrive, let it be seen; whether anything changed there."""
    for item in (row.item for row in rows if row.fate == "sent"):
        with terminal.phase(f"send {item.name}", "bytes") as phase:
            _send(item, target, lambda count: phase.step(amount=count))
    shown = _patiently(lambda: target.finish([row.item for row in rows]))
    return shown or any(row.fate == "sent" for row in rows)


def unsigned(items: list[Item]) -> list[str]:
    """The packages without a signature."""
    return [i.name for i in items if i.name.endswith(".rpm") and not yum.is_signed(i.path)]


def _send(item: Item, target: Target, on_bytes: Callable[[int], None]) -> None:
    def put() -> None:
        try:
            target.put(item, on_bytes)
        except PassingError:
            if target.find(item) != item.sha256:  # it may have arrived, and the answer was lost
                raise

    _patiently(put)
    arrived = _patiently(lambda: target.find(item))
    if arrived != item.sha256:
        raise PublishError(
            f"{item.name} did not arrive as it was sent: there is "
            + (f"sha256 {arrived}, here {item.sha256}" if arrived else "nothing by that name"),
            place=f"{target.place}: {item.place}",
            next_step="look at what stands between, remove the file there, then publish again",
        )


def _patiently(ask: Callable[[], Found]) -> Found:
    """The answer, asked for again where that may help."""
    for wait in WAITS:
        with suppress(PassingError):
            return ask()
        time.sleep(wait)
    return ask()


def _rank(name: str) -> tuple[int, str]:
    return (LAST.index(name) if name in LAST else 0, name)


def _item(path: Path, name: str, *, folder: str = "", index: bool = False) -> Item:
    return Item(folder, name, path, path.stat().st_size, sha256_of(path), index)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _refuse(names: list[str], what: str, folder: Path) -> None:
    if names:
        raise ProofError(
            f"{', '.join(names)}: {what}",
            place=str(folder),
            next_step="make the repository again, in a folder of its own",
        )
