"""Whatever is parsed: out comes a proper value or a named error, soon, and no password.

A hundred examples of each, always the same ones; NOKMEM_FUZZ=10000 takes that many, and others
each time. What was found so stands as a plain test beside the others of its file.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import signal
import string
import struct
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote, unquote

from git.exc import GitCommandError
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import tasks
from builders import pipeline
from builders.errors import CATALOGUE, NokmemError
from builders.model import settings as own
from builders.model.plan import BuildPlan, BuildRequest
from builders.model.releases import PATCHES, Facts
from builders.model.resolve import resolve
from builders.model.series import load_series
from builders.steps import evidence, manifest
from builders.tools import apt, archives, elf, gitrepo, mails
from builders.tools.download import Downloader, is_url, redacted, scrubbed, shown
from tests.conftest import REQUEST
from tests.unit.test_apt import PACKAGES, PIN, SOURCE, SOURCES
from tests.unit.test_manifest import write

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MORE = os.environ.get("NOKMEM_FUZZ", "")
#: Seconds; what takes longer on a few kilobytes hangs.
SOON = 5.0
fuzz = settings(
    max_examples=int(MORE or 100),
    derandomize=not MORE,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
#: The same for what takes long: some hashing, some planning.
slow = settings(fuzz, max_examples=fuzz.max_examples // 4)
FACTS = Facts()
T = TypeVar("T")


class HangError(BaseException):
    """Not an Exception, so that nothing catches it on the way."""


def proper(call: Callable[[], T]) -> T | NokmemError:
    """What a call gives, or the error of the catalogue that it raises; nothing else may come."""

    def hang(*_: object) -> NoReturn:
        raise HangError(f"no end after {SOON} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, SOON)
    try:
        return call()
    except NokmemError as error:
        assert type(error) in CATALOGUE and error.exit_code > 1 and error.fact
        return error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder inside another one, beside which nothing may appear."""
    with tempfile.TemporaryDirectory() as outer:
        inner = Path(outer, "inner")
        inner.mkdir()
        yield inner
        assert [path.name for path in Path(outer).iterdir()] == ["inner"], "written outside"


#: Text that parsers trip over more often than over any other.
ODD = st.text() | st.text("0123456789.v-rc٣²", max_size=12) | st.text("[]{}\"'=\\\n\r\t #.:/@a0")
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | ODD | st.sampled_from(["", "nokmem"])
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ODD, inner, max_size=4)
)


