"""The order of things: from a version to a proven dist folder. Nothing else knows it."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from builders.errors import (
    IntegrityError,
    MachineError,
    NokmemError,
    ProofError,
    ToolchainError,
    UnavailableError,
    UsageError,
)
from builders.model.artifact import LOG, PLAN, REPORT, Binary, CheckReport, Manifest
from builders.model.components import patches_for
from builders.model.plan import BuildPlan, BuildRequest, ComponentPlan
from builders.model.releases import RECIPES, Facts
from builders.model.resolve import choices, resolve
from builders.steps import (
    checks,
    examine,
    manifest,
    patches,
    toolchain,
)
from builders.steps.checks import Expected
from builders.steps.compile import OnOutput, compile_component, put_go
from builders.steps.patches import Patched
from builders.steps.sources import Provider
from builders.supply import Options, Supply
from builders.tools import container, rootfs
from builders.tools.builder import Builder, Limits, Session
from builders.tools.cache import IN_USE, Cache, sha256_of
from builders.tools.terminal import Terminal

BUILDERS = ("auto", "container", "rootfs")
#: Bytes; the linker of kubelet peaks at 1.6 GB, the compiler of runc at 0.6 GB.
TWO_COMPILERS = 3 << 30


@dataclass(frozen=True)
class Built:
    """Where a result stands, how many checks it passed, and the seconds that each phase took, the
    time before and this time; nothing this time where it stood there already."""

    place: Path
    checks: int
    profile_before: tuple[tuple[str, float], ...]
    profile: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class PatchRow:
    """What became of a release's series on its real tree."""

    kubernetes: str
    patches: tuple[str, ...]
    applied: bool
    result: str


def plan(request: BuildRequest, own_patches: Path | None = None) -> BuildPlan:
    """Decide the whole build, each "auto" as the first of its choices. Contacts nobody."""
    return resolve(request, Facts(own_patches=own_patches))


def build(
    request: BuildRequest, options: Options, dist: Path, cache: Cache, terminal: Terminal
) -> Built:
    """Plan, fetch, make the toolchain, compile, prove, and put the result into dist/.

    Where the very result stands there already, nothing is done, unless `options.rebuild`. A
    failure leaves what stood in dist/ as it was; the log of what failed lies beside it.
    """
    facts = Facts(own_patches=options.patches)
    name = plan(request, options.patches).name
    earlier = _standing(request, facts, dist / name)
    if earlier is not None and earlier.same and not options.rebuild:
        terminal.say("this very build stands there, whole; --rebuild makes it anew")
        return Built(dist / name, earlier.checks, earlier.profile, ())
    with ExitStack() as stack:
        stack.enter_context(_full_disk_named(dist, cache.root))
        builder = choose(options.builder, cache, terminal)
        stack.callback(builder.close)
        stack.enter_context(cache.lock(IN_USE, shared=True))
        stack.enter_context(manifest.hold(dist, name))
        builder.sweep()
        folder = manifest.staging(dist, name)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        log = stack.enter_context((folder / LOG).open("w", encoding="utf-8"))

        def write(line: str) -> None:
            log.write(line + "\n")

        try:
            supply = Supply(facts, options, cache, terminal, builder)
            decided = supply.settle(request)
            decided = _equip(request, decided, builder, supply, write)
            patched = _patch(decided, ["kubelet", "runc"], facts, supply)
            binaries = _compile(decided, builder, supply, patched, folder, write)
        except NokmemError:
            _keep_log(folder, dist, name, terminal, log)
            raise
        log.flush()
        with terminal.phase("prove"):
            items = [(binary, _expect(decided, binary.name, binary.sha256)) for binary in binaries]
            report = checks.prove(items, decided.target)
        manifest.write_plan_and_report(folder, decided, report)
        if not report.passed:
            _keep_log(folder, dist, name, terminal, log)
            raise proof_error(report, str(dist / name))
        profile = tuple(terminal.times)
        described = manifest.describe(decided, binaries, folder, builder.name, profile)
        place = manifest.put_in_place(folder, dist, decided, described)
        _failed_log(dist, name).unlink(missing_ok=True)
        return Built(place, len(report.checks), earlier.profile if earlier else (), profile)


@dataclass(frozen=True)
class _Standing:
    """What stands in the place of a build: whether it is the `same`, how many checks it passed,
    and what its phases took."""

    same: bool
    checks: int
    profile: tuple[tuple[str, float], ...]


