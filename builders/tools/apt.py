"""Debian archives: where the machine's mirrors are, and what a signed archive says of a file.

The chain: InRelease, signed by the archive's keyring -> the sha256 of each index it lists ->
the path, size and sha256 of each file in that index. Valid-Until is not looked at: a caller
pins each file by hash, so an old but authentic index can only confirm or refuse a pin, never
replace what is installed.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from debian.arfile import ArError, ArFile
from debian.deb822 import Deb822, Release
from debian.debfile import DebError, DebFile

from builders.errors import (
    IntegrityError,
    MachineError,
    NokmemError,
    UnavailableError,
    UsageError,
)
from builders.tools import process
from builders.tools.archives import BROKEN
from builders.tools.download import Downloader, below, is_url, redacted, scrubbed

ARCHIVES = ("debian", "debian-security")
MIRROR_VARIABLES = {
    "debian": "NOKMEM_DEBIAN_MIRROR",
    "debian-security": "NOKMEM_DEBIAN_SECURITY_MIRROR",
}
KEYRING_VARIABLE = "NOKMEM_DEBIAN_KEYRING"
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
    Path("/usr/share/keyring/debian-archive-keyring.gpg"),
)
KEYRING_HINT = (
    "apt-get install debian-archive-keyring   (Debian, Ubuntu)   |   "
    f"dnf install epel-release && dnf install debian-keyring   (EL)   |   or set {KEYRING_VARIABLE}"
)
#: Names by which apt configurations refer to Debian's own suites.
SUITES = re.compile(
    r"(buster|bullseye|bookworm|trixie|forky|duke|sid|unstable|testing|(old){0,2}stable)"
    r"(-updates|-security|-backports)?/?"
)
#: What gpgv says of a signature that it does not accept, and what that means.
FLAWS = {
    "BADSIG": "the text is not the one that was signed",
    "EXPKEYSIG": "the key that signed it has expired",
    "EXPSIG": "the signature has expired",
    "NODATA": "there is no signature",
    "NO_PUBKEY": "the keyring does not have the key that signed it",
    "REVKEYSIG": "the key that signed it was revoked",
}
#: So it speaks where the clock is behind the making of the key: as of no known flaw.
KEY_TO_COME = re.compile("created .* in the future")
RELEASE_LIMIT = 4 << 20
INDEX_LIMIT = 200 << 20


@dataclass(frozen=True)
class Pinned:
    """One file of an archive as a caller pinned it. `architecture` "source" means a source
    package's file; else a binary package of that architecture ("all" included)."""

    suite: str
    package: str
    version: str
    architecture: str
    path: str
    size: int
    sha256: str


def archive_of(suite: str) -> str:
    """Which of the two archives holds a suite."""
    return "debian-security" if suite.endswith("-security") else "debian"


def mirrors(
    environment: Mapping[str, str], folder: Path = Path("/etc/apt")
) -> dict[str, tuple[str, ...]]:
    """archive -> URIs to try, from the user's variable alone, else the machine's apt sources.

    Other people's repositories carry Debian's suite names too, so several may be found; only a
    signature tells which of them is the archive. UsageError where a variable is no URL.
    """
    found: dict[str, list[str]] = {archive: [] for archive in ARCHIVES}
    for uri, suite, components in _configured(folder):
        if SUITES.fullmatch(suite) and "main" in components and is_url(uri):
            rows = found[archive_of(suite.rstrip("/"))]
            rows += [uri.rstrip("/")] if uri.rstrip("/") not in rows else []
    for archive, variable in MIRROR_VARIABLES.items():
        if value := environment.get(variable):
            if not is_url(value):
                raise UsageError(
                    "this is not the URL of a mirror (it is not shown: it may hold a password)",
                    place=variable,
                    next_step="write it as https://host/debian; quote special characters of a "
                    "password as %xx",
                )
            found[archive] = [value]
    return {archive: tuple(uris) for archive, uris in found.items()}


def proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """apt's own proxies, where there is an apt and the environment names none."""
    if any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in environment):
        return {}
    apt_config = process.find("apt-config")
    if apt_config is None:
        return {}
    _, text = process.capture([apt_config, "dump", "Acquire"])
    pairs = re.findall(r'^Acquire::(https?)::Proxy "(http[^"]+)";$', text, re.M)
    return dict(pairs)


def keyring(environment: Mapping[str, str]) -> Path:
    """The archive keyring, or MachineError with the command that installs it."""
    named = environment.get(KEYRING_VARIABLE)
    candidates = (Path(named),) if named else KEYRINGS
    for path in candidates:
        if path.is_file():
            return path
    raise MachineError(
        "the keyring that signs Debian's archives is not here",
        place=", ".join(str(path) for path in candidates),
        next_step=KEYRING_HINT,
    )


