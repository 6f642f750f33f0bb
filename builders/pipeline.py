"""The order of things: from a version to a proven dist folder. Nothing else knows it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from builders.errors import NokmemError, ProofError, UsageError
from builders.model.artifact import LOG, Binary, CheckReport, Manifest
from builders.model.plan import BuildPlan, BuildRequest, resolve
from builders.model.releases import DATA, Facts, load_toml
from builders.steps import checks, contents, examine, manifest, pins, sources, toolchain
from builders.steps.checks import Expected
from builders.steps.compile import OnOutput, compile_component
from builders.steps.contents import Row
from builders.tools import apt, container, rootfs
from builders.tools.builder import Builder, Limits
from builders.tools.cache import Cache
from builders.tools.download import Downloader
from builders.tools.terminal import Phase, Terminal

RECIPE = Path(__file__).parents[1] / "dockerfiles/debian"
BUILDERS = ("auto", "container", "rootfs")
#: Builds share this lock; a prune wants it alone.
IN_USE = "in-use"


@dataclass(frozen=True)
class Options:
    """How to build, as opposed to what: none of it may change a byte of the binaries.

    `folders` has the user's repository of each component that is planned from a "dir".
    """

    builder: str = "auto"
    limits: Limits = field(default_factory=Limits)
    keep: bool = False
    folders: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class MatrixRow:
    """One Kubernetes release. `proven` and `runc_proven` are ISO dates of a build that passed,
    or ""; `sources` what can give it here, or ""."""

    kubernetes: str
    go: str
    vendored_runc: str
    nokmem: str
    runc: str
    sources: str
    proven: str
    runc_proven: str


def plan(request: BuildRequest) -> BuildPlan:
    """Decide the whole build. Contacts nobody."""
    return resolve(request, Facts(), recipe_sha256=recipe_sha256(RECIPE))


def build(
    request: BuildRequest,
    options: Options,
    dist: Path,
    cache: Cache,
    environment: Mapping[str, str],
    terminal: Terminal,
) -> tuple[Path, CheckReport]:
    """Plan, fetch, make the toolchain, compile, prove, and put the result into dist/.

    A failure leaves what stood in dist/ as it was; the log of what failed lies beside it.
    """
    decided = plan(request)
    debian = sources.Debian(cache, environment)
    providers = {
        component.name: sources.provider(
            component, cache, environment, options.folders, terminal.say
        )
        for component in decided.components
    }
    with ExitStack() as stack:
        builder = choose(options.builder, cache, terminal)
        stack.callback(builder.close)
        stack.enter_context(cache.lock(IN_USE, shared=True))
        stack.enter_context(manifest.hold(dist, decided.name))
        builder.sweep()
        folder = manifest.staging(dist, decided.name)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        log = stack.enter_context((folder / LOG).open("w", encoding="utf-8"))

        def write(line: str) -> None:
            log.write(line + "\n")

        try:
            _fetch(decided, providers, terminal)
            _make_toolchain(decided, builder, debian, cache, terminal, write)
            binaries = _compile(
                decided, builder, providers, options, cache, folder, terminal, write
            )
        except NokmemError:
            log.flush()
            _keep_log(folder, dist, decided, terminal)
            raise
        log.flush()
        with terminal.phase("prove"):
            items = [(binary, _expect(decided, binary.name, binary.sha256)) for binary in binaries]
            report = checks.prove(items, decided.target)
        manifest.write_plan_and_report(folder, decided, report)
        if not report.passed:
            _keep_log(folder, dist, decided, terminal)
            raise proof_error(report, str(dist / decided.name))
        described = manifest.describe(decided, binaries, folder, builder.name)
        place = manifest.put_in_place(folder, dist, decided, described)
        _failed_log(dist, decided).unlink(missing_ok=True)
        return place, report


def verify(folder: Path) -> tuple[Manifest, CheckReport]:
    """Ask every binary of a dist folder everything again.

    What a binary must be comes from the project's own facts of that release, not from the
    folder. A control ("stock") is held to be nokmem and so fails: it must never pass for the
    real thing.
    """
    described = manifest.read(folder)
    rows = {row["name"]: row for row in described.data["binaries"]}
    runc = rows.get("runc", {"version": "", "source": {"provider": "auto"}})
    decided = plan(
        BuildRequest(
            described.kubernetes,
            target=str(described.data["target"]),
            runc=str(runc["version"]),
            runc_source=str(runc["source"]["provider"]),
        )
    )
    names = {component.name for component in decided.components}
    if set(rows) != names:
        raise ProofError(
            f"the manifest has {', '.join(sorted(rows))}; a build has {', '.join(sorted(names))}",
            place=str(folder),
            next_step="build this version again",
        )
    items = [
        (
            Binary(name, folder / name, row["size"], row["sha256"]),
            _expect(decided, name, row["sha256"]),
        )
        for name, row in sorted(rows.items())
    ]
    return described, checks.prove(items, decided.target)


def doctor(cache: Cache, dist: Path, environment: Mapping[str, str]) -> tuple[examine.Finding, ...]:
    """What this machine can do and why not: builders, sources, disk, memory."""
    facts = Facts()
    suites = {source.files[0].suite for source in facts.debian_sources.values()}
    return examine.examine(cache, dist, environment, sorted(suites | set(facts.toolchain.suites)))


def matrix() -> tuple[MatrixRow, ...]:
    """What is known of every release, which sources hold it, and what was really proven."""
    facts = Facts()
    proven = {(p.component, p.release): p.date for p in facts.proofs}
    return tuple(
        MatrixRow(
            kubernetes=release.version,
            go=release.go,
            vendored_runc=release.vendored_runc,
            nokmem=release.mechanism,
            runc=release.runc,
            sources="debian" if facts.debian_source("kubernetes", release.version) else "",
            proven=proven.get(("kubernetes", release.version), ""),
            runc_proven=proven.get(("runc", release.runc), ""),
        )
        for release in facts.releases.values()
    )


def relock(environment: Mapping[str, str]) -> tuple[Path, str]:
    """The lock of the distribution's packages, resolved anew: its path and its new text."""
    mirrors, keyring = apt.mirrors(environment), apt.keyring(environment)
    facts = load_toml(DATA / "debian/bullseye.toml")
    with Downloader(apt.proxies(environment)) as downloader:
        archive = apt.Archive(downloader, mirrors, keyring)
        return DATA / "debian/bullseye.lock.toml", pins.lock_text(archive, facts, keyring)


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
        return doomed if dry_run else contents.remove(doomed, cache, builders)