@st.composite
def mutated(draw: st.DrawFn, original: bytes, most: int = 6) -> bytes:
    """Bytes with some of them changed, cut out, doubled or put in."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            data[at : at + 1] = bytes([draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x20, 0x30]))])
        elif kind == 1:
            piece = draw(st.binary(max_size=8))
            data[at : at + len(piece)] = piece
        elif kind == 2:
            del data[at : at + draw(st.integers(1, 600))]
        elif kind == 3:
            data[at:at] = data[at : at + draw(st.integers(1, 600))]
        else:
            data[at:at] = draw(st.binary(max_size=20))
    return bytes(data)


def mutated_text(original: str) -> st.SearchStrategy[str]:
    return mutated(original.encode()).map(lambda data: data.decode(errors="replace"))


# ---- what is typed ----------------------------------------------------------------------


@fuzz
@given(ODD, ODD, ODD, ODD, ODD)
@example("v1.20.٢", "", "", "", "")
@example("v1.20.2\n", "", "", "", "")
@example("v1.20.2", "1.0.0-rc93\n", "1.15.1٥", "", "")
def test_versions_and_tags(k8s: str, runc: str, go: str, tags: str, word: str) -> None:
    for request in (
        BuildRequest(k8s, runc=runc, go=go),
        BuildRequest("v1.20.2", runc=runc),
        BuildRequest("v1.20.2", go=go or "auto"),
        BuildRequest("v1.20.2", kubelet_tags=tuple(tags.split())),
        BuildRequest("v1.20.2", variant=word, target=tags, toolchain=go),
        BuildRequest("v1.20.2", kubernetes_source=word, runc_source=tags),
    ):
        found = proper(partial(resolve, request, FACTS))
        if isinstance(found, BuildPlan):
            assert re.fullmatch(r"v[0-9.]+(-stock)?", found.name)
            assert found.to_json().isascii()


@fuzz
@given(ODD | st.text("0123456789mgMG.e+-_ ٣ni"))
@example("٤g")
@example("nan")
@example("1_0")
def test_memory_and_cores(text: str) -> None:
    size = proper(partial(tasks._bytes, text))
    assert isinstance(size, NokmemError) or size is None or size >= tasks.LEAST_MEMORY
    cores = proper(partial(tasks._cores, text))
    assert isinstance(cores, NokmemError) or cores is None or 0.1 <= cores <= 1024
    for found in (size, cores):
        assert found is None or isinstance(found, NokmemError) or text.isascii()


@fuzz
@given(ODD, ODD)
@example("http://[bad", "a" * 64)
@example("a" * 256, "")  # no folder can hold it
def test_sources(word: str, sha256: str) -> None:
    assume("\0" not in word)  # no argument can hold it
    proper(partial(tasks._source, "runc", word, sha256))
    proper(partial(tasks._source, "runc", word, "a" * 64))


# ---- nokmem.toml ------------------------------------------------------------------------

PLACE = Path("/home/user/nokmem.toml")
GOOD_TOML = f"""
[mirrors]
kubernetes = "https://git.example/kubernetes.git"
go = ["archives", "https://mirror.example/go/"]
[archives.go."1.12.9"]
place = "go1.12.9.tar.gz"
sha256 = "{"a" * 64}"
[build]
builder = "rootfs"
dist = "out"
"""
KEYS = st.sampled_from(
    [
        "mirrors",
        "archives",
        "build",
        "go",
        "runc",
        "kubernetes",
        "1.12.9",
        "place",
        "sha256",
        "vault",
        "builder",
        "memory",
        "dist",
    ]
)
VALUES = st.sampled_from(
    ["http://[bad", "https://u:p@h/x y", "a" * 64, "a" * 64 + "\n", "x\0", "4g"]
)


def toml(value: object) -> str:
    """A value as TOML, tables in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_quoted(str(k))} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, str):
        return _quoted(value)
    return str(value).lower()


def _quoted(text: str) -> str:
    return '"' + "".join(c if c.isalnum() else f"\\U{ord(c):08x}" for c in text) + '"'


TABLES = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS.filter(lambda v: v is not None) | VALUES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | ODD, inner, max_size=3),
    ),
)


def settled(content: str) -> None:
    found = proper(partial(own.parse, content, PLACE))
    if isinstance(found, NokmemError):
        return
    for sha256, place in found.places.items():
        assert re.fullmatch("[0-9a-f]{64}", sha256)
        assert "\0" not in place
    for archive in found.archives:
        assert "/" not in archive.name


@fuzz
@given(ODD | mutated_text(GOOD_TOML))
@example("a = " + "[" * 100_000)
@example("a = " + "1" * 5000)
def test_settings_of_any_text(content: str) -> None:
    settled(content)


@fuzz
@given(TABLES)
@example({"archives": {"go": {"1.12.9": {"place": "http://[bad", "sha256": "a" * 64}}}})
@example({"archives": {"go": {"1.12.9": {"place": "x\0", "sha256": "a" * 64}}}})
@example({"archives": {"go": {"1.12.9": {"place": "x", "sha256": "a" * 64 + "\n"}}}})
def test_settings_of_any_tables(data: dict[str, Any]) -> None:
    settled("".join(f"{_quoted(key)} = {toml(value)}\n" for key, value in data.items()))


# ---- patch series -----------------------------------------------------------------------