class Archive:
    """Debian's archives behind one set of mirrors, read through their signatures."""

    def __init__(
        self,
        downloader: Downloader,
        mirrors_by_archive: Mapping[str, tuple[str, ...]],
        keyring_path: Path,
    ) -> None:
        self._downloader = downloader
        self._mirrors = mirrors_by_archive
        self._chosen: dict[str, str] = {}
        self._keyring = keyring_path
        self._releases: dict[str, Mapping[str, str]] = {}
        self._indices: dict[tuple[str, str], str] = {}
        self._dates: dict[str, str] = {}

    def url(self, suite: str, path: str) -> str:
        """Where a path of the suite's archive is, on the mirror whose signature was good."""
        return self.urls(suite, path)[0]

    def urls(self, suite: str, path: str) -> list[str]:
        """The same, and then on each other mirror: for what is known by its hash."""
        self._release(suite)
        others = [m for m in self._mirrors[archive_of(suite)] if m != self._chosen[suite]]
        return [below(mirror, path) for mirror in (self._chosen[suite], *others)]

    def confirm(self, wanted: Iterable[Pinned]) -> None:
        """Check that the signed archives list every pinned file just as it is pinned."""
        for pin in wanted:
            self._confirm(pin)

    def _confirm(self, pin: Pinned) -> None:
        area = "source" if pin.architecture == "source" else "binary-amd64"
        index = "main/source/Sources" if area == "source" else f"main/{area}/Packages"
        where = f"{index} of {pin.suite}"
        text = self.index(pin.suite, index)
        with _understood(where):
            self._compare(pin, text, where)

    def _compare(self, pin: Pinned, text: str, where: str) -> None:
        offered: list[str] = []
        for stanza in _stanzas(text, pin.package):
            if stanza["Version"] != pin.version:
                offered.append(stanza["Version"])
                continue
            listed = _listed_file(stanza, pin)
            if listed is None:
                continue
            if listed != (pin.size, pin.sha256):
                raise IntegrityError(
                    f"{pin.package} {pin.version}: pinned sha256 {pin.sha256}, "
                    f"the signed archive says {listed[1]}",
                    place=where,
                    next_step="compare with another mirror; do not change the pin to fit",
                )
            return
        raise UnavailableError(
            f"{pin.package} {pin.version} is not in the archive"
            + (f"; it has {', '.join(sorted(set(offered)))}" if offered else ""),
            place=where,
            next_step="use a mirror or snapshot that still has it, "
            f"by {MIRROR_VARIABLES[archive_of(pin.suite)]}",
        )

    def release_date(self, suite: str) -> str:
        """The Date of the suite's signed Release file."""
        self._release(suite)
        return self._dates[suite]

    def index(self, suite: str, name: str) -> str:
        """The text of an index such as main/binary-amd64/Packages, its hash proven."""
        if (suite, name) not in self._indices:
            sha256 = self._release(suite).get(f"{name}.xz")
            if sha256 is None:
                raise UnavailableError(
                    f"{suite} lists no {name}.xz",
                    place=f"InRelease of {suite}",
                    next_step=f"name a whole mirror, by {MIRROR_VARIABLES[archive_of(suite)]}",
                )
            packed = self._packed_index(suite, f"dists/{suite}/{name}", sha256)
            with _understood(f"{name}.xz of {suite}"):
                self._indices[suite, name] = lzma.decompress(packed).decode()
        return self._indices[suite, name]

    def _packed_index(self, suite: str, path: str, sha256: str) -> bytes:
        """An index as it travels, from the first mirror that gives it whole: by its hash, or, since
        not each mirror has that, by its name."""
        problems = list[NokmemError]()
        by_hash = f"{path.rpartition('/')[0]}/by-hash/SHA256/{sha256}"
        for url in (*self.urls(suite, by_hash), *self.urls(suite, f"{path}.xz")):
            found = self._body(url, sha256)
            if isinstance(found, bytes):
                return found
            problems.append(found)
        raise _worst(problems)

    def _body(self, url: str, sha256: str) -> bytes | NokmemError:
        """What is at an address, or why it is not what the signed Release says."""
        try:
            body = self._downloader.read(url, INDEX_LIMIT)
        except (IntegrityError, UnavailableError) as error:
            return error
        actual = hashlib.sha256(body).hexdigest()
        if actual == sha256:
            return body
        return IntegrityError(
            f"{url.rpartition('/')[2]}: the signed Release says sha256 {sha256}, got {actual}",
            place=redacted(url),
            next_step="try again, or another mirror",
        )

    def _release(self, suite: str) -> Mapping[str, str]:
        """The hashes of a suite's indices, from the first mirror whose signature is good."""
        archive, problems = archive_of(suite), list[NokmemError]()
        for mirror in () if suite in self._releases else self._mirrors.get(archive, ()):
            try:
                self._read_release(suite, mirror)
                break
            except (IntegrityError, UnavailableError) as error:
                problems.append(error)
        if suite in self._releases:
            return self._releases[suite]
        if not problems:
            raise UnavailableError(
                f"no mirror of the {archive} archive is known",
                place="the machine's apt configuration and the environment",
                next_step=f"set {MIRROR_VARIABLES[archive]} to the URL of a mirror",
            )
        raise _worst(problems)

    def _read_release(self, suite: str, mirror: str) -> None:
        url = below(mirror, f"dists/{suite}/InRelease")
        text = self._signed_text(self._downloader.read(url, RELEASE_LIMIT), url)
        with _understood(redacted(url)):
            release = Release(text)
            hashes = {row["name"]: row["sha256"] for row in release["SHA256"]}
        if suite not in (release.get("Codename"), release.get("Suite")):
            raise IntegrityError(
                f"this is the Release of {release.get('Codename')}, not of {suite}",
                place=redacted(url),
                next_step="check the mirror's address",
            )
        self._dates[suite] = release.get("Date", "")
        self._chosen[suite] = mirror
        self._releases[suite] = hashes

    def _signed_text(self, body: bytes, url: str) -> str:
        """The text that the signature covers, and nothing around it."""
        gpgv = process.require("gpgv", "to check the archive's signature")
        with tempfile.TemporaryDirectory(prefix="nokmem-gpgv-") as folder:
            signed, text = Path(folder, "InRelease"), Path(folder, "Release")
            signed.write_bytes(body)
            _, status = process.capture(
                [
                    *(gpgv, "--homedir", folder, "--status-fd", "1"),
                    *("--keyring", str(self._keyring), "--output", str(text), str(signed)),
                ]
            )
            seen = set(re.findall(r"^\[GNUPG:\] (\w+)", status, re.M))
            if not {"GOODSIG", "VALIDSIG"} <= seen or "BADSIG" in seen or not text.is_file():
                flaws = [f"{FLAWS[word]} ({word})" for word in sorted(seen & set(FLAWS))]
                step = f"check mirror and keyring ({self._keyring}); an updated "
                step += "debian-archive-keyring may have the new keys"
                if KEY_TO_COME.search(status):
                    flaws = ["by this machine's clock, the key that signed it is not yet made"]
                    step = "set the clock"
                elif seen & {"EXPSIG", "EXPKEYSIG"}:
                    step = f"check this machine's clock; if it is right, {step}"
                raise IntegrityError(
                    f"the signature is not good{': ' if flaws else ''}{'; '.join(flaws)}",
                    place=redacted(url),
                    next_step=step,
                )
            return text.read_text(encoding="utf-8", errors="replace")


