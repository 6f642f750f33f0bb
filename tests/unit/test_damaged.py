"""Damaged tars and packages: an error with their place, soon."""

from __future__ import annotations

import gzip
import struct
from functools import partial
from pathlib import Path

import pytest

from builders.errors import IntegrityError
from builders.tools import apt, archives
from tests.unit.test_fuzz import PLAIN, deb, members, proper, tarred


def header(body: bytes, **fields: tuple[int, bytes]) -> bytes:
    """A tar whose first header has other fields, and the sum that belongs to them."""
    head = bytearray(body)
    for at, value in fields.values():
        head[at : at + len(value)] = value
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head[:512])
    return bytes(head)


PLAINEST = PLAIN[PLAIN.index(b"k/go.mod") :]
BACK = b"\xff" * 4 + struct.pack(">q", -512)
HUGE = b"\x80\0\0\0" + struct.pack(">q", 1 << 40)
DAMAGES = {
    "a size below zero": header(PLAINEST, size=(124, BACK)),
    "a size of a terabyte": header(PLAINEST, size=(124, HUGE)),
    "a hole of a terabyte": header(
        PLAINEST, kind=(156, b"S"), magic=(257, b"ustar  \0"), real=(483, HUGE)
    ),
    "names of names without end": header(
        PLAINEST, kind=(156, b"L"), size=(124, b"00000000000\0"), magic=(257, b"ustar  \0")
    )[:512]
    * 3000
    + PLAINEST,
    "a packed stream that breaks": gzip.compress(PLAIN)[:60] + b"\xff" * 60,
    "no tar": b"x" * 2000,
}


@pytest.mark.parametrize("body", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_tar_is_refused_with_its_place(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(body)
    error = proper(partial(archives.read, path, 1, ["go.mod"]))
    assert isinstance(error, IntegrityError) and error.place == str(path)


def test_a_whole_tar_is_read(tmp_path: Path) -> None:
    for kind in ("", "gz", "bz2", "xz"):
        (tmp_path / "x").write_bytes(tarred(kind))
        assert archives.read(tmp_path / "x", 1, ["go.mod"]) == {"go.mod": b"module k\n"}
        assert archives.strip(tmp_path / "x") == 1
        assert archives.commit(tmp_path / "x") == "c" * 40


PACKAGES = {
    "nothing": b"",
    "no member": b"!<arch>\n",
    "no data": deb().replace(b"data.tar", b"dota.tar"),
    "a size below zero": b"!<arch>\n" + deb()[8:56] + b"-60       `\n" + deb()[68:],
    "a cut": deb()[:-40],
    "no ar": b"x" * 100,
    "no tar in it": deb()[:72]
    + deb()[72:].replace(b"\x1f\x8b", b"xx").replace(b"\xfd7zXZ", b"xxxxx"),
}


@pytest.mark.parametrize("body", PACKAGES.values(), ids=PACKAGES.keys())
def test_a_damaged_package_is_refused_with_its_place(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(body)
    error = proper(partial(members, path))
    assert isinstance(error, IntegrityError) and error.place == str(path)


def test_a_whole_package_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(deb())
    assert members(tmp_path / "x.deb")[0] == "k/go.mod"
    assert apt.deb_control(tmp_path / "x.deb") == "Package: k\nVersion: 1\n"
