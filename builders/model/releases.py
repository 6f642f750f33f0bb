"""The facts: what is known of each release, toolchain and target, loaded from data/ and checked.

A fact that is missing, malformed or without evidence is a FactsError at load time, so that
nothing downstream has to ask.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from builders.errors import FactsError, UnknownReleaseError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DATA = Path(__file__).parent / "data"
VERSION = re.compile(r"v(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})")
SHA256 = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")
GO = re.compile(r"1\.\d{1,2}(\.\d{1,2})?")
DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
#: How a runc release keeps from accounting: by the build tag, not at all, or of its own.
NOKMEM = ("tag", "absent", "not needed")
#: How a kubelet is kept from accounting: by the build tag of the libcontainer it vendors, by a
#: patch that brings this tag, or of its own.
MECHANISMS = ("tag", "backport", "not needed")

T = TypeVar("T")


@dataclass(frozen=True)
class DebianFile:
    """A file of a Debian archive. `architecture` is "source" for a source package's file."""

    suite: str
    package: str
    version: str
    architecture: str
    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class GoBuild:
    """What upstream's Makefile gives the compiler, for a source that comes without it."""

    flags: tuple[str, ...]
    static_tags: tuple[str, ...]
    static_ldflags: tuple[str, ...]


@dataclass(frozen=True)
class DebianSource:
    """Where the distribution holds a component's source; `fixes` are the CVEs that its own
    patches mend."""

    revision: str
    files: tuple[DebianFile, ...]
    evidence: str
    unapplied: str = ""
    fixes: tuple[str, ...] = ()
    go_build: GoBuild | None = None


@dataclass(frozen=True)
class Release:
    """One Kubernetes release. `epoch` is the committer date of its tag, in seconds since 1970;
    `go` what upstream built it with; `mechanism` one of MECHANISMS; `kubelet_tags` those that
    its build script sets of its own; `runc` the release that is built beside it."""

    version: str
    commit: str
    epoch: int
    go: str
    vendored_runc: str
    runc: str
    mechanism: str
    kubelet_tags: tuple[str, ...]


@dataclass(frozen=True)
class Proof:
    """A component that was built from a source and passed every check. `date` is ISO 8601."""

    component: str
    release: str
    source: str
    go: str
    date: str
    sha256: str


@dataclass(frozen=True)
class RuncRelease:
    """One runc release. `go` is the language version of its go.mod, "" where it has none;
    `prints` the version that it prints; `nokmem` one of NOKMEM; `cves` what it is open to."""

    version: str
    commit: str
    go: str
    prints: str
    default_tags: tuple[str, ...]
    nokmem: str
    cves: tuple[str, ...]


@dataclass(frozen=True)
class Toolchain:
    """The packages, pinned, that a toolchain tree is made of.

    `required` names those that are unpacked before the tree can run anything of its own.
    """

    name: str
    suites: tuple[str, ...]
    script: str
    go: str
    go_root: str
    go_package: str
    debootstrap: DebianFile
    required: tuple[str, ...]
    packages: tuple[DebianFile, ...]


@dataclass(frozen=True)
class Target:
    """What the nodes have. `machine` is the ELF machine, `glibc` the highest symbol version."""

    name: str
    machine: str
    machine_name: str
    glibc: str
    libseccomp: str
    libraries: tuple[str, ...]
    libseccomp_newer_symbols: tuple[str, ...]