def _worst(problems: Sequence[NokmemError]) -> NokmemError:
    """Of what each mirror did, what to say: what is wrong tells more than what is silent."""
    worst = next((one for one in problems if isinstance(one, IntegrityError)), problems[-1])
    if len(problems) > 1:
        worst.detail = tuple(f"{one.place}: {one.fact}" for one in problems)
    return worst


@contextmanager
def _understood(place: str) -> Iterator[None]:
    """What the archive signed, as IntegrityError where it is not as such files are."""
    try:
        yield
    except (KeyError, ValueError, TypeError, lzma.LZMAError, EOFError) as error:
        raise IntegrityError(
            f"this cannot be understood: {error!r}",
            place=place,
            next_step="try again, or another mirror",
        ) from error


@contextmanager
def _package(path: Path) -> Iterator[None]:
    """Whatever a broken .deb leads to, as IntegrityError."""
    try:
        _walk(path)
        yield
    except (DebError, ArError, *BROKEN) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise IntegrityError(
            f"this is no Debian package, or it is damaged: {error}",
            place=str(path),
            next_step="remove it, so that it is fetched again",
        ) from error


def _walk(path: Path) -> None:
    """Look at the sizes of an ar archive: one below zero would lead ArFile back for ever."""
    end = path.stat().st_size
    with path.open("rb") as file:
        at = len(file.read(len(b"!<arch>\n")))
        while at < end:
            file.seek(at)
            found = re.fullmatch(rb".{48}([0-9]+) *`\n", file.read(60), re.S)
            if not found:
                raise ValueError(f"no member begins at {at}")
            at += 60 + int(found[1])
            if at > end:
                raise ValueError("a member is cut short")
            at += int(found[1]) % 2


@contextmanager
def deb_data(path: Path) -> Iterator[tarfile.TarFile]:
    """The data archive of a .deb, open for reading; IntegrityError where it is none."""
    with _package(path), path.open("rb") as file:
        ar = ArFile(fileobj=file)
        name = next((name for name in ar.getnames() if name.startswith("data.tar")), "")
        with tarfile.open(fileobj=cast(IO[bytes], ar.getmember(name)), mode="r:*") as tar:
            yield tar


