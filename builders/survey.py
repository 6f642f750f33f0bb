"""What is known, what is kept, and what this machine can do: everything but a build."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from builders.model.plan import BuildRequest
from builders.model.reading import load_toml
from builders.model.releases import DATA, Facts
from builders.model.resolve import resolve
from builders.steps import contents, evidence, examine, pins, sources
from builders.steps.contents import Row
from builders.steps.sources import GoArchives
from builders.supply import sweep
from builders.tools import apt, container, gitrepo, rootfs
from builders.tools.builder import Builder
from builders.tools.cache import IN_USE, Cache
from builders.tools.download import Downloader, redacted, shown


@dataclass(frozen=True)
class MatrixRow:
    """One Kubernetes release. `proven` and `runc_proven` say when a build passed, with what, or
    are ""; `sources` is what holds it."""

    kubernetes: str
    go: str
    vendored_runc: str
    nokmem: str
    runc: str
    sources: str
    proven: str
    runc_proven: str


def matrix() -> tuple[MatrixRow, ...]:
    """What is known of every release, which sources hold it, and what was really proven."""
    facts = Facts()
    proven = {(p.component, p.release): p for p in facts.proofs}

    def say(component: str, release: str) -> str:
        proof = proven.get((component, release))
        remark = ", see --proofs" if proof and proof.note else ""
        return f"{proof.date}, Go {proof.go}{remark}" if proof else ""

    return tuple(
        MatrixRow(
            kubernetes=release.version,
            go=release.go,
            vendored_runc=release.vendored_runc,
            nokmem=release.mechanism,
            runc=release.runc(),
            sources="debian, git" if facts.debian_source("kubernetes", release.version) else "git",
            proven=say("kubernetes", release.version),
            runc_proven=say("runc", release.runc()),
        )
        for release in facts.releases.values()
    )


def proofs() -> list[tuple[str, ...]]:
    """What was really built and passed, and what was not and why: component, release, source, Go,
    date, hash, remark."""
    facts = Facts()
    rows: list[tuple[str, ...]] = [
        (p.component, p.release, p.source, p.go, p.date, p.sha256[:16], p.note)
        for p in facts.proofs
    ]
    return rows + [(g.component, g.releases, "", "", "not built", "", g.reason) for g in facts.gaps]


def patch_series(own: Path | None) -> list[tuple[str, ...]]:
    """Every patch: its component, its name, the releases it serves, its subject."""
    return [
        (patch.component, patch.name, f"{patch.serves[0]} to {patch.serves[-1]}", patch.subject)
        for patch in Facts(own_patches=own).patches
    ]


def ends_of_minors() -> list[str]:
    """The first and the last release of each minor."""
    found: dict[str, list[str]] = {}
    for version in Facts().releases:
        found.setdefault(version.rpartition(".")[0], []).append(version)
    return [end for known in found.values() for end in (known[0], known[-1])]


def doctor(cache: Cache, dist: Path, environment: Mapping[str, str]) -> tuple[examine.Finding, ...]:
    """What this machine can do and why not: builders, sources, disk, memory."""
    facts = Facts()
    suites = {source.files[0].suite for source in facts.debian_sources.values()}
    suites |= {suite for t in facts.toolchains.values() if t.seed for suite in t.seed.suites}
    return examine.examine(
        cache, dist, environment, sorted(suites), _probes(facts, environment, cache)
    )


def _probes(facts: Facts, environment: Mapping[str, str], cache: Cache) -> Iterator[examine.Probe]:
    """The places that releases come from which the distribution does not hold."""
    newest = next(reversed(facts.releases))
    decided = resolve(
        BuildRequest(newest, kubernetes_source="git", runc_source="git"),
        facts,
    )
    places = sources.Places(environment)
    for component in decided.components:
        urls = sources.repositories(component, environment, component.source.url)
        yield examine.Probe(
            f"source git {component.name}",
            ", ".join(map(shown, urls)),
            partial(gitrepo.why_not, urls),
            f"name a mirror with {sources.REPOSITORY_VARIABLES[component.name]}, or give "
            "a folder or an archive",
        )
    go = GoArchives(cache, places, facts.go_source, lambda _: None)
    yield examine.Probe(
        "source Go archives",
        redacted(facts.go_source),
        partial(go.answer, decided.toolchain.go[0]),
        f"name a folder or a mirror with {sources.GO_VARIABLE}",
    )


def relock(environment: Mapping[str, str]) -> tuple[Path, str]:
    """The lock of the distribution's packages, resolved anew: its path and its new text."""
    mirrors, keyring = apt.mirrors(environment), apt.keyring(environment)
    facts = load_toml(DATA / "debian/bullseye.toml")
    with Downloader(apt.proxies(environment)) as downloader:
        archive = apt.Archive(downloader, mirrors, keyring)
        return DATA / "debian/bullseye.lock.toml", pins.lock_text(archive, facts, keyring)


