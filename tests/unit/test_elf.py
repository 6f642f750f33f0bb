"""ELF files that lie about themselves are not readable, and that is known soon."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from builders.tools import elf
from tests.unit.test_fuzz import proper, small_elf

FILE = small_elf()
(SECTIONS,) = struct.unpack_from("<Q", FILE, 0x28)


def put(at: int, form: str, value: int) -> Callable[[bytearray], object]:
    return lambda body: struct.pack_into(form, body, at, value)


def row(kind: int, field: int, form: str, value: int) -> Callable[[bytearray], object]:
    """Change a field of the section of that kind."""

    def change(body: bytearray) -> None:
        (at,) = (
            at
            for at in range(SECTIONS, len(FILE), 64)
            if struct.unpack_from("<I", FILE, at + 4) == (kind,)
        )
        struct.pack_into(form, body, at + field, value)

    return change


LIES: dict[str, tuple[Callable[[bytearray], object], ...]] = {
    "a billion versions at one place": (row(0x6FFFFFFE, 44, "<I", 1 << 30),),
    "2^60 sections, all in one place": (
        put(0x3C, "<H", 0), put(0x3A, "<H", 0), put(SECTIONS + 32, "<Q", 1 << 60),
    ),
    "a billion segments, all in one place": (
        put(0x38, "<H", 0xFFFF), put(0x36, "<H", 0), put(SECTIONS + 44, "<I", 1 << 30),
    ),
    "symbols of no size": (row(11, 56, "<Q", 0),),
    "2^60 symbols of one byte": (row(11, 56, "<Q", 1), row(11, 32, "<Q", 1 << 60)),
    "sections beyond what can be sought": (put(0x28, "<Q", (1 << 64) - 1),),
    "no strings for what it needs": (row(6, 40, "<I", 99),),
}  # fmt: skip


@pytest.mark.parametrize("lies", LIES.values(), ids=LIES.keys())
def test_a_lie_is_seen_soon(
    lies: tuple[Callable[[bytearray], object], ...], tmp_path: Path
) -> None:
    body = bytearray(FILE)
    for lie in lies:
        lie(body)
    (tmp_path / "x").write_bytes(body)
    assert proper(partial(elf.read, tmp_path / "x")) is None


def test_the_packages_of_a_go_program(tmp_path: Path) -> None:
    """Functions tell them; files, Go's own and whatever else begins like one do not."""
    names = (
        "github.com/owner/name.(*T).Method",
        "k8s.io/kubernetes/vendor/gopkg.in/yaml%2ev2.glob..func1",
        "gopkg.in/square/go-jose.v2/json.init.0",
        "go4.org/errorutil.HighlightBytePosition",
        "golang.org/x/sys/unix/asm_linux_amd64.s",
        "github.com/opencontainers/runc/vendor/github.com/only/file/app.go",
        "vendor/golang.org/x/net/http/httpguts.isCTL",
        "type..eq.github.com/owner/other.T",
        "net/http.(*conn).serve",
        "main.main",
        "example.com/",
    )
    table = b"\xff\0" + b"\0".join(name.encode() for name in names) + b"\0"
    (tmp_path / "go").write_bytes(small_elf(table) + b"runtime/cgo: ")
    assert elf.go_packages(tmp_path / "go") == {
        "github.com/owner/name",
        "go4.org/errorutil",
        "gopkg.in/square/go-jose.v2/json",
        "k8s.io/kubernetes/vendor/gopkg.in/yaml.v2",
        "runtime/cgo",
    }
    for content in (small_elf() + table, b"", b"\x7fELF", FILE[:200]):
        (tmp_path / "other").write_bytes(content)
        assert elf.go_packages(tmp_path / "other") == frozenset()
