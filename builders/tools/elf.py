"""What an ELF file says of itself, by pyelftools."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote

from elftools.elf.dynamic import DynamicSection, DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.sections import SymbolTableSection
from elftools.elf.segments import InterpSegment

#: Bytes: the smallest header of a section and of a segment, the smallest row of any table.
SECTION, SEGMENT, ENTRY = 40, 32, 8
#: Where Go's runtime finds the names of functions and of source files, which no stripping takes
#: away; and of a function's name what stands before it: a package with a host in its path, as none
#: of Go's own has.
NAMES = (".gopclntab", ".data.rel.ro.gopclntab")
FUNCTION = re.compile(
    rb"\0((?:[a-z0-9-]+\.)+[a-z]+(?:/[\w.~+%-]+)*/[\w~+%-]+)\.(?![\w.-]+/|(?:go|[chs])\0)"
)
#: How its complaints begin, which it makes in C: so it has no function of Go's.
CALLS_C = b"runtime/cgo: "
T = TypeVar("T")


@dataclass(frozen=True)
class Elf:
    """`machine` as in elf.h (EM_X86_64), `interpreter` None in a static file, `needed` the
    shared libraries, `imports` the undefined dynamic symbols, `versions` what is asked of
    libraries (GLIBC_2.14)."""

    machine: str
    interpreter: str | None
    needed: tuple[str, ...]
    imports: tuple[str, ...]
    versions: tuple[str, ...]


def read(path: Path) -> Elf | None:
    """The ELF file's own account, or None where it is not a readable ELF file.

    A file that a loader would link, but whose section headers do not say with what, is not
    readable: nothing could be said of what it needs.
    """
    try:
        with path.open("rb") as file:
            return _read(ELFFile(file), path.stat().st_size)
    except Exception:  # pyelftools lets a dozen kinds of them out where a file lies
        return None


def _read(elf: ELFFile, size: int) -> Elf:
    if max(elf.num_sections() * SECTION, elf.num_segments() * SEGMENT) > size:
        raise ValueError("more headers than the file has room for")
    left = iter(range(size // ENTRY))

    def real(rows: Iterable[T]) -> Iterator[T]:
        """The rows, as long as all that was seen could stand in the file."""
        for row in rows:
            if next(left, None) is None:
                raise ValueError("more rows than the file has room for")
            yield row

    interpreter: str | None = None
    asked: set[str] = set()
    for segment in real(elf.iter_segments()):
        if isinstance(segment, InterpSegment):
            interpreter = segment.get_interp_name()
        elif isinstance(segment, DynamicSegment):
            asked |= {str(tag.entry.d_tag) for tag in real(segment.iter_tags())}
    told: set[str] = set()
    needed: list[str] = []
    imports: list[str] = []
    versions: list[str] = []
    for section in real(elf.iter_sections()):
        if isinstance(section, DynamicSection):
            told |= {"DT_NEEDED", "DT_STRTAB"}
            needed += [str(cast(Any, tag).needed) for tag in real(section.iter_tags("DT_NEEDED"))]
        elif isinstance(section, GNUVerNeedSection):
            told.add("DT_VERNEED")
            versions += [a.name for _, group in real(section.iter_versions()) for a in real(group)]
        elif isinstance(section, SymbolTableSection) and section.name == ".dynsym":
            told.add("DT_SYMTAB")
            imports += [s.name for s in real(section.iter_symbols()) if _undefined(s)]
    if asked & {"DT_NEEDED", "DT_STRTAB", "DT_SYMTAB", "DT_VERNEED"} - told or (
        interpreter and not asked
    ):
        raise ValueError("the loader would read what the section headers do not tell")
    return Elf(
        machine=str(elf["e_machine"]),
        interpreter=interpreter,
        needed=tuple(sorted(set(needed))),
        imports=tuple(sorted(set(imports))),
        versions=tuple(sorted(set(versions))),
    )


def _undefined(symbol: Any) -> bool:
    return symbol["st_shndx"] == "SHN_UNDEF" and bool(symbol.name)


def contains(path: Path, needles: Iterable[bytes]) -> dict[bytes, bool]:
    """Which byte strings occur anywhere in a file; nothing is found in an empty one."""
    wanted = list(needles)
    if path.stat().st_size == 0:
        return dict.fromkeys(wanted, False)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return {needle: view.find(needle) >= 0 for needle in wanted}


def go_packages(path: Path) -> frozenset[str]:
    """The import paths of the packages whose functions are in a Go program; none where it is not
    one. Of Go's own there is runtime/cgo alone, where C is called.

    What is only inlined is among them, but a package without functions is not.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            elf = ELFFile(file)
            sections = [s for name in NAMES if (s := elf.get_section_by_name(name))]
            spans = [(s["sh_offset"], s["sh_offset"] + s["sh_size"]) for s in sections]
            found = {name for span in spans for name in FUNCTION.findall(view, *span)}
            if found and view.find(CALLS_C) >= 0:
                found.add(b"runtime/cgo")
    except Exception:  # as in `read`
        return frozenset()
    return frozenset(unquote(name.decode()) for name in found)
