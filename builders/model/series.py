"""Patch series: which mails of a folder serve which releases, in what order.

A series folder has a folder for each component (kubernetes, runc) with git format-patch mails and
a series.toml that lists them all:

    [[patches]]
    file = "0001-what-it-does.patch"
    from = "v1.10.0"                    # the first and the last release that it serves
    until = "v1.13.12"
    reason = "why it is there"
    evidence = "where that can be read again"
    brings = "nokmem"                   # a build tag, or ADOPTION; optional
    revision = 1                        # with ADOPTION: the N of the build's id

`file` may also be a folder: whatever is in it is added to the tree at that place. Such a folder
becomes a mail that adds its files, so that all that follows knows mails alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from builders.errors import FactsError
from builders.model.reading import checked, text

SERIES = "series.toml"
MAIL = re.compile(rb"From [0-9a-f]{40} .*\n")
#: What the patches bring that let a kubelet take over running containers.
ADOPTION = "adoption"
HEADERS = (b"From: ", b"Date: ", b"Subject: ")
SUBJECT = re.compile(r"^Subject: (?:\[PATCH[^]]*\] )?(.+(?:\n .+)*)$", re.M)


@dataclass(frozen=True)
class Patch:
    """One mail. `serves` are releases of the component; `brings` a build tag,
    ADOPTION or ""; `own` says that it is the user's and not the project's."""

    component: str
    name: str
    sha256: str
    subject: str
    reason: str
    evidence: str
    serves: tuple[str, ...]
    brings: str
    revision: int
    own: bool
    body: bytes = field(repr=False)


def load_series(
    folder: Path, known: Mapping[str, tuple[str, ...]], *, own: bool = False
) -> tuple[Patch, ...]:
    """All patches below `folder`, in order; `known` has the releases of each component.

    FactsError for a file that no series lists, a listed file that is not there, a range that
    serves nothing, or a file that is no mail.
    """
    if not folder.is_dir():
        raise FactsError(
            "there is no such folder of patches",
            place=str(folder),
            next_step=f"give a folder that has {' or '.join(known)} with a {SERIES} in it",
        )
    strange = sorted(
        path.name for path in folder.iterdir() if path.name not in known or not path.is_dir()
    )
    if strange:
        raise FactsError(
            f"not a component: {', '.join(strange)}",
            place=str(folder),
            next_step=f"name the folders {' and '.join(known)}",
        )
    found: list[Patch] = []
    for component in known:
        path = folder / component
        if path.is_dir():
            found += checked(path / SERIES, partial(_series, path, known[component], own))
    return tuple(found)


def _series(
    folder: Path, known: tuple[str, ...], own: bool, data: Mapping[str, Any]
) -> list[Patch]:
    rows = data["patches"]
    listed = [row["file"] for row in rows]
    present = {path.name for path in folder.iterdir()} - {SERIES}
    if len(set(listed)) != len(listed) or set(listed) != present:
        odd = sorted(set(listed) ^ present) or sorted({n for n in listed if listed.count(n) > 1})
        raise ValueError(f"listed, or there, but not both and once: {', '.join(odd)}")
    return [_patch(row, folder, known, own) for row in rows]


def _patch(row: Mapping[str, Any], folder: Path, known: tuple[str, ...], own: bool) -> Patch:
    unknown = set(row) - {"file", "from", "until", "reason", "evidence", "brings", "revision"}
    if unknown:
        raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}")
    for key in ("from", "until"):
        if row[key] not in known:
            raise ValueError(f"{key} of {row['file']} is no known release: {row[key]!r}")
    first, last = known.index(row["from"]), known.index(row["until"])
    if first > last:
        raise ValueError(f"{row['file']} serves nothing: {row['from']} is after {row['until']}")
    path = folder / row["file"]
    if path.is_dir():
        body = _adding(path, text(row, "reason"))
    elif path.is_file():
        body = path.read_bytes()
    else:
        raise ValueError(f"{row['file']} is neither a file nor a folder")
    subject = SUBJECT.search(body.decode(errors="replace"))
    if not _is_mail(body) or subject is None:
        raise ValueError(f"{row['file']} is not a mail as git format-patch writes it")
    return Patch(
        component=folder.name,
        name=row["file"],
        sha256=hashlib.sha256(body).hexdigest(),
        subject=subject[1].replace("\n", ""),
        reason=text(row, "reason"),
        evidence=text(row, "evidence"),
        serves=known[first : last + 1],
        brings=text(row, "brings") if "brings" in row else "",
        revision=int(row.get("revision", 0)),
        own=own,
        body=body,
    )


def _is_mail(body: bytes) -> bool:
    """Whether it begins with the line that format-patch puts first, then its headers in order."""
    first, *rest = body.partition(b"\n\n")[0].splitlines(keepends=True) or [b""]
    named = [line for line in rest if line.startswith(HEADERS)]
    return MAIL.fullmatch(first) is not None and [
        next(header for header in HEADERS if line.startswith(header)) for line in named
    ] == list(HEADERS)


def _adding(folder: Path, subject: str) -> bytes:
    """The mail that adds every file below a folder, in order of their paths."""
    parts = [
        "From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n"
        "From: nokmem <nokmem@localhost>\n"
        "Date: Sat, 1 Jan 2000 00:00:00 +0000\n"
        f"Subject: [PATCH] {subject}\n\n---\n"
    ]
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise ValueError(f"{folder.name} has no file to add")
    for path in paths:
        name = path.relative_to(folder).as_posix()
        content = path.read_text(encoding="utf-8")
        if not content.endswith("\n"):
            raise ValueError(f"{path} does not end with a line")
        lines = content[:-1].split("\n")
        parts.append(
            f"diff --git a/{name} b/{name}\nnew file mode 100644\n--- /dev/null\n+++ b/{name}\n"
            f"@@ -0,0 +1,{len(lines)} @@\n" + "".join(f"+{line}\n" for line in lines)
        )
    return "".join([*parts, "-- \nnokmem\n"]).encode()