class Facts:
    """Everything below one data folder. Parsed on first use, part by part."""

    def __init__(self, folder: Path = DATA) -> None:
        self._folder = folder

    def release(self, version: str) -> Release:
        """The facts of a Kubernetes release such as v1.20.2."""
        if not VERSION.fullmatch(version):
            raise UsageError(
                f"{version!r} is not a Kubernetes version",
                place="--k8s",
                next_step="write it as v1.20.2",
            )
        try:
            return self.releases[version]
        except KeyError:
            asked = _version_numbers(version)
            near = sorted(
                self.releases, key=lambda known: _distance(_version_numbers(known), asked)
            )
            raise UnknownReleaseError(
                f"no facts are held about Kubernetes {version}",
                place=str(self._folder / "kubernetes"),
                next_step=f"nearest known: {', '.join(near[:3])}",
            ) from None

    def runc(self, version: str) -> RuncRelease:
        """The facts of a runc release such as 1.0.0-rc93, with or without a v before it."""
        try:
            return self.runcs[version.removeprefix("v")]
        except KeyError:
            near = difflib.get_close_matches(version, self.runcs, n=3, cutoff=0)
            raise UsageError(
                f"no facts are held about runc {version!r}",
                place="--runc",
                next_step=f"known are {', '.join(self.runcs)}; nearest: {', '.join(near)}",
            ) from None

    @property
    def runc_repository(self) -> str:
        """Upstream's repository."""
        return _checked(self._folder / "runc.toml", lambda data: _text(data, "repository"))

    @cached_property
    def releases(self) -> dict[str, Release]:
        pairs = _checked(self._folder / "pairs.toml", lambda data: dict(data["runc"]))
        found: dict[str, Release] = {}
        for path in (self._folder / "kubernetes").glob("*.toml"):
            found.update(_checked(path, lambda data: _releases(data, pairs)))
        return {version: found[version] for version in sorted(found, key=_version_numbers)}

    @cached_property
    def held(self) -> tuple[str, ...]:
        """The Kubernetes releases that a source holds and no patch is wanting for."""
        return tuple(
            version
            for version, release in self.releases.items()
            if release.mechanism != "backport" and self.debian_source("kubernetes", version)
        )

    @cached_property
    def proofs(self) -> tuple[Proof, ...]:
        return _checked(self._folder / "proofs.toml", _proofs)

    @cached_property
    def runcs(self) -> dict[str, RuncRelease]:
        return _checked(self._folder / "runc.toml", lambda data: _runcs(data))

    @cached_property
    def targets(self) -> dict[str, Target]:
        return _checked(self._folder / "targets.toml", lambda data: _targets(data))

    @cached_property
    def toolchain(self) -> Toolchain:
        return _checked(
            self._folder / "debian/bullseye.toml", lambda data: _toolchain(data, self._lock)
        )

    def debian_source(self, component: str, version: str) -> DebianSource | None:
        """The distribution's source of a component, or None where it holds no such version."""
        return self.debian_sources.get((component, version))

    @cached_property
    def debian_sources(self) -> dict[tuple[str, str], DebianSource]:
        found = _checked(self._folder / "debian/bookworm.toml", _source_packages)
        found |= _checked(
            self._folder / "debian/bullseye.toml", lambda data: _binary_sources(data, self._lock)
        )
        return found

    @cached_property
    def _lock(self) -> Mapping[str, Any]:
        return _checked(self._folder / "debian/bullseye.lock.toml", lambda data: data)


def load_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain data; FactsError with file and position where it is broken."""
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FactsError(f"cannot be read: {error}", place=str(path)) from error
    return data


def _checked(path: Path, build: Callable[[dict[str, Any]], T]) -> T:
    data = load_toml(path)
    try:
        return build(data)
    except KeyError as error:
        raise FactsError(f"the key {error.args[0]!r} is missing", place=str(path)) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise FactsError(str(error), place=str(path)) from error


def _matching(pattern: re.Pattern[str], value: object, name: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{name} is malformed: {value!r}")
    return value


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} must be a text that says something")
    return value


def _version_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.removeprefix("v").split("."))


def _distance(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(abs(a - b) for a, b in zip(one, other, strict=True))


def _releases(data: Mapping[str, Any], pairs: Mapping[str, str]) -> dict[str, Release]:
    for name in ("commit", "go", "vendored_runc", "nokmem", "kubelet_tags"):
        _text(data["evidence"], name)
    known = list(data["releases"])
    if known != sorted(known, key=_version_numbers):
        raise ValueError("the releases are not in order")
    mechanisms = _ranges(data["nokmem"], "mechanism", known)
    tags = _ranges(data["kubelet_tags"], "tags", known)
    found = {}
    for version, fact in data["releases"].items():
        if not _matching(VERSION, version, "release").startswith(f"v{data['minor']}."):
            raise ValueError(f"{version} is not a release of {data['minor']}")
        if mechanisms[version] not in MECHANISMS:
            raise ValueError(f"mechanism {mechanisms[version]!r} is not one of {MECHANISMS}")
        found[version] = Release(
            version=version,
            commit=_matching(COMMIT, fact["commit"], "commit"),
            epoch=int(fact["epoch"]),
            go=_matching(GO, fact["go"], "go"),
            vendored_runc=_text(fact, "vendored_runc"),
            runc=pairs[data["minor"]],
            mechanism=mechanisms[version],
            kubelet_tags=tuple(tags[version]),
        )
    return found


def _ranges(rows: Iterable[Mapping[str, Any]], name: str, known: list[str]) -> dict[str, Any]:
    """release -> value, where each row's value holds from its release on."""
    starts = {row["from"]: row[name] for row in rows}
    if known and (known[0] not in starts or not set(starts) <= set(known)):
        raise ValueError(f"{name} does not begin at {known[0]}, or at a release that is not here")
    found: dict[str, Any] = {}
    value: Any = None
    for version in known:
        value = starts.get(version, value)
        found[version] = value
    return found


def _proofs(data: Mapping[str, Any]) -> tuple[Proof, ...]:
    return tuple(
        Proof(
            component=component,
            release=_text(row, "release"),
            source=_text(row, "source"),
            go=_matching(GO, row["go"], "go"),
            date=_matching(DATE, row["date"], "date"),
            sha256=_matching(SHA256, row["sha256"], "sha256"),
        )
        for component in ("kubernetes", "runc")
        for row in data[component]
    )


