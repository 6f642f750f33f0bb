"""The facts: what is known of each release, toolchain and target, loaded from data/ and checked.

A fact that is missing, malformed or without evidence is a FactsError at load time, so that
nothing downstream has to ask.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from builders.errors import UnknownReleaseError, UsageError
from builders.model import toolchains
from builders.model.packages import Platform, platforms
from builders.model.reading import GO, SHA256, checked, load_toml, matching, text
from builders.model.series import Patch, load_series
from builders.model.toolchains import DebianSource, GoArchive, Target, Toolchain

DATA = Path(__file__).parent / "data"
PATCHES = Path(__file__).parents[2] / "patches"
RECIPES = Path(__file__).parents[2] / "dockerfiles"
VERSION = re.compile(r"v(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})", re.ASCII)
RUNC = re.compile(r"\d+\.\d+\.\d+(-rc[1-9]\d*)?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
#: What is built, and what of it is built where the whole cannot be.
COMPONENTS = ("kubernetes", "libcontainer", "runc")
DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
#: How a runc release keeps from accounting: by the build tag, not at all, or of its own.
NOKMEM = ("tag", "absent", "not needed")
#: How a kubelet is kept from accounting: by the build tag of the libcontainer it vendors, by a
#: patch that brings this tag, or of its own.
MECHANISMS = ("tag", "backport", "not needed")


@dataclass(frozen=True)
class Release:
    """One Kubernetes release. `epoch` is the committer date of its tag, in seconds since 1970;
    `go` what upstream built it with; `mechanism` one of MECHANISMS; `kubelet_tags` those that
    its build script sets of its own, `modules` what it makes of GO111MODULE; `pairs` the runc that
    may be built beside it, by the pair's name, the default one first."""

    version: str
    commit: str
    epoch: int
    go: str
    vendored_runc: str
    pairs: Mapping[str, str]
    mechanism: str
    kubelet_tags: tuple[str, ...]
    modules: str

    def runc(self, asked: str = "") -> str:
        """The runc release that goes with it: by a pair's name, the default pair's, or as asked."""
        return self.pairs.get(asked or next(iter(self.pairs)), asked)


@dataclass(frozen=True)
class Proof:
    """A component that was built from a source and passed every check. `date` is ISO 8601;
    `note` says what was not as a plain build would have it. Of "libcontainer" the package was built
    as that release vendors it."""

    component: str
    release: str
    source: str
    go: str
    date: str
    sha256: str
    note: str = ""


@dataclass(frozen=True)
class Gap:
    """Releases that were not built, and why."""

    component: str
    releases: str
    reason: str


@dataclass(frozen=True)
class Cve:
    """A known fault, and where that can be read again."""

    id: str
    summary: str
    evidence: str


@dataclass(frozen=True)
class RuncRelease:
    """One runc release. `go` is the language version of its go.mod, "" where it has none;
    `prints` the version that it prints; `nokmem` one of NOKMEM; `cves` what it is open to.
    `static_lacks_systemd`: its own `make static` leaves the systemd cgroup driver out."""

    version: str
    commit: str
    go: str
    prints: str
    default_tags: tuple[str, ...]
    nokmem: str
    cves: tuple[Cve, ...]
    static_lacks_systemd: bool