SERIES = (PATCHES / "kubernetes/series.toml").read_text()
MAIL = next((PATCHES / "kubernetes").glob("*.patch"))
ROW = st.dictionaries(
    st.sampled_from(["file", "from", "until", "reason", "evidence", "brings"]),
    st.sampled_from([MAIL.name, "v1.9.0", "v1.13.12", "..", "sub", "../../x"])
    | SCALARS.filter(lambda v: v is not None),
)


@fuzz
@given(
    ODD
    | mutated_text(SERIES)
    | st.lists(ROW, max_size=3).map(lambda rows: f"patches = {toml(rows)}\n"),
    mutated(MAIL.read_bytes()[:1500]) | st.just(MAIL.read_bytes()),
    st.booleans(),
)
def test_series(series: str, mail: bytes, sub: bool) -> None:
    with folder() as place:
        (place / "kubernetes").mkdir()
        (place / "kubernetes/series.toml").write_text(series, "utf-8", "replace")
        (place / "kubernetes" / MAIL.name).write_bytes(mail)
        if sub:
            (place / "kubernetes/sub").mkdir()
        found = proper(partial(load_series, place, FACTS.known))
        assert isinstance(found, NokmemError) or all(isinstance(p.brings, str) for p in found)


@fuzz
@given(
    mutated(MAIL.read_bytes())
    | st.binary()
    | st.sampled_from([b"/etc/x", b"../x", b"a/../../x", b".git/config", b"a/.GIT/hooks/x", b"\xff"])
    .map(lambda path: b"--- a/%s\n+++ b/%s\n" % (path, path))
)  # fmt: skip
def test_paths_of_mails(mail: bytes) -> None:
    found = proper(partial(mails.touched, mail))
    for path in found if isinstance(found, list) else []:
        assert not path.startswith("/")
        assert not {"..", ".git"} & set(path.lower().split("/"))


# ---- dist folders -----------------------------------------------------------------------


PAPERS = ("plan.json", "report.json", "sbom.cdx.json", "provenance.json")


@cache
def the_plan() -> BuildPlan:
    return pipeline.plan(REQUEST)


@cache
def real() -> dict[str, bytes]:
    """A real dist folder, by name."""
    with tempfile.TemporaryDirectory() as dist:
        return {p.name: p.read_bytes() for p in write(Path(dist), the_plan()).iterdir()}


