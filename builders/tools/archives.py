"""Tar archives that are known by their sha256: bring one into the cache, look into it.

Nothing is unpacked here; that is left to tar in a builder, where it can reach nothing else.
"""

from __future__ import annotations

import bz2
import lzma
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from builders.errors import IntegrityError, MachineError, UnavailableError
from builders.tools.cache import Cache
from builders.tools.download import Downloader, OnBytes, shown
from builders.tools.files import Program

Say = Callable[[str], None]

#: What a builder need not have a program for, by the first bytes.
UNPACKERS = {b"BZh": bz2.BZ2File, b"\xfd7zXZ": lzma.LZMAFile}
COMMIT = re.compile("[0-9a-f]{40}")
#: Bytes; no file that is looked into is as large.
LARGEST = 64 << 20
#: What tarfile and what unpacks below it let out where the bytes lie.
BROKEN = (
    *(tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(ValueError, LookupError, ArithmeticError, RecursionError, MemoryError),
)


def obtain(
    cache: Cache,
    sha256: str,
    places: Iterable[str],
    downloader: Downloader,
    on_bytes: OnBytes,
    say: Say,
    size: int | None = None,
) -> None:
    """Leave a file in the cache, from the first of `places` (URLs and files) that gives it whole;
    `say` is told of each that does not.

    IntegrityError where a place has something else, UnavailableError where none has anything.
    """
    if cache.holds(sha256):
        return
    places, reasons = list(places), []
    for number, place in enumerate(places):
        try:
            with cache.keep(sha256, shown(place)) as write:
                if "://" in place:
                    downloader.fetch(place, write, size=size, on_bytes=on_bytes)
                else:
                    _read(Path(place), write)
        except UnavailableError as error:
            if len(places) == 1:
                raise
            reasons.append(f"{shown(place)}: {error.fact}")
            if number + 1 < len(places):
                say(f"{reasons[-1]}; asking {shown(places[number + 1])}")
            continue
        return
    raise UnavailableError(
        f"no place has the file with sha256 {sha256}",
        place=", ".join(map(shown, places)) or "no place is named",
        next_step="name a mirror or a file of it; docs/how-to.md says where",
        detail=tuple(reasons),
    )


def _read(source: Path, write: Callable[[bytes], None]) -> None:
    try:
        file = source.open("rb")
    except OSError as error:
        raise UnavailableError(
            error.strerror or str(error), place=str(source), next_step="name a file that is there"
        ) from error
    with file:
        while chunk := file.read(1 << 20):
            write(chunk)


def commit(archive: Path) -> str:
    """What `git archive` says that the tar was made of, "" where nothing says so."""
    with _opened(archive) as tar:
        comment = str(tar.pax_headers.get("comment", ""))
    return comment if COMMIT.fullmatch(comment) else ""


def strip(archive: Path) -> int:
    """How many leading folders tar has to take off: the one that everything is below, and the
    `./` before it. The archive is read to its end: only there its layout is known.

    IntegrityError where a member would be written elsewhere, or is no file, folder or link.
    """
    with _opened(archive) as tar:
        names = [name for name in _harmless(archive, members(tar)) if name != "."]
    plain = [name.removeprefix("./") for name in names]
    if len({name.partition("/")[0] for name in plain}) != 1 or not any("/" in n for n in plain):
        return 0
    return 2 if plain != names else 1


def _harmless(archive: Path, found: Iterable[tarfile.TarInfo]) -> Iterator[str]:
    """The names of the members. A symbolic link may lead anywhere, but nothing lies behind one."""
    links: set[str] = set()
    for member in found:
        parts = member.name.split("/")
        behind = {"/".join(parts[:count]) for count in range(1, len(parts))}
        wrong = (
            "an absolute path" if member.name.startswith("/")
            else "a path that leads out of its folder" if ".." in parts
            else "a device" if member.isdev()
            else "a link to a file outside" if member.islnk() and _outside(member.linkname)
            else "a path behind a link" if behind & links
            else ""
        )  # fmt: skip
        if wrong:
            raise IntegrityError(
                f"the archive is hostile, or damaged: {member.name!r} is {wrong}",
                place=str(archive),
                next_step="nothing of it was unpacked; look at where it comes from",
            )
        if member.issym():
            links.add(member.name)
        yield member.name


def _outside(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/")


def unpacked(archive: Path, destination: Path) -> Path:
    """The archive itself, or, where more than gzip is needed to read it, the tar that is in it."""
    with archive.open("rb") as file:
        magic = file.read(6)
    for begins, opener in UNPACKERS.items():
        if magic.startswith(begins):
            with opener(archive) as packed, destination.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
            return destination
    return archive


def read(archive: Path, strip: int, paths: Iterable[str]) -> dict[str, bytes | None]:
    """The content of plain files by their path, below `strip` leading folders; None where there
    is no such file, a Program where it may be executed."""
    found: dict[str, bytes | None] = dict.fromkeys(paths)
    with _opened(archive) as tar:
        for member in members(tar):
            name = _inside(member.name, strip)
            if name in found and member.isreg():
                if member.size > LARGEST:
                    raise tarfile.ReadError(f"{member.name!r} is {member.size} bytes long")
                content = tar.extractfile(member)
                kind = Program if member.mode & 0o100 else bytes
                found[name] = kind(content.read()) if content is not None else None
    return found


def links(archive: Path, strip: int, below: str) -> dict[str, str]:
    """Where the symbolic links below a folder lead, by their path; both without `strip` leading
    folders."""
    found = {}
    with _opened(archive) as tar:
        for member in members(tar):
            name = _inside(member.name, strip)
            if member.issym() and name.startswith(below):
                found[name] = os.path.normpath(f"{os.path.dirname(name)}/{member.linkname}")
    return found


def _inside(name: str, strip: int) -> str:
    """A member's name without so many leading folders."""
    return "/".join(name.lstrip("/").split("/")[strip:]).removeprefix("./")


def members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members, each behind the one before: a size below zero would lead back for ever."""
    at = -1
    for member in tar:
        if member.offset <= at or member.size < 0:
            raise tarfile.ReadError("a member has a size below zero")
        at = member.offset
        yield member


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(archive) as tar:
            yield tar
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise MachineError(
                f"cannot be read: {error.strerror}",
                place=str(archive),
                next_step="look at the disk",
            ) from error
        raise IntegrityError(
            "this is no tar archive, or it is damaged",
            place=str(archive),
            next_step="give a .tar, .tar.gz, .tar.bz2 or .tar.xz with the whole source",
        ) from error
