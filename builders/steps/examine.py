"""Machine -> findings: what it can do, what not, why, and what would help."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from builders.errors import NokmemError
from builders.tools import apt, container, gitrepo, memory, process, rootfs
from builders.tools.cache import Cache
from builders.tools.download import Downloader, redacted

#: Bytes; measured with v1.20.2: toolchain 0.7 GB and its seed 0.5 GB, packages and sources
#: 0.2 GB, Go cache 0.7 GB, unpacked source and output 1.5 GB, with room to spare.
CACHE_NEEDS = 6 << 30
DIST_NEEDS = 1 << 30
#: Bytes; the linker of kubelet peaks at 1.6 GB.
MEMORY_NEEDS = 2 << 30
MACHINE = "x86_64"


@dataclass(frozen=True)
class Finding:
    """One thing looked at. Findings of one `group` are alternatives, of which one is enough;
    without an `optional` one some releases cannot be built, others can."""

    name: str
    ok: bool
    found: str
    next_step: str = ""
    group: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Probe:
    """A place that some releases come from. `ask` gives None where it answers, else why not."""

    name: str
    place: str
    ask: Callable[[], str | None]
    next_step: str


def examine(
    cache: Cache,
    dist: Path,
    environment: Mapping[str, str],
    suites: Iterable[str],
    probes: Iterable[Probe],
) -> tuple[Finding, ...]:
    """Look at everything; nothing raises."""
    return (
        _python(),
        _machine(),
        _builder("container", container.why_not(), "an engine answers"),
        _builder("rootfs", rootfs.why_not(), _rootfs_words()),
        _git(),
        _program("gpgv", "checks the archives' signatures"),
        _program("setpriv", "confines the binary that verify asks for its version"),
        _keyring(environment),
        *_suites(suites, environment),
        *(_probe(probe) for probe in probes),
        _disk("disk of the cache", cache.root, CACHE_NEEDS),
        _disk("disk of dist", dist, DIST_NEEDS),
        _memory(),
    )


def lacking(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """What stands in the way of every build: what is not there, is not optional, and has no
    alternative that is there."""
    rows = list(findings)
    met = {row.group for row in rows if row.ok and row.group}
    return tuple(row for row in rows if not row.ok and not row.optional and row.group not in met)


def _python() -> Finding:
    return Finding("python", True, f"{platform.python_version()} at {sys.executable}")


def _machine() -> Finding:
    machine = platform.machine()
    return Finding(
        "machine", machine == MACHINE, machine, f"the toolchain is made of {MACHINE} packages"
    )


def _builder(name: str, problem: NokmemError | None, words: str) -> Finding:
    if problem is None:
        return Finding(f"builder {name}", True, words, group="builder")
    return Finding(
        f"builder {name}", False, f"{problem.fact} ({problem.place})", problem.next_step, "builder"
    )


def _rootfs_words() -> str:
    return "namespaces, as root" if os.geteuid() == 0 else "namespaces, by subordinate ids"


def _program(name: str, purpose: str) -> Finding:
    path = process.find(name)
    return Finding(
        name, path is not None, path or f"missing; it {purpose}", process.install_hint(name)
    )


def _git() -> Finding:
    row = _program("git", "applies patches, and fetches from repositories")
    if not row.ok:
        return row
    _, text = process.capture([row.found, "--version"])
    version = tuple(map(int, re.findall(r"\d+", text)[:2]))
    least = ".".join(map(str, gitrepo.LEAST))
    ok = version >= gitrepo.LEAST
    found = f"{text}, at {row.found}" if ok else f"{text} at {row.found}, {least} is needed"
    patches = version >= gitrepo.LEAST_FOR_PATCHES
    return Finding("git", ok, found, f"install git {least} or later", optional=patches)


def _keyring(environment: Mapping[str, str]) -> Finding:
    try:
        return Finding("archive keyring", True, str(apt.keyring(environment)))
    except NokmemError as error:
        return Finding("archive keyring", False, f"none at {error.place}", error.next_step)


def _suites(suites: Iterable[str], environment: Mapping[str, str]) -> list[Finding]:
    """Whether a mirror of each suite answers with a good signature."""
    found = []
    with Downloader(apt.proxies(environment)) as downloader:
        for suite in suites:
            hint = f"set {apt.MIRROR_VARIABLES[apt.archive_of(suite)]} to the URL of a mirror"
            try:
                archive = apt.Archive(
                    downloader, apt.mirrors(environment), apt.keyring(environment)
                )
                words = f"signed, at {redacted(archive.url(suite, ''))}"
                found.append(Finding(f"source {suite}", True, words))
            except NokmemError as error:
                words = f"{error.fact}: {error.place}"
                found.append(Finding(f"source {suite}", False, words, error.next_step or hint))
    return found


def _probe(probe: Probe) -> Finding:
    try:
        reason = probe.ask()
    except NokmemError as error:
        return Finding(probe.name, False, error.fact, error.next_step, optional=True)
    found = f"answers, at {probe.place}" if reason is None else f"{reason}: {probe.place}"
    return Finding(probe.name, reason is None, found, probe.next_step, optional=True)


def _disk(name: str, folder: Path, needs: int) -> Finding:
    place = folder.absolute()
    while not os.access(place, os.X_OK) and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    return Finding(
        name,
        free >= needs and os.access(place, os.W_OK),
        f"{free / 1e9:.1f} GB free at {place}, {needs / 1e9:.1f} GB needed"
        + ("" if os.access(place, os.W_OK) else "; not writable by this user"),
        "free some room, or choose another folder",
    )


def _memory() -> Finding:
    available = memory.available()
    if available is None:
        return Finding("memory", False, "/proc/meminfo cannot be read", "build on Linux")
    return Finding(
        "memory",
        available >= MEMORY_NEEDS,
        f"{available / 1e9:.1f} GB available, {MEMORY_NEEDS / 1e9:.1f} GB needed to link kubelet",
        "stop something, or build on a larger machine",
    )
