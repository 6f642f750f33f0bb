"""A file that comes out of an engine as the one member of a tar, in chunks of any size."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.errors import MachineError
from builders.tools.container import _copy_member

CONTENT = os.urandom(100_003)


def tar(content: bytes = CONTENT, kind: bytes = tarfile.REGTYPE, **pax: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("file")
        member.size, member.type, member.pax_headers = len(content), kind, pax
        archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def chunks(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


@pytest.mark.parametrize("size", [1, 511, 32 << 10, 1 << 20])
@pytest.mark.parametrize("body", [tar(), tar(comment="x" * 3000), tar(b"")], ids=len)
def test_a_member_is_copied_whole(body: bytes, size: int, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        _copy_member(chunks(body, size), file, "/build/file")
    assert (tmp_path / "file").read_bytes() == (CONTENT if len(body) > len(CONTENT) else b"")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (tar()[:-20_000], "came without its last"),
        (tar(b"", tarfile.DIRTYPE), "is not a file"),
        (b"", "is not a file"),
        (bytes(20_000), "is not a file"),
        (b"x" * 20_000, "is not a file"),
    ],
    ids=["cut", "a folder", "nothing", "an empty tar", "no tar"],
)
def test_what_is_not_a_whole_file_is_refused(body: bytes, says: str, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, pytest.raises(MachineError, match=says):
        _copy_member(chunks(body, 1000), file, "/build/file")