def summed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files with SHA256SUMS as they should be, so that only the manifest can be refused."""
    rows = {n: hashlib.sha256(c).hexdigest() for n, c in sorted(files.items()) if n != "SHA256SUMS"}
    sums = "".join(f"{digest}  {name}\n" for name, digest in rows.items())
    return {**files, "SHA256SUMS": sums.encode()}


def read_everywhere(files: Mapping[str, bytes]) -> None:
    with folder() as place:
        for name, content in files.items():
            (place / name).write_bytes(content)
        described = proper(partial(manifest.read, place))
        if isinstance(described, NokmemError):
            return
        proper(partial(pipeline._standing, REQUEST, FACTS, place, described))
        proper(partial(pipeline.verify, place))


@fuzz
@given(JSON.map(json.dumps) | JSON.map(lambda v: json.dumps({"schema": 5, "nokmem": v})) | ODD)
@example('{"schema": 5, "nokmem": ' + "[" * 900 + "]" * 900 + "}")
@example('{"schema": 5, "nokmem": ' + "[" * 985 + "]" * 985 + "}")
def test_manifests_of_any_json(text: str) -> None:
    read_everywhere(summed({**real(), "manifest.json": text.encode(errors="replace")}))


@st.composite
def changed(draw: st.DrawFn, paper: str) -> str:
    """A real paper with a few of its values taken out, or others in their place."""
    data: Any = json.loads(real()[paper])
    for _ in range(draw(st.integers(1, 3))):
        at, key = data, draw(st.sampled_from(sorted(data))) if data else ""
        while isinstance(at.get(key) if isinstance(at, dict) else at[key], dict | list):
            inner = at[key]
            keys = sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))
            if not keys or draw(st.integers(0, 5)) == 0:
                break
            at, key = inner, draw(st.sampled_from(keys))
        if draw(st.booleans()):
            at[key] = draw(JSON | st.sampled_from(["1.0.0-rc93", "v1.15.3", "stock", "debian"]))
        elif isinstance(at, dict) and at is not data:
            del at[key]
    return json.dumps(data)


@slow
@given(changed("manifest.json"))
def test_changed_manifests(text: str) -> None:
    read_everywhere(summed({**real(), "manifest.json": text.encode()}))


@slow
@given(st.binary() | mutated(b"a" * 64 + b"  runc\n" + b"b" * 64 + b"  kubelet\n"))
def test_sums(sums: bytes) -> None:
    read_everywhere({**real(), "SHA256SUMS": sums})


@slow
@given(
    st.sampled_from(PAPERS).flatmap(
        lambda name: st.tuples(
            st.just(name),
            st.binary()
            | JSON.map(lambda v: json.dumps(v).encode())
            | changed(name).map(str.encode),
        )
    )
)
@example(("plan.json", b"{}"))
@example(("sbom.cdx.json", b'{"components": [{"bom-ref": 1}]}'))
@example(("sbom.cdx.json", b"[" * 100_000))
@example(("provenance.json", b"[" * 100_000))
def test_papers(one: tuple[str, bytes]) -> None:
    """Whatever stands in one of them, if manifest and sums were made to fit."""
    name, content = one
    files = {**real(), name: content}
    data = json.loads(files["manifest.json"])
    row = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    data["files"][name] = row
    read_everywhere(summed({**files, "manifest.json": json.dumps(data).encode()}))


# ---- Debian's archives ------------------------------------------------------------------


@fuzz
@given(ODD | mutated_text(PACKAGES), ODD | mutated_text(SOURCES))
@example("Package: make\n", "Package: k\nVersion: 1\n")
def test_indices(packages: str, sources: str) -> None:
    archive = apt.Archive(Downloader(), {"debian": ("http://mirror",)}, Path("none"))
    archive._indices["bullseye", "main/binary-amd64/Packages"] = packages
    archive._indices["bullseye", "main/source/Sources"] = sources
    for pin in (PIN, SOURCE):
        proper(partial(archive.confirm, [pin]))
    proper(partial(apt.find, packages, "make", "4.3-4.1"))


class Played(Downloader):
    """A mirror that has one body for everything."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._body = body

    def read(self, _url: str, _limit: int) -> bytes:
        return self._body


RELEASE = f"""\
Suite: oldstable
Codename: bullseye
Date: Sat, 31 Aug 2024 10:00:00 UTC
SHA256:
 {"a" * 64} 5 main/binary-amd64/Packages.xz
 {"b" * 64} 7 main/source/Sources.xz
"""


@fuzz
@given(ODD | mutated_text(RELEASE))
@example("Suite: bullseye\n")
def test_releases(text: str) -> None:
    archive = apt.Archive(Downloader(), {"debian": ("http://mirror",)}, Path("none"))
    archive._downloader = Played(b"")
    archive._signed_text = lambda *_: text  # type: ignore[method-assign]
    proper(partial(archive.index, "bullseye", "main/binary-amd64/Packages"))
    proper(partial(archive.release_date, "bullseye"))


@fuzz
@given(st.binary() | st.binary().map(lzma.compress) | mutated(lzma.compress(PACKAGES.encode())))
@example(lzma.compress(b"\xff"))
def test_packed_indices(body: bytes) -> None:
    archive = apt.Archive(Played(body), {"debian": ("http://mirror",)}, Path("none"))
    name = "main/binary-amd64/Packages"
    archive._releases["bullseye"] = {f"{name}.xz": hashlib.sha256(body).hexdigest()}
    archive._chosen["bullseye"] = "http://mirror"
    proper(partial(archive.index, "bullseye", name))