class Facts:
    """Everything below one data folder. Parsed on first use, part by part."""

    def __init__(
        self,
        folder: Path = DATA,
        patches: Path = PATCHES,
        own_patches: Path | None = None,
        recipes: Path = RECIPES,
    ) -> None:
        self._folder = folder
        self._patches = patches
        self._own_patches = own_patches
        self._recipes = recipes
        self._minors: dict[str, dict[str, Release]] = {}

    def release(self, version: str) -> Release:
        """The facts of a Kubernetes release such as v1.20.2."""
        if not VERSION.fullmatch(version):
            raise UsageError(
                f"{version!r} is not a Kubernetes version" if version else "no release is named",
                place="--k8s",
                next_step="write it as v1.20.2",
            )
        try:
            return self._minor(version.removeprefix("v").rpartition(".")[0])[version]
        except KeyError:
            asked = version_numbers(version)
            near = sorted(self.releases, key=lambda known: _distance(version_numbers(known), asked))
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
                next_step=f"nearest: {', '.join(near)}",
            ) from None

    @cached_property
    def repositories(self) -> dict[str, str]:
        """Upstream's repository of each component."""
        return {
            "kubernetes": checked(
                self._folder / "kubernetes.toml", lambda data: text(data, "repository")
            ),
            "runc": checked(self._folder / "runc.toml", lambda data: text(data, "repository")),
        }

    @cached_property
    def releases(self) -> dict[str, Release]:
        found: dict[str, Release] = {}
        for path in (self._folder / "kubernetes").glob("*.toml"):
            found.update(self._minor(path.stem))
        return {version: found[version] for version in sorted(found, key=version_numbers)}

    def _minor(self, minor: str) -> dict[str, Release]:
        """The releases of one minor; none where nothing is held about it."""
        path = self._folder / "kubernetes" / f"{minor}.toml"
        if minor not in self._minors and path.is_file():
            pairs = checked(self._folder / "kubernetes.toml", _pairs)
            self._minors[minor] = checked(path, lambda data: _releases(data, pairs))
        return self._minors.get(minor, {})

    @cached_property
    def proofs(self) -> tuple[Proof, ...]:
        return checked(self._folder / "proofs.toml", _proofs)

    @cached_property
    def gaps(self) -> tuple[Gap, ...]:
        return checked(self._folder / "proofs.toml", _gaps)

    @cached_property
    def runcs(self) -> dict[str, RuncRelease]:
        return checked(self._folder / "runc.toml", _runcs)

    @cached_property
    def targets(self) -> dict[str, Target]:
        return checked(self._folder / "targets.toml", toolchains.targets)

    @cached_property
    def platforms(self) -> dict[str, Platform]:
        """What packages must be like, by target."""
        return checked(self._folder / "packages.toml", platforms)

    @cached_property
    def toolchains(self) -> dict[str, Toolchain]:
        """The toolchains by name, the better ones first."""
        return {
            "el7": checked(self._folder / "el7.toml", toolchains.image_toolchain),
            "debian": checked(
                self._folder / "debian/bullseye.toml",
                lambda data: toolchains.debian_toolchain(data, self._lock),
            ),
        }

    @cached_property
    def go_archives(self) -> dict[str, GoArchive]:
        """The official Go archives by version."""
        return checked(self._folder / "go.toml", toolchains.go_archives)

    @cached_property
    def go_source(self) -> str:
        """Where upstream keeps them: the URL of a folder."""
        return checked(self._folder / "go.toml", lambda data: text(data, "source"))

    @cached_property
    def recipes(self) -> dict[str, str]:
        """The hash over the files of each toolchain's recipe, by the folder's name."""
        found = {}
        for recipe in sorted(path for path in self._recipes.iterdir() if path.is_dir()):
            digest = hashlib.sha256()
            for path in sorted(recipe.iterdir()):
                body = path.read_bytes()
                digest.update(f"{path.name}\0{len(body)}\0".encode() + body)
            found[recipe.name] = digest.hexdigest()
        return found

    @cached_property
    def patches(self) -> tuple[Patch, ...]:
        """The project's series, then the user's, in the order in which they are applied."""
        found = load_series(self._patches, self.known)
        if self._own_patches is not None:
            found += load_series(self._own_patches, self.known, own=True)
        return found

    @property
    def known(self) -> dict[str, tuple[str, ...]]:
        """The releases of each component, oldest first."""
        return {"kubernetes": tuple(self.releases), "runc": tuple(self.runcs)}

    def debian_source(self, component: str, version: str) -> DebianSource | None:
        """The distribution's source of a component, or None where it holds no such version."""
        return self.debian_sources.get((component, version))

    @cached_property
    def debian_sources(self) -> dict[tuple[str, str], DebianSource]:
        found = checked(self._folder / "debian/bookworm.toml", toolchains.source_packages)
        found |= checked(
            self._folder / "debian/bullseye.toml",
            lambda data: toolchains.binary_sources(data, self._lock),
        )
        return found

    @cached_property
    def _lock(self) -> Mapping[str, Any]:
        return load_toml(self._folder / "debian/bullseye.lock.toml")