def _runcs(data: Mapping[str, Any]) -> dict[str, RuncRelease]:
    for name in ("commit", "go", "prints", "default_tags", "nokmem"):
        _text(data["evidence"], name)
    order = list(data["releases"])
    for cve in data["cves"]:
        for name in ("id", "summary", "evidence"):
            _text(cve, name)
        order.index(cve["fixed_in"])
    found = {}
    for version, fact in data["releases"].items():
        if fact["nokmem"] not in NOKMEM:
            raise ValueError(f"nokmem of {version} is {fact['nokmem']!r}, not one of {NOKMEM}")
        found[version] = RuncRelease(
            version=version,
            commit=_matching(COMMIT, fact["commit"], "commit"),
            go=fact["go"],
            prints=_text(fact, "prints"),
            default_tags=tuple(fact["default_tags"]),
            nokmem=fact["nokmem"],
            cves=tuple(
                cve["id"]
                for cve in data["cves"]
                if order.index(version) < order.index(cve["fixed_in"])
            ),
        )
    return found


def _targets(data: Mapping[str, Any]) -> dict[str, Target]:
    found = {}
    for name, fact in data["targets"].items():
        for evidence in ("glibc", "libseccomp", "libraries", "libseccomp_newer_symbols"):
            _text(fact, f"{evidence}_evidence")
        found[name] = Target(
            name=name,
            machine=_text(fact, "machine"),
            machine_name=_text(fact, "machine_name"),
            glibc=_text(fact, "glibc"),
            libseccomp=_text(fact, "libseccomp"),
            libraries=tuple(fact["libraries"]),
            libseccomp_newer_symbols=tuple(fact["libseccomp_newer_symbols"]),
        )
    return found


def _debian_file(row: Mapping[str, Any]) -> DebianFile:
    if row["path"].startswith("/") or ".." in Path(row["path"]).parts:
        raise ValueError(f"path leaves the archive: {row['path']!r}")
    return DebianFile(
        suite=_text(row, "suite"),
        package=_text(row, "package"),
        version=_text(row, "version"),
        architecture=_text(row, "architecture"),
        path=_text(row, "path"),
        size=int(row["size"]),
        sha256=_matching(SHA256, row["sha256"], "sha256"),
    )


def _toolchain(data: Mapping[str, Any], lock: Mapping[str, Any]) -> Toolchain:
    packages = tuple(_debian_file(row) for row in lock["toolchain"])
    names = {file.package for file in packages}
    missing = (set(data["packages"]) | set(lock["required"])) - names
    if missing:
        raise ValueError(f"not in the lock: {', '.join(sorted(missing))}; run invoke pins")
    _text(data["go"], "evidence")
    return Toolchain(
        name=_text(data, "name"),
        suites=tuple(data["suites"]),
        script=_text(data, "script"),
        go=_text(data["go"], "version"),
        go_root=_text(data, "go_root"),
        go_package=next(
            f"{file.package} {file.version}"
            for file in packages
            if file.package == data["go"]["package"]
        ),
        debootstrap=_debian_file(lock["debootstrap"]),
        required=tuple(lock["required"]),
        packages=packages,
    )


def _source_packages(data: Mapping[str, Any]) -> dict[tuple[str, str], DebianSource]:
    found = {}
    for component, versions in data["sources"].items():
        for version, fact in versions.items():
            file = _debian_file({**fact, "architecture": "source"})
            found[component, version] = DebianSource(
                revision=file.version,
                files=(file,),
                evidence=_text(fact, "evidence"),
                unapplied=_text(fact, "unapplied"),
            )
    return found


def _binary_sources(
    data: Mapping[str, Any], lock: Mapping[str, Any]
) -> dict[tuple[str, str], DebianSource]:
    found = {}
    for component, versions in data["sources"].items():
        for version, fact in versions.items():
            files = tuple(_debian_file(row) for row in lock["sources"][component][version])
            revisions = [f.version for f in files if f.package == fact["package_version_of"]]
            _text(fact, "fixes_evidence")
            _text(fact, "makefile_evidence")
            if len(revisions) != 1 or not set(fact["packages"]) <= {f.package for f in files}:
                raise ValueError(f"{component} {version} is not in the lock; run invoke pins")
            found[component, version] = DebianSource(
                revision=revisions[0],
                files=files,
                evidence=_text(fact, "evidence"),
                fixes=tuple(fact["fixes"]),
                go_build=GoBuild(
                    flags=tuple(fact["flags"]),
                    static_tags=tuple(fact["static_tags"]),
                    static_ldflags=tuple(fact["static_ldflags"]),
                ),
            )
    return found