STANZA = """\
Types: deb
URIs: http://one/debian
Suites: bookworm bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 x
 -----END PGP PUBLIC KEY BLOCK-----
"""
LINE = "deb [arch=amd64 signed-by=/k.gpg] http://u:p@one/debian/ bookworm main # x\n"


@fuzz
@given(ODD | mutated_text(LINE), ODD | mutated_text(STANZA), st.binary(max_size=40))
def test_sources_of_apt(line: str, stanza: str, other: bytes) -> None:
    with folder() as place:
        (place / "sources.list.d").mkdir()
        (place / "sources.list").write_text(line, "utf-8", "replace")
        (place / "sources.list.d/a.sources").write_text(stanza, "utf-8", "replace")
        (place / "sources.list.d/b.sources").write_bytes(other)
        (place / "sources.list.d/c.list").write_bytes(other)
        found = proper(partial(apt.mirrors, {}, place))
        assert isinstance(found, dict)
        assert all(is_url(uri) for uris in found.values() for uri in uris)


def tarred(
    kind: str = "", form: int = tarfile.PAX_FORMAT, more: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """A tar with a folder, files and a link."""
    body = io.BytesIO()
    with tarfile.open(
        fileobj=body, mode="w", format=form, pax_headers={"comment": "c" * 40}
    ) as tar:
        for name, text in (
            {"k/go.mod": "module k\n", "k/" + "long/" * 30 + "x": "x"} | dict(more)
        ).items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("k/link")
        link.type, link.linkname = tarfile.SYMTYPE, "../../etc/passwd"
        tar.addfile(link)
    pack: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
    }
    return pack[kind](body.getvalue())


def deb(data: bytes = b"") -> bytes:
    """A binary package, whose content is that tar."""
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": tarred("gz", more={"./control": "Package: k\nVersion: 1\n"}),
        "data.tar.xz": lzma.compress(data) if data else tarred("xz"),
    }
    body = b"!<arch>\n"
    for name, content in parts.items():
        body += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        body += content + b"\n" * (len(content) % 2)
    return body


def members(path: Path) -> list[str]:
    with apt.deb_data(path) as tar:
        return [member.name for member in tar]


@fuzz
@given(
    st.binary()
    | st.binary().map(lambda b: b"!<arch>\n" + b)
    | mutated(deb()[:400], 3)
    | mutated(deb())
)
@example(deb())
def test_packages(body: bytes) -> None:
    with folder() as place:
        (place / "x.deb").write_bytes(body)
        proper(partial(apt.deb_control, place / "x.deb"))
        proper(partial(members, place / "x.deb"))


# ---- archives of sources ----------------------------------------------------------------

PLAIN = tarred()


