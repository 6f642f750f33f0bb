"""Archives of the user's own: how they are laid out, what they say, and what is none."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from builders.errors import IntegrityError
from builders.tools import archives
from builders.tools.files import Program

COMMIT = "0123456789" * 4
TREE = {"Makefile": b"all:\n", "pkg/main.go": b"package main\n"}


def tar(path: Path, files: dict[str, bytes], *, mode: str = "w", comment: str = "") -> Path:
    headers = {"comment": comment} if comment else {}
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT, pax_headers=headers) as out:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize(("before", "strip"), [("", 0), ("./", 0), ("k-1.2/", 1), ("./k-1.2/", 2)])
def test_the_folders_above_the_source_are_found(
    mode: str, before: str, strip: int, tmp_path: Path
) -> None:
    path = tar(tmp_path / "a", {before + name: body for name, body in TREE.items()}, mode=mode)
    assert archives.strip(path) == strip
    assert archives.read(path, strip, ["pkg/main.go", "none"]) == {
        "pkg/main.go": b"package main\n",
        "none": None,
    }


def test_a_program_is_known_as_one(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a", "w") as out:
        for name, mode in (("tool", 0o755), ("text", 0o644)):
            member = tarfile.TarInfo(name)
            member.mode = mode
            out.addfile(member)
    found = archives.read(tmp_path / "a", 0, ["tool", "text"])
    assert [isinstance(content, Program) for content in found.values()] == [True, False]


HOSTILE = {
    "an absolute path": ("/etc/evil", tarfile.REGTYPE, ""),
    "a path that leads out of its folder": ("k/../../evil", tarfile.REGTYPE, ""),
    "a device": ("k/null", tarfile.CHRTYPE, ""),
    "a link to a file outside": ("k/passwd", tarfile.LNKTYPE, "../etc/passwd"),
    "a path behind a link": ("k/way/evil", tarfile.REGTYPE, ""),
}


@pytest.mark.parametrize("wrong", HOSTILE)
def test_what_would_be_written_elsewhere_is_refused_by_name(wrong: str, tmp_path: Path) -> None:
    name, kind, link = HOSTILE[wrong]
    with tarfile.open(tmp_path / "a", "w") as out:
        for member_name, member_kind, leads in (
            ("k/way", tarfile.SYMTYPE, "/cache"),
            ("k/Makefile", tarfile.REGTYPE, ""),
            (name, kind, link),
        ):
            member = tarfile.TarInfo(member_name)
            member.type, member.linkname = member_kind, leads
            out.addfile(member)
    with pytest.raises(IntegrityError, match=f"{name}' is {wrong}$") as caught:
        archives.strip(tmp_path / "a")
    assert caught.value.place == str(tmp_path / "a")


def test_one_large_folder_first_is_not_taken_for_the_one_above_all(tmp_path: Path) -> None:
    vendor = {f"vendor/{number}": b"" for number in range(1000)}
    assert archives.strip(tar(tmp_path / "a", {**vendor, **TREE})) == 0


def test_a_single_file_is_below_no_folder(tmp_path: Path) -> None:
    assert archives.strip(tar(tmp_path / "a", {"Makefile": b""})) == 0
    assert archives.strip(tar(tmp_path / "b", {})) == 0


@pytest.mark.parametrize(("comment", "says"), [(COMMIT, COMMIT), ("", ""), ("from a friend", "")])
def test_only_a_commit_is_taken_for_one(comment: str, says: str, tmp_path: Path) -> None:
    assert archives.commit(tar(tmp_path / "a", TREE, comment=comment)) == says


@pytest.mark.parametrize("mode", ["w:bz2", "w:xz"])
def test_what_a_builder_may_have_no_program_for_is_unpacked_before(
    mode: str, tmp_path: Path
) -> None:
    plain = tar(tmp_path / "plain", TREE)
    packed = tar(tmp_path / "packed", TREE, mode=mode)
    assert archives.unpacked(packed, tmp_path / "out").read_bytes() == plain.read_bytes()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_what_tar_reads_itself_stays_as_it_is(mode: str, tmp_path: Path) -> None:
    path = tar(tmp_path / "a", TREE, mode=mode)
    assert archives.unpacked(path, tmp_path / "out") == path


@pytest.mark.parametrize(
    ("mode", "damage"),
    [
        *((mode, "cut") for mode in ("w", "w:gz", "w:bz2", "w:xz")),
        *((mode, "changed") for mode in ("w:bz2", "w:xz")),
    ],
)
def test_a_damaged_archive_is_refused_in_one_line(mode: str, damage: str, tmp_path: Path) -> None:
    body = bytes(range(256)) * 400 + bytes(str(list(range(20000))), "ascii")
    path = tar(tmp_path / "a", {"top/one": body, "top/two": body}, mode=mode)
    content = path.read_bytes()
    middle = len(content) // 2
    rest = b"" if damage == "cut" else bytes(64) + content[middle + 64 :]
    path.write_bytes(content[:middle] + rest)
    with pytest.raises(IntegrityError, match="no tar archive, or it is damaged") as caught:
        archives.strip(path)
    assert "\n" not in caught.value.fact


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"<html>not found</html>" * 100])
def test_what_is_no_archive_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(IntegrityError, match="no tar archive, or it is damaged") as caught:
        archives.commit(tmp_path / "a")
    assert "\n" not in caught.value.fact and "method" not in caught.value.fact
