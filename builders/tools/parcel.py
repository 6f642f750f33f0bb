"""One file that holds many, each known by its hash: a tar of which no byte is left open.

An index comes first, sums for `sha256sum -c` second, then every other file by the order of names.
The index tells size, hash and rights of each; head, padding and end follow from that. So a reader
makes them again and compares, instead of believing what a tar may say: a link, a path that leads
elsewhere, a sparse file, anything behind the end is just another byte than it must be.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from builders.errors import IntegrityError, MachineError, UnavailableError, UsageError
from builders.tools import files
from builders.tools.cache import CHUNK, sha256_of

OnBytes = Callable[[int], None]

INDEX, SUMS = "bundle.json", "SHA256SUMS"
#: Bytes; an index has two hundred for each file.
LARGEST_INDEX = 16 << 20
#: What tar, a shell and any filesystem take as it is.
PART = r"(?!\.\.?(?:/|$))[A-Za-z0-9._+~@-]{1,200}"
NAME = re.compile(rf"{PART}(?:/{PART}){{0,30}}")
SHA256 = re.compile("[0-9a-f]{64}")
EXECUTABLE, PLAIN = 0o755, 0o644


@dataclass(frozen=True)
class Item:
    """A file to pack: under which name, and whether it is a program."""

    name: str
    source: Path
    executable: bool = False


@dataclass(frozen=True)
class Member:
    """A packed file, as the index has it; `size` in bytes."""

    name: str
    size: int
    sha256: str
    executable: bool = False


def write(
    place: Path, about: Mapping[str, Any], items: Iterable[Item], epoch: int, on_bytes: OnBytes
) -> str:
    """Pack files, each dated `epoch`, with what the index shall say `about` them; the sha256 of it
    all. Same files, same bytes.

    An earlier file of that name gives way to the whole new one. IntegrityError where a file
    changes meanwhile, UsageError where one has a name that not every machine takes.
    """
    sources = {item.name: item.source for item in items}
    members = tuple(
        Member(item.name, item.source.stat().st_size, sha256_of(item.source), item.executable)
        for item in sorted(items, key=lambda item: item.name)
    )
    odd = [name for name in sources if not NAME.fullmatch(name)]
    if odd or _collide(members):
        raise UsageError(
            f"this name cannot be packed: {odd[0]!r}" if odd else "two files of one name",
            place=str(sources[odd[0]] if odd else place),
            next_step="rename it: letters, digits and any of . _ + ~ @ -",
        )
    rows = [vars(member) for member in members]
    index = _json({**about, "epoch": epoch, "members": rows})
    sums = _sums(index, members)
    digest = hashlib.sha256()
    files.sweep(place.parent)
    with files.part(place.parent) as (file, part):

        def put(content: bytes) -> None:
            file.write(content)
            digest.update(content)

        for name, content in ((INDEX, index), (SUMS, sums)):
            put(_head(Member(name, len(content), ""), epoch) + content + _padding(len(content)))
        for member in members:
            put(_head(member, epoch))
            _copy(sources[member.name], member, put, on_bytes)
            put(_padding(member.size))
        put(_end(file.tell()))
        files.finish(file, PLAIN)
        part.replace(place)
    return digest.hexdigest()


class Parcel:
    """An opened parcel: what its index says, and the way to the files."""

    def __init__(self, file: BinaryIO, place: Path) -> None:
        self._file = file
        self._place = place
        self._at = 0
        index = self._first()
        self.about, self.members, self.epoch = self._understood(index)
        self._expect(_head(Member(INDEX, len(index), ""), self.epoch), INDEX, at=0)
        self._expect(index + _padding(len(index)), INDEX)
        sums = _sums(index, self.members)
        self._expect(_head(Member(SUMS, len(sums), ""), self.epoch), SUMS)
        self._expect(sums + _padding(len(sums)), SUMS)

    def read(self, wanted: Callable[[Member], Path | None], on_bytes: OnBytes) -> None:
        """Read all of it; a member for which `wanted` names a path is written there.

        IntegrityError where anything is not just as the index says: what is written by then is for
        nobody's use. It can be read once.
        """
        for member in self.members:
            path = wanted(member)
            self._expect(_head(member, self.epoch), member.name)
            digest = hashlib.sha256()
            if path is None:
                self._pass(member, digest.update, on_bytes)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as out:

                    def both(chunk: bytes, out: BinaryIO = out, digest: Any = digest) -> None:
                        digest.update(chunk)
                        out.write(chunk)

                    self._pass(member, both, on_bytes)
                path.chmod(EXECUTABLE if member.executable else PLAIN)
            if digest.hexdigest() != member.sha256:
                raise self._damaged(
                    f"{member.name} is not what the index says: expected sha256 {member.sha256}, "
                    f"got {digest.hexdigest()}"
                )
            self._expect(_padding(member.size), member.name)
        self._expect(_end(self._at), "its end")
        if self._file.read(1):
            raise self._damaged("something stands behind its end")

    def _first(self) -> bytes:
        """The text of the index, of whatever file this is."""
        head = self._file.read(tarfile.BLOCKSIZE)
        try:
            member = tarfile.TarInfo.frombuf(head, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError):
            member = tarfile.TarInfo()
        if member.name != INDEX or not 0 <= member.size <= LARGEST_INDEX:
            raise IntegrityError(
                "this is no bundle",
                place=str(self._place),
                next_step="give the file that `bundle` has made",
            )
        return self._take(member.size, INDEX)

    def _understood(self, index: bytes) -> tuple[Mapping[str, Any], tuple[Member, ...], int]:
        try:
            data = json.loads(index)
            members = tuple(Member(**row) for row in data.pop("members"))
            epoch = data.pop("epoch")
            rows = [vars(member) for member in members]
            said = _json({**data, "epoch": epoch, "members": rows})
            sound = (
                type(epoch) is int
                and 0 <= epoch < 1 << 33
                and all(map(_sound, members))
                and not _collide(members)
                and said == index
            )
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            why = type(error).__name__
            raise self._damaged(f"its index cannot be understood: {why}") from error
        if not sound:
            raise self._damaged("its index is not as `bundle` writes one")
        return data, members, epoch

    def _expect(self, content: bytes, what: str, at: int | None = None) -> None:
        if at is not None:
            self._file.seek(at)
            self._at = at
        if self._take(len(content), what) != content:
            raise self._damaged(f"what stands around {what} is not what the index says")

    def _take(self, size: int, what: str) -> bytes:
        try:
            content = self._file.read(size)
        except OSError as error:
            raise MachineError(
                f"the bundle cannot be read: {error.strerror}",
                place=str(self._place),
                next_step="look at the disk or the medium that it is on",
            ) from error
        self._at += len(content)
        if len(content) != size:
            raise self._damaged(f"it is cut short: after {self._at} bytes, in {what}")
        return content

    def _pass(self, member: Member, take: Callable[[bytes], object], on_bytes: OnBytes) -> None:
        left = member.size
        while left:
            chunk = self._take(min(left, CHUNK), member.name)
            take(chunk)
            on_bytes(len(chunk))
            left -= len(chunk)

    def _damaged(self, fact: str) -> IntegrityError:
        return IntegrityError(
            f"the bundle is damaged: {fact}",
            place=str(self._place),
            next_step="copy it again, and compare its sha256 with the one that `bundle` printed",
        )


@contextmanager
def opened(place: Path) -> Iterator[Parcel]:
    """A parcel whose index is whole; UnavailableError where there is no such file, IntegrityError
    where it is none."""
    if not place.is_file():
        raise UnavailableError(
            "there is no such file", place=str(place), next_step="name the file of the bundle"
        )
    with place.open("rb") as file:
        yield Parcel(file, place)


def _head(member: Member, epoch: int) -> bytes:
    info = tarfile.TarInfo(member.name)
    info.size, info.mtime = member.size, epoch
    info.mode = EXECUTABLE if member.executable else PLAIN
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


def _end(at: int) -> bytes:
    """Two empty blocks, and what fills the last record."""
    return bytes(2 * tarfile.BLOCKSIZE + -(at + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE)


def _sums(index: bytes, members: Iterable[Member]) -> bytes:
    rows = [(hashlib.sha256(index).hexdigest(), INDEX), *((m.sha256, m.name) for m in members)]
    return "".join(f"{sha256}  {name}\n" for sha256, name in rows).encode()


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _sound(member: Member) -> bool:
    return (
        bool(NAME.fullmatch(member.name))
        and type(member.size) is int
        and member.size >= 0
        and bool(SHA256.fullmatch(member.sha256))
        and type(member.executable) is bool
    )


def _collide(members: Iterable[Member]) -> bool:
    """Whether names are not in order, or one is there twice, or is another one's folder."""
    names = [INDEX, SUMS, *(member.name for member in members)]
    folders = {name.rpartition("/")[0] for name in names}
    folders |= {"/".join(one.split("/")[:n]) for one in folders for n in range(one.count("/") + 1)}
    rising = all(one < other for one, other in pairwise(names[2:]))
    return not rising or len(set(names)) != len(names) or bool(folders & set(names))


def _copy(source: Path, member: Member, put: Callable[[bytes], None], on_bytes: OnBytes) -> None:
    digest, left = hashlib.sha256(), member.size
    with source.open("rb") as file:
        while chunk := file.read(min(CHUNK, left)):
            put(chunk)
            digest.update(chunk)
            on_bytes(len(chunk))
            left -= len(chunk)
        more = file.read(1)
    if left or more or digest.hexdigest() != member.sha256:
        raise IntegrityError(
            "the file changed while it was packed",
            place=str(source),
            next_step="run the same command again",
        )