@st.composite
def tars(draw: st.DrawFn) -> bytes:
    """A tar whose headers are damaged, but have sums as they should be; packed, or not."""
    body = bytearray(draw(st.sampled_from([PLAIN, tarred(form=tarfile.GNU_FORMAT)])))
    for _ in range(draw(st.integers(1, 4))):
        block = draw(st.integers(0, len(body) // 512 - 1)) * 512
        start, length = draw(
            st.sampled_from([(0, 100), (124, 12), (156, 1), (157, 100), (345, 155)])
        )
        size = struct.pack(
            ">Iq",
            draw(st.sampled_from([0x80000000, 0xFFFFFFFF])),
            draw(st.integers(-(2**40), 2**40)),
        )
        piece = draw(
            st.binary(min_size=1, max_size=length) | st.sampled_from([b"x", b"g", b"L", b"S", b"K"])
        )
        piece = size if start == 124 and draw(st.booleans()) else piece[:length]
        body[block + start : block + start + len(piece)] = piece
        body[block + 148 : block + 156] = b" " * 8
        total = sum(body[block : block + 512])
        body[block + 148 : block + 156] = b"%06o\0 " % (total % 8**6)
    return bytes(body)


PACKED = st.sampled_from(["gz", "bz2", "xz"]).flatmap(lambda kind: mutated(tarred(kind)))


@fuzz
@given(st.binary() | mutated(PLAIN) | tars() | PACKED, st.integers(0, 2))
def test_archives(body: bytes, strip: int) -> None:
    with folder() as place:
        path = place / "x.tar"
        path.write_bytes(body)
        found = proper(partial(archives.strip, path))
        assert isinstance(found, NokmemError) or found in (0, 1)
        named = proper(partial(archives.commit, path))
        assert isinstance(named, NokmemError | str)
        proper(partial(archives.read, path, strip, ["go.mod", "../../etc/passwd", "x"]))


# ---- ELF --------------------------------------------------------------------------------


@cache
def small_elf(functions: bytes = b"") -> bytes:
    """An ELF file as a linker would make it, with all that is looked at; with the names of
    functions it is a Go program."""
    names = b"\0libc.so.6\0seccomp_init\0GLIBC_2.14\0"
    symbol = struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0) + struct.pack("<IBBHQQ", 11, 18, 0, 0, 0, 0)
    need = struct.pack("<HHIII", 1, 1, 1, 16, 0) + struct.pack("<IHHII", 0, 0, 2, 24, 0)
    parts = {".interp": b"/lib64/ld-linux-x86-64.so.2\0", ".dynstr": names, ".dynsym": symbol}
    parts[".gnu.version_r"] = need
    if functions:
        parts[".gopclntab"] = functions
    at, offsets, body = 64 + 2 * 56, {}, b""
    for name, content in parts.items():
        offsets[name] = at + len(body)
        body += content
    tags = [(1, 1), (5, offsets[".dynstr"]), (6, offsets[".dynsym"]), (0x6FFFFFFE, 0), (0, 0)]
    parts[".dynamic"] = b"".join(struct.pack("<qQ", *tag) for tag in tags)
    offsets[".dynamic"] = at + len(body)
    body += parts[".dynamic"]
    rows = {".interp": (1, 0, 0), ".dynstr": (3, 0, 0), ".dynsym": (11, 2, 24)}
    rows |= {".gnu.version_r": (0x6FFFFFFE, 2, 0), ".dynamic": (6, 2, 16)}
    if functions:
        rows[".gopclntab"] = (1, 0, 0)
    titles = b"\0" + b"\0".join(name.encode() for name in rows) + b"\0.shstrtab\0"
    offsets[".shstrtab"] = at + len(body)
    parts[".shstrtab"] = titles
    rows[".shstrtab"] = (3, 0, 0)
    body += titles
    headers = bytes(64)
    for name, (kind, link, size) in rows.items():
        headers += struct.pack(
            "<IIQQQQIIQQ", titles.index(b"\0" + name.encode()) + 1, kind, 0, offsets[name],
            offsets[name], len(parts[name]), link, 1, 1, size,
        )  # fmt: skip
    programs = b"".join(
        struct.pack(
            "<IIQQQQQQ", kind, 4, offsets[n], offsets[n], 0, len(parts[n]), len(parts[n]), 1
        )
        for kind, n in ((3, ".interp"), (2, ".dynamic"))
    )
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack(
        "<HHIQQQIHHHHHH",
        3,
        62,
        1,
        0,
        64,
        at + len(body),
        0,
        64,
        56,
        2,
        64,
        len(rows) + 1,
        len(rows),
    )
    return head + programs + body + headers


def test_the_small_elf_is_one(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(small_elf())
    assert elf.read(tmp_path / "x") == elf.Elf(
        "EM_X86_64",
        "/lib64/ld-linux-x86-64.so.2",
        ("libc.so.6",),
        ("seccomp_init",),
        ("GLIBC_2.14",),
    )


@st.composite
def elves(draw: st.DrawFn) -> bytes:
    """The small one with numbers of its headers changed."""
    body = bytearray(small_elf())
    (start,) = struct.unpack_from("<Q", body, 0x28)
    for _ in range(draw(st.integers(1, 4))):
        low, high = draw(st.sampled_from([(16, 176), (176, start), (start, len(body))]))
        at = draw(st.integers(low, high - 9))
        width = draw(st.sampled_from([1, 2, 4, 8]))
        edges = [0, 1, 0xFF, 0xFFFF, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1]
        value = draw(st.sampled_from(edges) | st.integers(0, 2**64 - 1)) % 2 ** (8 * width)
        body[at : at + width] = value.to_bytes(width, "little")
    return bytes(body)


@fuzz
@given(st.binary() | st.binary().map(lambda b: b"\x7fELF" + b) | mutated(small_elf()) | elves())
def test_elf_files(body: bytes) -> None:
    with folder() as place:
        (place / "x").write_bytes(body)
        found = proper(partial(elf.read, place / "x"))
        assert found is None or isinstance(found, elf.Elf)
        assert elf.contains(place / "x", [b"\x7fELF"])[b"\x7fELF"] is (b"\x7fELF" in body)


# ---- addresses and what git says --------------------------------------------------------

BEGIN, END = "4711", "0815"
PRINTABLE = st.text(string.printable + "é٣@:/?#[]\\%", max_size=8)
PASSWORDS = PRINTABLE.map(lambda middle: f"{BEGIN}{middle}{END}")
ADDRESSES = st.tuples(
    st.sampled_from(["http", "https", "HTTP", "ssh", "git", "ftp", "x"]),
    st.sampled_from(["u", "", "u%40v", "u@v"]),
    PASSWORDS | PASSWORDS.map(lambda word: quote(word, safe="")),
    st.sampled_from(["h", "h.example:80", "[::1]", "[::1", "h:99999", "", "h:x"]),
    st.sampled_from(["", "/", "/a/b.git", "/a?token=47110815", "/a#47110815", "/a/../b"]),
)


def shows(text: object) -> bool:
    return BEGIN in str(text) or END in str(text)


@fuzz
@given(ADDRESSES)
@example(("http", "u", "4711/0815", "h", ""))
@example(("http", "u", "4711?0815", "h", ""))
@example(("http", "u", "4711#0815", "h", ""))
def test_no_password_in_what_is_shown(parts: tuple[str, ...]) -> None:
    scheme, user, password, host, path = parts
    url = f"{scheme}://{user}:{password}@{host}{path}"
    assert not shows(proper(partial(redacted, url)))
    assert not shows(proper(partial(shown, url)))
    named = proper(partial(own.own_archive, "go", "1.12.9", url, "a" * 64))
    assert not shows(vars(named) if isinstance(named, NokmemError) else named)
    variable = {"NOKMEM_DEBIAN_MIRROR": url}
    found = proper(partial(apt.mirrors, variable, Path("/none")))
    assert not isinstance(found, NokmemError) or not shows(vars(found))
    # Wrong as settings, too: a URL where none may be, a blank in it.
    for text in (
        f"[mirrors]\ngo = {_quoted(url + ' x')}\n",
        f"[mirrors]\ngo = [{{ a = {_quoted(url)} }}]\n",
        f"mirrors = {_quoted(url)}\n",
        f"[archives.go]\n1 = {_quoted(url)}\n",
        f"[archives.go.1]\nplace = {_quoted(url)}\n",
        f"[build]\nbuilder = {_quoted(url)}\n",
    ):
        error = proper(partial(own.parse, text, PLACE))
        assert not isinstance(error, NokmemError) or not shows(vars(error)), text


SAYINGS = st.sampled_from(
    [
        "fatal: unable to access '{}': Could not resolve host: h",
        "fatal: Authentication failed for '{}'",
        "fatal: repository '{}/' not found",
        "fatal: {}/info/refs?service=git-upload-pack not valid: is this a git repository?",
        "error: RPC failed; {}",
        "fatal: unable to update url base from redirection:\n  asked for: {}/info/refs\n   redirect: {}x",
        "From {}",
        "{}",
    ]
)


@fuzz
@given(ADDRESSES, SAYINGS, ODD, st.booleans(), st.booleans())
def test_no_password_in_what_git_says(
    parts: tuple[str, ...], saying: str, other: str, lonely: bool, spelled: bool
) -> None:
    scheme, user, password, host, path = parts
    url = f"{scheme}://{user}:{password}@{host}{path.partition('?')[0].partition('#')[0]}"
    assume(not re.search(r"[\s'\"]", unquote(url)))  # a mirror has no blank in it
    said = saying.replace("{}", unquote(url) if spelled else url) + ("" if lonely else f"\n{other}")
    error = GitCommandError("fetch", 128, said)
    assert not shows(proper(partial(gitrepo._reason, error, url)))
    assert not shows(proper(partial(scrubbed, said)))


@fuzz
@given(ODD, ODD)
def test_anything_that_git_says(said: str, url: str) -> None:
    for error in (GitCommandError("fetch", 128, said), OSError(said)):
        assert isinstance(gitrepo._reason(error, url), str)


# ---- upstream's files -------------------------------------------------------------------

FILES = {
    "VERSION": "v1.21.0-go1.16.9-buster.0\n",
    "Godeps.json": '{"Deps": [{"ImportPath": "github.com/opencontainers/runc/x", "Rev": "'
    + "a" * 40
    + '"}]}',
    "go.mod": "module k\n\ngo 1.15\n\nrequire (\n\tgithub.com/opencontainers/runc v1.0.0-rc93\n)\n",
    "memory.go": '// +build linux,!nokmem\n\npackage fs\n\nconst x = `"memory.kmem.limit_in_bytes"`\n',
    "golang.sh": '    gotags="selinux,notest,$(echo "${GOFLAGS:-}" | sed -e \'s|x|\')"\n',
    "Makefile": "BUILDTAGS ?= seccomp selinux\n",
    "Dockerfile": "ENV GOLANG_VERSION 1.12.9\ngoRelArch='linux-amd64'; goRelSha256='"
    + "a" * 64
    + "'",
}
PARSERS: tuple[Callable[[str], object], ...] = (
    evidence.go_version,
    evidence.runc_of_godeps,
    evidence.runc_of_go_mod,
    evidence.build_tags,
    evidence.go_directive,
    evidence.default_tags,
    evidence.archives,
    evidence.left_out_by_nokmem,
    lambda text: evidence.accounting({"memory.go": text, "a.go": text}),
)


@fuzz
@given(ODD | JSON.map(json.dumps) | st.sampled_from(sorted(FILES.values())).flatmap(mutated_text))
@example("[" * 100_000)
@example('{"Deps": [{"ImportPath": "github.com/opencontainers/runc", "Rev": ""}]}')
def test_evidence(text: str) -> None:
    for parse in PARSERS:
        found = proper(partial(evidence._fact, parse, text, "file", "v1.20.2"))
        if parse in (evidence.runc_of_godeps, evidence.runc_of_go_mod) and isinstance(found, str):
            assert len(found) >= 12 or found.startswith("v")


@fuzz
@given(ODD | st.text("'\"\\\n\r\0a", max_size=12), st.integers(), st.lists(ODD, max_size=3))
@example("'''\"", 0, [])
def test_what_is_written_as_a_fact_reads_back(text: str, number: int, words: list[str]) -> None:
    assume(abs(number) < 2**63)
    row = {"text": text, "number": number, "words": tuple(words), "yes": True}
    data = tomllib.loads(evidence._row("v1.20.2", row))
    assert data == {"v1.20.2": {**row, "words": words}}