def deb_control(path: Path) -> str:
    """The control stanza of a .deb, ending in a newline; IntegrityError where it is none."""
    with _package(path), closing(DebFile(str(path))) as deb:
        return str(deb.debcontrol())


def find(index: str, package: str, version: str | None = None) -> Mapping[str, str] | None:
    """The fields of a package in an index, of any version where none is given, or None."""
    for stanza in _stanzas(index, package):
        if version in (None, stanza.get("Version")):
            return stanza
    return None


def _chunks(index: str, package: str) -> Iterator[str]:
    """The raw stanzas of a package; indices of 60 MB are too long to parse whole."""
    head = f"Package: {package}\n"
    start = 0 if index.startswith(head) else index.find("\n\n" + head)
    while start >= 0:
        end = index.find("\n\n", start + 2)
        yield index[start : end if end >= 0 else len(index)].strip("\n") + "\n"
        start = index.find("\n\n" + head, end) if end >= 0 else -1


def _stanzas(index: str, package: str) -> Iterator[Deb822]:
    for chunk in _chunks(index, package):
        yield Deb822(chunk)


def _listed_file(stanza: Deb822, pin: Pinned) -> tuple[int, str] | None:
    """(size, sha256) that an index gives for the pinned path, or None."""
    if pin.architecture != "source":
        if stanza["Architecture"] != pin.architecture or stanza["Filename"] != pin.path:
            return None
        return int(stanza["Size"]), stanza["SHA256"]
    for line in stanza["Checksums-Sha256"].split("\n"):
        words = line.split()
        if len(words) == 3 and f"{stanza['Directory']}/{words[2]}" == pin.path:
            return int(words[1]), words[0]
    return None


def _configured(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(URI, suite, components) of every enabled deb source in an apt configuration folder."""
    parts = folder / "sources.list.d"
    for path in [folder / "sources.list", *sorted(parts.glob("*.list"))]:
        for line in _lines(path):
            match = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)([^#]*)", line)
            if match:
                yield match[1], match[2], match[3].split()
    for path in sorted(parts.glob("*.sources")):
        for stanza in _paragraphs(path):
            if "deb" in stanza.get("Types", "").split() and stanza.get("Enabled", "yes") != "no":
                for uri in stanza.get("URIs", "").split():
                    for suite in stanza.get("Suites", "").split():
                        yield uri, suite, stanza.get("Components", "").split()


def _paragraphs(path: Path) -> list[Deb822]:
    try:
        return list(Deb822.iter_paragraphs(_lines(path)))
    except ValueError:
        return []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError):
        return []


def solve(
    folder: Path,
    mirrors_by_suite: Mapping[str, str],
    keyring_path: Path,
    requests: Iterable[Iterable[str]],
) -> list[list[tuple[str, str, str]]]:
    """What apt would install into an empty system, once for each request.

    Runs the machine's apt-get with a configuration of its own below `folder`; nothing of the
    machine's is read or changed. Returns (package, version, architecture) rows.
    """
    apt_get = process.require("apt-get", "to resolve package dependencies")
    for name in ("lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    sources = folder / "etc/sources.list"
    sources.write_text(
        "".join(
            f"deb [signed-by={keyring_path} arch=amd64] {mirror} {suite} main\n"
            for suite, mirror in mirrors_by_suite.items()
        )
    )
    config = folder / "apt.conf"
    config.write_text(
        f'Dir "{folder}";\nDir::Etc "{folder}/etc";\nDir::State "{folder}";\n'
        f'Dir::State::status "{folder}/status";\nDir::Cache "{folder}/cache";\n'
        'APT::Architecture "amd64";\nAPT::Architectures { "amd64"; };\n'
        'APT::Install-Recommends "false";\nAcquire::Check-Valid-Until "false";\n'
        'APT::Sandbox::User "root";\nAcquire::Languages "none";\n'
    )
    environment = {"APT_CONFIG": str(config)}
    result, text = process.capture([apt_get, "update"], environment=environment, timeout=300)
    if not result.ok or re.search(r"^[EW]:", text, re.M):
        raise UnavailableError(
            "apt-get update failed",
            place=", ".join(mirrors_by_suite),
            next_step="read the lines above; check the mirrors and the network",
            detail=tuple(map(scrubbed, result.tail)),
        )
    answers = []
    for names in requests:
        argv = [apt_get, "install", "--simulate", *names]
        result, text = process.capture(argv, environment=environment, timeout=300)
        if not result.ok:
            raise UnavailableError(
                "apt cannot resolve these packages",
                place=result.command,
                next_step="read the lines above; the mirror's suites may not fit each other yet",
                detail=result.tail,
            )
        answers.append(re.findall(r"^Inst (\S+) \((\S+) .*\[(\w+)\]\)", text, re.M))
    return answers
