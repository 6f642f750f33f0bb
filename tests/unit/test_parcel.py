"""A parcel: of which no byte is left open, so that whatever is changed in it is noticed."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from builders.errors import IntegrityError, UnavailableError, UsageError
from builders.tools import parcel
from builders.tools.parcel import Item, Member

EPOCH = 1_600_000_000
LONG = f"nokmem/wheels/{'x' * 120}.whl"
FILES = {
    "nokmem/run": b"#!/bin/sh\n",
    "cache/files/a": b"a" * 700,
    "nokmem/empty": b"",
    "nokmem/block": b"b" * 512,
    LONG: b"long\n",
}


def quiet(_: int) -> None:
    pass


def items(folder: Path, files: dict[str, bytes] = FILES) -> list[Item]:
    found = []
    for number, (name, content) in enumerate(files.items()):
        path = folder / str(number)
        path.write_bytes(content)
        found.append(Item(name, path, name == "nokmem/run"))
    return found


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    place = tmp_path / "one.tar"
    (tmp_path / "in").mkdir()
    sha256 = parcel.write(place, {"says": "this"}, items(tmp_path / "in"), EPOCH, quiet)
    assert sha256 == hashlib.sha256(place.read_bytes()).hexdigest()
    return place


def unpack(place: Path, folder: Path) -> dict[str, bytes]:
    with parcel.opened(place) as found:
        found.read(lambda member: folder / member.name, quiet)
        assert found.about == {"says": "this"}
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_what_is_packed_comes_out(packed: Path, tmp_path: Path) -> None:
    assert unpack(packed, tmp_path / "out") == FILES
    modes = {name: (tmp_path / "out" / name).stat().st_mode & 0o777 for name in FILES}
    assert modes == {name: 0o755 if name == "nokmem/run" else 0o644 for name in FILES}


def test_the_same_files_give_the_same_bytes_in_any_order(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    again = tmp_path / "again.tar"
    turned = list(reversed(items(tmp_path / "again")))
    parcel.write(again, {"says": "this"}, turned, EPOCH, quiet)
    assert again.read_bytes() == packed.read_bytes()


def test_it_is_a_plain_tar_with_sums_for_whoever_has_nothing_else(packed: Path) -> None:
    with tarfile.open(packed) as tar:
        names = tar.getnames()
        assert names == [parcel.INDEX, parcel.SUMS, *sorted(FILES)]
        assert {(m.mtime, m.uid, m.type) for m in tar} == {(EPOCH, 0, tarfile.REGTYPE)}
        sums = tar.extractfile(parcel.SUMS)
        assert sums is not None
        rows = [line.split("  ") for line in sums.read().decode().splitlines()]
        listed = {name: sha256 for sha256, name in rows}
        for name in (parcel.INDEX, *FILES):
            content = tar.extractfile(name)
            assert content is not None
            assert listed.pop(name) == hashlib.sha256(content.read()).hexdigest()
        assert not listed
    assert packed.stat().st_size % tarfile.RECORDSIZE == 0


def test_whatever_byte_is_changed_it_is_noticed(packed: Path, tmp_path: Path) -> None:
    content = packed.read_bytes()
    for at in range(0, len(content), 17):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        refused(packed, bytes(changed))


@pytest.mark.parametrize("left", [0, 1, 511, 512, 513, 2000, -20, -512, -10240, -10000])
def test_a_file_that_is_cut_is_refused(left: int, packed: Path) -> None:
    refused(packed, packed.read_bytes()[:left])


def test_what_stands_behind_the_end_is_refused(packed: Path) -> None:
    for more in (b"\0", bytes(512), packed.read_bytes()):
        refused(packed, packed.read_bytes() + more)


def refused(place: Path, content: bytes) -> str:
    place.write_bytes(content)
    with pytest.raises(IntegrityError) as caught, parcel.opened(place) as found:
        found.read(lambda _: None, quiet)
    assert caught.value.place == str(place) and caught.value.next_step
    assert "\n" not in caught.value.fact
    return caught.value.fact


def tar_of(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size, member.type, member.linkname = len(content), kind, "/etc/passwd"
        tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\3\4 a zip",
        b"<html>not found</html>" * 100,
        tar_of("kubernetes/Makefile", b"all:\n"),
        tar_of(parcel.INDEX, kind=tarfile.SYMTYPE),
        b"\0" * 10240,
    ],
)
def test_what_is_no_bundle_is_called_so(content: bytes, tmp_path: Path) -> None:
    assert refused(tmp_path / "a", content).startswith(("this is no bundle", "the bundle is damag"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000, b'{"members": 1}', b"\xff"])
def test_an_index_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    assert "its index" in refused(tmp_path / "a", tar_of(parcel.INDEX, content))


def row(name: str, **change: Any) -> dict[str, Any]:
    return {"executable": False, "name": name, "sha256": "0" * 64, "size": 0, **change}


@pytest.mark.parametrize(
    "rows",
    [
        [row("../evil")],
        [row("/etc/passwd")],
        [row("a/../../evil")],
        [row("a//b")],
        [row("a/")],
        [row("a\nb")],
        [row("a"), row("a")],
        [row("b"), row("a")],
        [row("a"), row("a/b")],
        [row(parcel.SUMS)],
        [row(f"{parcel.INDEX}/x")],
        [row("a", size=-1)],
        [row("a", size=True)],
        [row("a", size="1")],
        [row("a", sha256="0")],
        [row("a", executable=1)],
        [row("a", link="b")],
        [row(7)],  # type: ignore[arg-type]
    ],
)
def test_an_index_that_leads_elsewhere_is_refused_though_its_sums_are_right(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    index = parcel._json({"epoch": EPOCH, "members": rows})
    assert "its index" in refused(tmp_path / "a", tar_of(parcel.INDEX, index))


def test_a_link_in_the_place_of_a_file_is_refused(packed: Path) -> None:
    name = "nokmem/empty"
    head = parcel._head(Member(name, 0, ""), EPOCH)
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mtime, info.mode = tarfile.SYMTYPE, "/etc", EPOCH, 0o644
    content = packed.read_bytes()
    assert content.count(head) == 1
    fact = refused(packed, content.replace(head, info.tobuf(tarfile.PAX_FORMAT)))
    assert f"what stands around {name} is not what the index says" in fact


def test_no_file_is_named(tmp_path: Path) -> None:
    for place in (tmp_path / "none", tmp_path):
        with pytest.raises(UnavailableError, match="no such file"), parcel.opened(place):
            pass


@pytest.mark.parametrize("name", ["a b", "../a", "a/./b", "ä", "x" * 300, "a\nb"])
def test_a_name_that_not_every_machine_takes_is_not_packed(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(UsageError, match="cannot be packed"):
        parcel.write(tmp_path / "one.tar", {}, [Item(name, tmp_path / "a")], EPOCH, quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("content", [b"c" * 512, b"b" * 511, b"b" * 513])
def test_a_file_that_changes_while_it_is_packed_leaves_the_earlier_bundle(
    content: bytes, packed: Path, tmp_path: Path
) -> None:
    before = packed.read_bytes()
    listed = items(tmp_path / "in")
    later = next(item.source for item in listed if item.name == "nokmem/block")

    def change(_: int) -> None:
        later.write_bytes(content)

    with pytest.raises(IntegrityError, match="changed while it was packed"):
        parcel.write(packed, {}, listed, EPOCH, change)
    assert packed.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "one.tar"]


def test_what_killed_runs_left_beside_it_goes(packed: Path, tmp_path: Path) -> None:
    (tmp_path / ".nokmem-dead").touch()
    parcel.write(packed, {}, [], EPOCH, quiet)
    assert not (tmp_path / ".nokmem-dead").exists()


def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(48 << 20)
    tracemalloc.start()
    try:
        parcel.write(tmp_path / "a", {"says": "this"}, [Item("large", large)], EPOCH, quiet)
        unpack_to = tmp_path / "out"
        with parcel.opened(tmp_path / "a") as found:
            found.read(lambda member: unpack_to / member.name, quiet)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert (unpack_to / "large").stat().st_size == 48 << 20