def reread(kubernetes: Path | None, runc: Path | None, golang: Path | None) -> dict[Path, str]:
    """The data files whose evidence lies in these repositories, read again: path -> new text.

    Without runc's repository, the commits in data/runc.toml name what Kubernetes vendors.
    """
    facts = Facts()
    texts: dict[Path, str] = {}
    if kubernetes:
        if runc:
            names = {tag: tagged.commit for tag, tagged in gitrepo.tags(runc).items()}
        else:
            names = {f"v{release.version}": release.commit for release in facts.runcs.values()}
        held = {path.stem: path for path in (DATA / "kubernetes").glob("*.toml")}
        read = partial(gitrepo.texts, kubernetes)
        minors = evidence.kubernetes(held, gitrepo.tags(kubernetes), read, names)
        for minor, releases in minors.items():
            texts[held[minor]] = evidence.kubernetes_text(_text(held[minor]), releases)
        built_with = {release.go for releases in minors.values() for release in releases}
    else:
        built_with = {release.go for release in facts.releases.values()}
    if runc:
        path = DATA / "runc.toml"
        found = evidence.runc(gitrepo.tags(runc), partial(gitrepo.texts, runc))
        texts[path] = evidence.runc_text(_text(path), found)
    if golang:
        path = DATA / "go.toml"
        changes = gitrepo.history(golang, evidence.DOCKERFILES)
        rows = evidence.go_archives(changes, built_with | set(facts.go_archives))
        texts[path] = evidence.go_text(_text(path), rows)
    return texts


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def cache_rows(cache: Cache) -> tuple[Row, ...]:
    """Everything the cache and, where one answers, the engine hold of ours."""
    with _present(cache) as builders:
        return _rows(cache, builders)


def prune(cache: Cache, *, everything: bool, dry_run: bool) -> tuple[Row, ...]:
    """Remove what no release of today's data needs, or everything; returns what went, or with
    `dry_run` what would. What an engine holds in use stays. BusyError while a build is running.
    """
    with cache.lock(IN_USE, wait=False), _present(cache) as builders:
        doomed = tuple(row for row in _rows(cache, builders) if everything or not row.needed)
        if dry_run:
            return doomed
        sweep(cache, builders)  # what a killed run left would hold what it used
        return contents.remove(doomed, cache)


def _rows(cache: Cache, builders: Iterable[Builder]) -> tuple[Row, ...]:
    """Needed is what some release needs of the data's own: sources, Go archives, toolchains."""
    facts = Facts()
    newest = next(reversed(facts.releases))
    made = [
        resolve(BuildRequest(newest, toolchain=name), facts).toolchain for name in facts.toolchains
    ]
    files = {file.sha256 for source in facts.debian_sources.values() for file in source.files}
    files |= {row["sha256"] for toolchain in made for row in toolchain.packages}
    files |= {archive.sha256 for archive in facts.go_archives.values()}
    return contents.rows(cache, files, {toolchain.key for toolchain in made}, builders)


@contextmanager
def _present(cache: Cache) -> Iterator[list[Builder]]:
    found: list[Builder] = []
    if container.why_not() is None:
        found.append(container.ContainerBuilder(cache))
    if rootfs.why_not() is None:
        found.append(rootfs.Rootfs(cache))
    try:
        yield found
    finally:
        for builder in found:
            builder.close()