def _standing(request: BuildRequest, facts: Facts, place: Path) -> _Standing | None:
    """What an earlier build left there, None where it is not whole.

    It is the same if the request, each "auto" in it as it was settled then, plans exactly that.
    """
    try:
        described = manifest.read(place)
        whole = all(
            sha256_of(place / row["name"]) == row["sha256"] for row in described.data["binaries"]
        )
        report = json.loads((place / REPORT).read_text(encoding="utf-8"))
        passed, count = report["passed"] is True, len(report["checks"])
        stood = (place / PLAN).read_text(encoding="utf-8")
    except (NokmemError, OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    profile = tuple((row["phase"], row["seconds"]) for row in described.data["profile"])
    then, may, settled = described.request, choices(request, facts), request
    if then.kubernetes_source in may.kubernetes_source:
        settled = dataclasses.replace(settled, kubernetes_source=then.kubernetes_source)
    if then.runc_source in may.runc_source:
        settled = dataclasses.replace(settled, runc_source=then.runc_source)
    if (then.toolchain, then.go) in may.compiler:
        settled = dataclasses.replace(settled, toolchain=then.toolchain, go=then.go)
    planned = resolve(settled, facts).to_json()
    return _Standing(whole and passed and planned == stood, count, profile)


def fetch(
    requests: Iterable[BuildRequest], options: Options, cache: Cache, terminal: Terminal
) -> tuple[BuildPlan, ...]:
    """Leave in the cache all that builds of these would need, and tell what each will be."""
    facts, requests = Facts(own_patches=options.patches), tuple(requests)
    with ExitStack() as stack:
        builder = choose(options.builder, cache, terminal)
        stack.callback(builder.close)
        stack.enter_context(cache.lock(IN_USE, shared=True))
        supply = Supply(facts, options, cache, terminal, builder)
        decided = list(supply.settle_all(requests))
        for number, one in enumerate(() if options.offline else tuple(decided)):
            if one.toolchain.image is not None:  # made now, because making it takes a network
                one = _equip(requests[number], one, builder, supply, lambda _: None)
                decided[number] = one
            if one.toolchain.packages:
                with terminal.phase(f"fetch toolchain {one.toolchain.name}", "bytes") as phase:
                    supply.fetch_toolchain(one, phase)
    return tuple(decided)


def verify(folder: Path) -> tuple[Manifest, CheckReport]:
    """Ask every binary of a dist folder everything again.

    What a binary must be comes from the project's own facts of that release, not from the
    folder. A control ("stock") is held to be nokmem and so fails: it must never pass for the
    real thing.
    """
    described = manifest.read(folder)
    rows = {row["name"]: row for row in described.data["binaries"]}
    decided = plan(dataclasses.replace(described.request, variant="nokmem"))
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


def check_patches(
    requests: Iterable[BuildRequest], options: Options, cache: Cache, terminal: Terminal
) -> tuple[PatchRow, ...]:
    """Apply each Kubernetes release's series to its real tree; a row for each release."""
    facts = Facts(own_patches=options.patches)
    supply = Supply(facts, options, cache, terminal)
    rows = []
    for request in requests:
        version = facts.release(request.kubernetes).version
        names = tuple(patch.name for patch in patches_for(facts, "kubernetes", version))
        applied, result = True, "nothing to apply"
        if names:
            try:
                decided = supply.settle_kubernetes(request)
                done = _patch(decided, ["kubelet"], facts, supply)["kubelet"]
                result = f"applies: {len(done.files)} files, commit {done.commit[:12]}"
            except (IntegrityError, UnavailableError) as error:
                applied, result = False, f"FAILS: {error.fact} ({error.place})"
        rows.append(PatchRow(version, names, applied, result))
    return tuple(rows)


def _patch(
    decided: BuildPlan, names: Iterable[str], facts: Facts, supply: Supply
) -> dict[str, Patched]:
    """The files that the patches of the named components change."""
    found = {}
    for component in (c for c in decided.components if c.name in names):
        kind = "kubernetes" if component.name == "kubelet" else component.name
        series = patches_for(facts, kind, component.version)
        if not series:
            found[component.name] = Patched({}, "")
            continue
        provider = supply.provider(decided, component.name)
        with supply.terminal.phase(f"patch {component.name} {component.version}") as phase:
            with supply.cache.run_folder() as scratch:
                try:
                    source, work = scratch / "source", scratch / "work"
                    source.mkdir()
                    work.mkdir()
                    done = patches.apply(
                        component,
                        series,
                        partial(provider.read, component, folder=source),
                        work,
                    )
                finally:
                    shutil.rmtree(scratch)
            phase.note = f"{len(series)} patches, commit {done.commit[:12]}"
        found[component.name] = done
    return found


def _equip(
    request: BuildRequest, decided: BuildPlan, builder: Builder, supply: Supply, write: OnOutput
) -> BuildPlan:
    """Make the toolchain; the plan that it is of.

    An image that was left to "auto" and cannot be made gives way to the tree that needs no
    network to be made, and that is said.
    """
    try:
        _make_toolchain(decided, builder, supply, write)
        return decided
    except (ToolchainError, UnavailableError) as error:
        if request.toolchain != "auto" or decided.toolchain.image is None:
            raise
        name = decided.toolchain.name
        supply.terminal.say(f"toolchain: debian, because {name} cannot be made: {error.fact}")
    settled = supply.settle(dataclasses.replace(request, toolchain="debian"))
    _make_toolchain(settled, builder, supply, write)
    return settled


def _make_toolchain(decided: BuildPlan, builder: Builder, supply: Supply, write: OnOutput) -> None:
    wanted = decided.toolchain
    with supply.terminal.phase(f"toolchain {wanted.name}", "bytes") as phase:

        def take(line: str) -> None:
            write(line)
            phase.line(line)

        made = toolchain.ensure(
            builder,
            wanted,
            supply.cache,
            RECIPES,
            supply.options.places.environment,
            lambda: supply.fetch_toolchain(decided, phase),
            take,
        )
        phase.note = "" if made else "reused"


def _compile(
    decided: BuildPlan,
    builder: Builder,
    supply: Supply,
    patched: Mapping[str, Patched],
    folder: Path,
    write: OnOutput,
) -> list[Binary]:
    options, terminal = supply.options, supply.terminal
    with builder.start(decided.toolchain.key, options.limits, keep=options.keep) as session:
        if options.keep:
            terminal.say(f"this room is kept: {session.entry}")
        for go in decided.toolchain.go:
            if go.archive:
                with terminal.phase(f"unpack Go {go.version}"):
                    put_go(go, supply.go.file(go), session, write)

        def one(component: ComponentPlan) -> Binary:
            source = supply.provider(decided, component.name)
            return _compile_one(
                component, source, patched[component.name], session, folder, supply, write
            )

        if not _side_by_side(options.limits):
            return [one(component) for component in decided.components]
        with ThreadPoolExecutor(len(decided.components)) as pool:
            try:
                work = [pool.submit(one, component) for component in decided.components]
                finished, _ = wait(work, return_when=FIRST_EXCEPTION)
                for future in work:
                    if future in finished:
                        future.result()  # the first failure ends the other, not the reverse
                return [future.result() for future in work]
            except BaseException:
                session.stop()
                raise


def _compile_one(
    component: ComponentPlan,
    provider: Provider,
    patched: Patched,
    session: Session,
    folder: Path,
    supply: Supply,
    write: OnOutput,
) -> Binary:
    title = f"compile {component.name} {component.version}"
    with (
        supply.terminal.phase(title, "packages") as phase,
        supply.cache.run_folder() as scratch,
    ):
        phase.note = f"Go {component.go}"

        def take(line: str) -> None:
            write(f"{component.name}: {line}")
            phase.line(line)

        try:
            source = provider.tree(component, scratch)
            return compile_component(
                component, source, patched.files, session, folder, take, phase.step
            )
        finally:
            shutil.rmtree(scratch)


def _side_by_side(limits: Limits) -> bool:
    """Whether there is memory for two compilers at once."""
    available = examine.available_memory()
    room = min(x for x in (limits.memory, available, 1 << 60) if x is not None)
    return room >= TWO_COMPILERS


def _expect(decided: BuildPlan, name: str, sha256: str) -> Expected:
    component = next(component for component in decided.components if component.name == name)
    return Expected(name, component.linking, component.accounting, component.prints, sha256)


def _failed_log(dist: Path, name: str) -> Path:
    return dist / f"{name}.failed.log"


def _keep_log(folder: Path, dist: Path, name: str, terminal: Terminal, log: TextIO) -> None:
    kept = _failed_log(dist, name)
    try:
        log.flush()
        if not (folder / LOG).stat().st_size:  # nothing had begun
            return
        shutil.copyfile(folder / LOG, kept)
    except OSError as error:  # what failed is worth more than its log
        terminal.say(f"the log of what failed could not be kept: {error.strerror}")
        return
    terminal.say(f"the log of what failed: {kept}")


@contextmanager
def _full_disk_named(*places: Path) -> Iterator[None]:
    """A full disk as an error that names the place: the one that has the least room."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        there = [place for place in places if place.exists()]
        place = min(there, key=lambda one: shutil.disk_usage(one).free)
        raise MachineError(
            "the disk is full",
            place=str(error.filename or place),
            next_step="free some room there, then run the same command again",
        ) from error