def version_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.removeprefix("v").split("."))


def _distance(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(abs(a - b) for a, b in zip(one, other, strict=True))


def _pairs(data: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """minor -> pair -> runc release, the default pair first."""
    names = list(data["pairs"])
    for row in data["pairs"].values():
        text(row, "reason")
    for minor, row in data["runc"].items():
        if list(row) != names:
            raise ValueError(f"{minor} does not have the pairs {', '.join(names)}, in this order")
    return {minor: dict(row) for minor, row in data["runc"].items()}


def _releases(data: Mapping[str, Any], pairs: Mapping[str, dict[str, str]]) -> dict[str, Release]:
    for name in ("commit", "go", "vendored_runc", "nokmem", "kubelet_tags", "modules"):
        text(data["evidence"], name)
    known = list(data["releases"])
    if known != sorted(known, key=version_numbers):
        raise ValueError("the releases are not in order")
    mechanisms = _ranges(data["nokmem"], "mechanism", known)
    tags = _ranges(data["kubelet_tags"], "tags", known)
    modules = _ranges(data["modules"], "value", known)
    found = {}
    for version, fact in data["releases"].items():
        if not matching(VERSION, version, "release").startswith(f"v{data['minor']}."):
            raise ValueError(f"{version} is not a release of {data['minor']}")
        if mechanisms[version] not in MECHANISMS:
            raise ValueError(f"mechanism {mechanisms[version]!r} is not one of {MECHANISMS}")
        found[version] = Release(
            version=version,
            commit=matching(COMMIT, fact["commit"], "commit"),
            epoch=int(fact["epoch"]),
            go=matching(GO, fact["go"], "go"),
            vendored_runc=text(fact, "vendored_runc"),
            pairs=pairs[data["minor"]],
            mechanism=mechanisms[version],
            kubelet_tags=tuple(tags[version]),
            modules=modules[version],
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
            release=text(row, "release"),
            source=text(row, "source"),
            go=matching(GO, row["go"], "go"),
            date=matching(DATE, row["date"], "date"),
            # Of a package there is no binary whose hash would say anything.
            sha256="" if component == "libcontainer" else matching(SHA256, row["sha256"], "sha256"),
            note=row.get("note", ""),
        )
        for component in COMPONENTS
        for row in data[component]
    )


def _gaps(data: Mapping[str, Any]) -> tuple[Gap, ...]:
    return tuple(
        Gap(text(row, "component"), text(row, "releases"), text(row, "reason"))
        for row in data["unbuilt"]
    )


def _runcs(data: Mapping[str, Any]) -> dict[str, RuncRelease]:
    for name in ("commit", "go", "prints", "default_tags", "nokmem"):
        text(data["evidence"], name)
    order = list(data["releases"])
    for cve in data["cves"]:
        for name in ("id", "summary", "evidence"):
            text(cve, name)
        order.index(cve["fixed_in"])
    # a folder that pins were read from may not have all of them
    lacking = [matching(RUNC, one, "release") for one in data["static_build"]["releases"]]
    text(data["static_build"], "evidence")
    found = {}
    for version, fact in data["releases"].items():
        if fact["nokmem"] not in NOKMEM:
            raise ValueError(f"nokmem of {version} is {fact['nokmem']!r}, not one of {NOKMEM}")
        found[version] = RuncRelease(
            version=version,
            commit=matching(COMMIT, fact["commit"], "commit"),
            go=fact["go"],
            prints=text(fact, "prints"),
            default_tags=tuple(fact["default_tags"]),
            nokmem=fact["nokmem"],
            cves=tuple(
                Cve(cve["id"], cve["summary"], cve["evidence"])
                for cve in data["cves"]
                if order.index(version) < order.index(cve["fixed_in"])
            ),
            static_lacks_systemd=version in lacking,
        )
    return found
