"""What compiles and for which nodes: toolchains, Go archives, distribution sources, targets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builders.model.reading import GO, SHA256, matching, text

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


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


def go_name(version: str) -> str:
    """What a Go calls itself: before 1.21 a release without patches goes by two numbers."""
    return version.removesuffix(".0") if numbers(version) < (1, 21) else version


@dataclass(frozen=True)
class GoArchive:
    """An official Go archive for linux-amd64."""

    version: str
    sha256: str
    evidence: str

    @property
    def name(self) -> str:
        """Its file name."""
        return f"go{go_name(self.version)}.linux-amd64.tar.gz"


@dataclass(frozen=True)
class Seed:
    """The packages, pinned, that a tree is made of.

    `required` names those that are unpacked before the tree can run anything of its own.
    """

    suites: tuple[str, ...]
    script: str
    debootstrap: DebianFile
    required: tuple[str, ...]
    packages: tuple[DebianFile, ...]


@dataclass(frozen=True)
class BaseImage:
    """An image by digest, and what is installed on it from a vault: the URL of frozen yum
    releases, the release, its repositories, and the image's own file with the key that signs
    them. `packages` are name-version-release."""

    name: str
    digest: str
    vault: str
    release: str
    repositories: tuple[str, ...]
    key: str
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Toolchain:
    """What compiles: a tree made of packages (`seed`) or an image of them (`image`).

    `go` is the version that it brings in `go_root`, as `go_package`; "" where it has none and an
    official archive is put beside it. `runc_linking` is how runc is linked with it, `static` are
    those of its packages that a static binary has code of, each with the Go package that calls it.
    """

    name: str
    recipe: str
    go: str
    go_root: str
    go_package: str
    runc_linking: str
    seed: Seed | None = None
    image: BaseImage | None = None
    static: Mapping[str, str] = field(default_factory=dict)


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


def targets(data: Mapping[str, Any]) -> dict[str, Target]:
    found = {}
    for name, fact in data["targets"].items():
        for evidence in ("glibc", "libseccomp", "libraries", "libseccomp_newer_symbols"):
            text(fact, f"{evidence}_evidence")
        found[name] = Target(
            name=name,
            machine=text(fact, "machine"),
            machine_name=text(fact, "machine_name"),
            glibc=text(fact, "glibc"),
            libseccomp=text(fact, "libseccomp"),
            libraries=tuple(fact["libraries"]),
            libseccomp_newer_symbols=tuple(fact["libseccomp_newer_symbols"]),
        )
    return found


def _debian_file(row: Mapping[str, Any]) -> DebianFile:
    if row["path"].startswith("/") or ".." in Path(row["path"]).parts:
        raise ValueError(f"path leaves the archive: {row['path']!r}")
    return DebianFile(
        suite=text(row, "suite"),
        package=text(row, "package"),
        version=text(row, "version"),
        architecture=text(row, "architecture"),
        path=text(row, "path"),
        size=int(row["size"]),
        sha256=matching(SHA256, row["sha256"], "sha256"),
    )


def debian_toolchain(data: Mapping[str, Any], lock: Mapping[str, Any]) -> Toolchain:
    packages = tuple(_debian_file(row) for row in lock["toolchain"])
    names = {file.package for file in packages}
    missing = ({*data["packages"], *data["static"]} | set(lock["required"])) - names
    if missing:
        raise ValueError(f"not in the lock: {', '.join(sorted(missing))}; run invoke pins")
    text(data["go"], "evidence")
    return Toolchain(
        name=text(data, "name"),
        recipe=text(data, "recipe"),
        go=text(data["go"], "version"),
        go_root=text(data["go"], "root"),
        go_package=next(
            f"{file.package} {file.version}"
            for file in packages
            if file.package == data["go"]["package"]
        ),
        runc_linking="static",
        seed=Seed(
            suites=tuple(data["suites"]),
            script=text(data, "script"),
            debootstrap=_debian_file(lock["debootstrap"]),
            required=tuple(lock["required"]),
            packages=packages,
        ),
        static={name: text(data["static"], name) for name in data["static"]},
    )


def image_toolchain(data: Mapping[str, Any]) -> Toolchain:
    base, vault = data["base"], data["vault"]
    for table in (base, vault, data["linking"]):
        text(table, "evidence")
    for name in data["packages"]:
        text(data["packages"][name], "reason")
        text(data["packages"][name], "evidence")
    return Toolchain(
        name=text(data, "name"),
        recipe=text(data, "recipe"),
        go="",
        go_root="",
        go_package="",
        runc_linking=text(data["linking"], "runc"),
        image=BaseImage(
            name=text(base, "name"),
            digest=matching(DIGEST, base["digest"], "digest"),
            vault=text(vault, "url"),
            release=text(vault, "release"),
            repositories=tuple(vault["repositories"]),
            key=text(vault, "key"),
            packages=tuple(f"{n}-{text(row, 'version')}" for n, row in data["packages"].items()),
        ),
    )


def go_archives(data: Mapping[str, Any]) -> dict[str, GoArchive]:
    return {
        matching(GO, version, "version"): GoArchive(
            version, matching(SHA256, row["sha256"], "sha256"), text(row, "evidence")
        )
        for version, row in data["archives"].items()
    }


def source_packages(data: Mapping[str, Any]) -> dict[tuple[str, str], DebianSource]:
    found = {}
    for component, versions in data["sources"].items():
        for version, fact in versions.items():
            file = _debian_file({**fact, "architecture": "source"})
            found[component, version] = DebianSource(
                revision=file.version,
                files=(file,),
                evidence=text(fact, "evidence"),
                unapplied=text(fact, "unapplied"),
            )
    return found


def binary_sources(
    data: Mapping[str, Any], lock: Mapping[str, Any]
) -> dict[tuple[str, str], DebianSource]:
    found = {}
    for component, versions in data["sources"].items():
        for version, fact in versions.items():
            files = tuple(_debian_file(row) for row in lock["sources"][component][version])
            revisions = [f.version for f in files if f.package == fact["package_version_of"]]
            text(fact, "fixes_evidence")
            text(fact, "makefile_evidence")
            if len(revisions) != 1 or not set(fact["packages"]) <= {f.package for f in files}:
                raise ValueError(f"{component} {version} is not in the lock; run invoke pins")
            found[component, version] = DebianSource(
                revision=revisions[0],
                files=files,
                evidence=text(fact, "evidence"),
                fixes=tuple(fact["fixes"]),
                go_build=GoBuild(
                    flags=tuple(fact["flags"]),
                    static_tags=tuple(fact["static_tags"]),
                    static_ldflags=tuple(fact["static_ldflags"]),
                ),
            )
    return found


def numbers(version: str) -> tuple[int, ...]:
    """1.15.5 as numbers."""
    return tuple(int(part) for part in version.split("."))