def _rows(cache: Cache, builders: Iterable[Builder]) -> tuple[Row, ...]:
    facts, recipe = Facts(), recipe_sha256(RECIPE)
    plans = [resolve(BuildRequest(version), facts, recipe_sha256=recipe) for version in facts.held]
    files = {row["sha256"] for p in plans for c in p.components for row in c.source.files}
    files |= {row["sha256"] for p in plans for row in p.toolchain.packages}
    files |= {p.toolchain.debootstrap["sha256"] for p in plans}
    return contents.rows(cache, files, {p.toolchain.key for p in plans}, builders)


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


def choose(kind: str, cache: Cache, terminal: Terminal) -> Builder:
    """The builder that was asked for, or with "auto" the engine if one answers."""
    if kind not in BUILDERS:
        raise UsageError(
            f"{kind!r} is not a builder",
            place="--builder",
            next_step=f"use one of: {', '.join(BUILDERS)}",
        )
    if kind == "container":
        return container.ContainerBuilder(cache)
    if kind == "rootfs":
        return rootfs.Rootfs(cache)
    problem = container.why_not()
    if problem is None:
        terminal.say("builder: container, because an engine answers")
        return container.ContainerBuilder(cache)
    terminal.say(f"builder: rootfs, because {problem.fact} ({problem.place})")
    return rootfs.Rootfs(cache)


def proof_error(report: CheckReport, place: str) -> ProofError:
    """The error for a report with failures: each with what was found and what would help."""
    failures = report.failures
    return ProofError(
        f"{len(failures)} of {len(report.checks)} checks failed",
        place=place,
        next_step=failures[0].next_step,
        detail=tuple(f"{c.binary} {c.name}: {c.found}" for c in failures),
    )


def recipe_sha256(folder: Path) -> str:
    """One hash over the files of a toolchain's recipe."""
    digest = hashlib.sha256()
    for name in ("Dockerfile", "bootstrap.sh"):
        body = (folder / name).read_bytes()
        digest.update(f"{name}\0{len(body)}\0".encode() + body)
    return digest.hexdigest()


def _fetch(
    decided: BuildPlan, providers: Mapping[str, sources.Provider], terminal: Terminal
) -> None:
    with terminal.phase("fetch sources", "bytes") as phase:
        for component in decided.components:
            providers[component.name].fetch(component, lambda count: phase.step(amount=count))
        phase.note = "" if phase.count else "nothing downloaded"


def _make_toolchain(
    decided: BuildPlan,
    builder: Builder,
    debian: sources.Debian,
    cache: Cache,
    terminal: Terminal,
    write: OnOutput,
) -> None:
    wanted = decided.toolchain
    packages = (wanted.debootstrap, *wanted.packages)
    with terminal.phase(f"toolchain {wanted.name}", "bytes") as phase:

        def take(line: str) -> None:
            write(line)
            phase.line(line)

        made = toolchain.ensure(
            builder,
            wanted,
            cache,
            RECIPE,
            lambda: debian.fetch_files(packages, lambda count: phase.step(amount=count)),
            take,
        )
        phase.note = f"Go {wanted.go}" + ("" if made else ", reused")


def _compile(
    decided: BuildPlan,
    builder: Builder,
    providers: Mapping[str, sources.Provider],
    options: Options,
    cache: Cache,
    folder: Path,
    terminal: Terminal,
    write: OnOutput,
) -> list[Binary]:
    binaries = []
    with builder.start(decided.toolchain.key, options.limits, keep=options.keep) as session:
        if options.keep:
            terminal.say(f"this room is kept: {session.entry}")
        for component in decided.components:
            title = f"compile {component.name} {component.version}"
            with terminal.phase(title, "packages") as phase, cache.run_folder() as scratch:

                def take(line: str, phase: Phase = phase) -> None:
                    write(line)
                    phase.line(line)

                try:
                    source = providers[component.name].tree(component, scratch)
                    binaries.append(
                        compile_component(component, source, session, folder, take, phase.step)
                    )
                finally:
                    shutil.rmtree(scratch)
    return binaries


def _expect(decided: BuildPlan, name: str, sha256: str) -> Expected:
    component = next(component for component in decided.components if component.name == name)
    return Expected(name, component.linking, component.accounting, component.prints, sha256)


def _failed_log(dist: Path, decided: BuildPlan) -> Path:
    return dist / f"{decided.name}.failed.log"


def _keep_log(folder: Path, dist: Path, decided: BuildPlan, terminal: Terminal) -> None:
    kept = _failed_log(dist, decided)
    shutil.copyfile(folder / LOG, kept)
    terminal.say(f"the log of what failed: {kept}")
