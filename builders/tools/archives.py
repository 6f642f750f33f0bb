"""Tar archives that are known by their sha256: bring one into the cache, look into it.

Nothing is unpacked here; that is left to tar in a builder, where it can reach nothing else.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from builders.errors import IntegrityError, MachineError, UnavailableError
from builders.tools.cache import Cache, sha256_of
from builders.tools.download import Downloader, OnBytes, redacted

#: Members of a tar that are enough to know how it is laid out.
LOOKED_AT = 100


def obtain(
    cache: Cache, sha256: str, places: Iterable[str], downloader: Downloader, on_bytes: OnBytes
) -> None:
    """Leave the archive in the cache, from the first of `places` (URLs and files) that has it.

    IntegrityError where a place has something else, UnavailableError where none has anything.
    """
    if cache.holds(sha256):
        return
    places, reasons = list(places), []
    for place in places:
        try:
            if "://" in place:
                downloader.fetch(place, cache.file(sha256), sha256=sha256, on_bytes=on_bytes)
            else:
                _copy(Path(place), cache.file(sha256), sha256)
        except UnavailableError as error:
            reasons.append(f"{error.place}: {error.fact}")
            continue
        return
    raise UnavailableError(
        f"no place has the archive with sha256 {sha256}",
        place=", ".join(redacted(p) if "://" in p else p for p in places) or "no place is named",
        next_step="name a mirror or a file of it; docs/how-to.md says where",
        detail=tuple(reasons),
    )


def _copy(source: Path, destination: Path, sha256: str) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = source.open("rb")
    except OSError as error:
        raise UnavailableError(
            error.strerror or str(error), place=str(source), next_step="name a file that is there"
        ) from error
    with (
        file,
        _kept(destination),
        tempfile.NamedTemporaryFile(prefix=".part-", dir=destination.parent) as part,
    ):
        shutil.copyfileobj(file, part, 1 << 20)
        part.flush()
        actual = sha256_of(Path(part.name))
        if actual != sha256:
            raise IntegrityError(
                f"wrong content: expected sha256 {sha256}, got {actual}",
                place=str(source),
                next_step="give the sha256 of the archive that you mean; do not change it to fit",
            )
        Path(part.name).chmod(0o644)
        destination.unlink(missing_ok=True)
        destination.hardlink_to(part.name)


def commit(archive: Path) -> str:
    """What `git archive` says that the tar was made of, "" where nothing says so."""
    with _opened(archive) as tar:
        tar.next()
        return str(tar.pax_headers.get("comment", ""))


def strip(archive: Path) -> int:
    """1 where the tar begins as one that has everything below one folder, else 0."""
    with _opened(archive) as tar:
        first = [member.name.removeprefix("./") for member in islice(tar, LOOKED_AT)]
    tops = {name.partition("/")[0] for name in first} - {"", "."}
    return 1 if len(tops) == 1 and any("/" in name for name in first) else 0


def read(archive: Path, strip: int, paths: Iterable[str]) -> dict[str, bytes | None]:
    """The content of plain files by their path, below `strip` leading folders; None where there
    is no such file."""
    found: dict[str, bytes | None] = dict.fromkeys(paths)
    with _opened(archive) as tar:
        for member in tar:
            name = "/".join(member.name.removeprefix("./").split("/")[strip:])
            if name in found and member.isreg():
                content = tar.extractfile(member)
                found[name] = content.read() if content is not None else None
    return found


@contextmanager
def _kept(destination: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"the archive cannot be kept: {error.strerror}",
            place=str(destination.parent),
            next_step="free some room there, or name another cache with NOKMEM_CACHE",
        ) from error


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(archive) as tar:
            yield tar
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise MachineError(
                f"cannot be read: {error.strerror}",
                place=str(archive),
                next_step="look at the disk",
            ) from error
        raise IntegrityError(
            f"this is no tar archive, or it is cut short: {error}",
            place=str(archive),
            next_step="give a .tar, .tar.gz, .tar.bz2 or .tar.xz with the whole source",
        ) from error
