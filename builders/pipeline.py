"""The order of things: from a version to a proven dist folder. Nothing else knows it."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from builders import __version__
from builders.errors import (
    BusyError,
    IntegrityError,
    MachineError,
    NokmemError,
    ProofError,
    ToolchainError,
    UnavailableError,
    UsageError,
)
from builders.model.artifact import (
    LOG,
    PACKAGES_PROVENANCE,
    PLAN,
    PROVENANCE,
    REPORT,
    SBOM,
    SCRIPT,
    Binary,
    Check,
    CheckReport,
    Manifest,
    Package,
)
from builders.model.components import followed, patches_for
from builders.model.packages import package_plans
from builders.model.plan import BuildPlan, BuildRequest, ComponentPlan, ToolchainPlan
from builders.model.releases import RECIPES, Facts
from builders.model.resolve import choices, packager, resolve
from builders.steps import bundle as bundling
from builders.steps import (
    checks,
    gotest,
    manifest,
    modules,
    packages,
    patches,
    provenance,
    repository,
    sbom,
    sources,
    toolchain,
)
from builders.steps import publish as publishing
from builders.steps.checks import Expected
from builders.steps.compile import OnOutput, compile_component, lay, put_go
from builders.steps.patches import Patched
from builders.steps.sources import Provider
from builders.supply import Options, Supply, sweep
from builders.tools import container, elf, gpg, process, rootfs
from builders.tools.builder import Background, Builder, Limits, Session
from builders.tools.cache import IN_USE, Cache, surely
from builders.tools.parcel import Item
from builders.tools.targets import Target
from builders.tools.terminal import Phase, Terminal
from rollout.script import script

BUILDERS = ("auto", "container", "rootfs")
#: Bytes; the linker of kubelet peaks at 1.6 GB, the compiler of runc at 0.6 GB.
TWO_COMPILERS = 3 << 30
#: Seconds; it disassembles.
DIFFOSCOPE = 600
#: Seconds; a signal that another thread was given wakes nobody who waits without end.
AWAKE = 0.5


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
    earlier = _earlier(dist / name)
    profile_before = earlier.profile if earlier else ()
    passed = 0
    if earlier is not None and not options.rebuild:
        passed = _standing(request, facts, dist / name, earlier)
    if passed:
        terminal.say("this very build stands there, whole; --rebuild makes it anew")
        with suppress(BusyError, MachineError), manifest.hold(dist, name):
            pass  # only to remove what a killed run left
        return Built(dist / name, passed, profile_before, ())
    with ExitStack() as stack:
        stack.enter_context(_full_disk_named(dist, cache.root))
        builder = choose(options.builder, cache, terminal)
        stack.callback(builder.close)
        builder.admit(options.limits)
        stack.enter_context(cache.lock(IN_USE, shared=True))
        stack.enter_context(manifest.hold(dist, name))
        sweep(cache, [builder])
        unbundle(options, cache, terminal)
        folder = manifest.staging(dist, name)
        stack.callback(surely, partial(shutil.rmtree, folder, ignore_errors=True))
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
        described = write_papers(decided, binaries, folder, builder.name, profile)
        place = manifest.put_in_place(folder, dist / name, described)
        _failed_log(dist, name).unlink(missing_ok=True)
        return Built(place, len(report.checks), profile_before, profile)


def write_papers(
    decided: BuildPlan,
    binaries: list[Binary],
    folder: Path,
    builder: str,
    profile: tuple[tuple[str, float], ...] = (),
) -> Manifest:
    """Write script, bill and provenance of proven binaries into a staged folder that has plan and
    report; the manifest of all."""
    described = manifest.describe(decided, binaries, builder, profile)
    manifest.write_script(folder, script(described))
    (folder / SBOM).write_text(sbom.make(decided, binaries, __version__))
    (folder / PROVENANCE).write_text(provenance.make(decided, binaries, folder, __version__))
    return manifest.with_files(described, folder)


def _earlier(place: Path) -> Manifest | None:
    """The manifest of what stands there, None where it is not whole."""
    try:
        return manifest.read(place)
    except (NokmemError, OSError):
        return None


def _standing(request: BuildRequest, facts: Facts, place: Path, described: Manifest) -> int:
    """How many checks what stands there passes, 0 where it is not the very build that is asked for.

    It is that if the request, each "auto" in it as it was settled then, plans exactly that,
    and if all papers say what they would say now. Nothing is taken on the folder's word but what
    the binaries printed where they were built, and the versions of what their sources vendor.
    """
    try:
        then, may, settled = described.request, choices(request, facts), request
        if then.kubernetes_source in may.kubernetes_source:
            settled = dataclasses.replace(settled, kubernetes_source=then.kubernetes_source)
        if then.runc_source in may.runc_source:
            settled = dataclasses.replace(settled, runc_source=then.runc_source)
        if (then.toolchain, then.go) in may.compiler:
            settled = dataclasses.replace(settled, toolchain=then.toolchain, go=then.go)
        planned = resolve(settled, facts)
        if (place / PLAN).read_bytes() != planned.to_json().encode():
            return 0
        prints = {row["name"]: tuple(row["prints"]) for row in described.data["binaries"]}
        items = [
            (dataclasses.replace(binary, says=prints[binary.name]), expected)
            for binary, expected in _items(described, planned, place)
        ]
        report = checks.prove(items, planned.target)
        if not report.passed or (place / REPORT).read_bytes() != report.to_json().encode():
            return 0
        papers = _papers(described, planned, [binary for binary, _ in items], place)
    except (NokmemError, OSError):
        return 0
    return len(report.checks) if all(check.passed for check in papers) else 0


def _papers(
    described: Manifest, planned: BuildPlan, binaries: list[Binary], folder: Path
) -> list[Check]:
    """Whether each paper of a dist folder is what the plan and what lies beside it make of it."""
    nokmem = described.data["nokmem"]
    path = folder / SCRIPT
    same = path.is_file() and path.read_bytes() == script(described).encode()
    text = Check(
        SCRIPT,
        "text",
        same,
        "as this version makes it of the manifest" if same else "not what this version makes of it",
        "look at what it does before anybody runs it, or build this version again",
    )
    found = [
        text,
        sbom.check(planned, binaries, folder, nokmem),
        provenance.check(planned, binaries, folder, nokmem),
        manifest.check(described, planned, binaries, folder),
    ]
    if described.data["packages"]:
        found.append(provenance.check_packages(described, folder))
    return found


def fetch(
    requests: Iterable[BuildRequest], options: Options, cache: Cache, terminal: Terminal
) -> tuple[BuildPlan, ...]:
    """Leave in the cache all that builds of these would need, and tell what each will be."""
    facts, requests = Facts(own_patches=options.patches), tuple(requests)
    for request in requests:
        resolve(request, facts)  # what none can know is refused before any is fetched
    with ExitStack() as stack:
        builder = choose(options.builder, cache, terminal)
        stack.callback(builder.close)
        stack.enter_context(cache.lock(IN_USE, shared=True))
        sweep(cache, [builder])
        unbundle(options, cache, terminal)
        supply = Supply(facts, options, cache, terminal, builder)
        decided = list(supply.settle_all(requests))
        for number, one in enumerate(() if options.offline else tuple(decided)):
            if one.toolchain.image is not None:  # made now, because making it takes a network
                one = _equip(requests[number], one, builder, supply, lambda _: None)
                decided[number] = one
            if one.toolchain.packages:
                with terminal.phase(f"fetch {one.toolchain.name}", "bytes") as phase:
                    supply.fetch_toolchain(one.toolchain, phase)
    return tuple(decided)


def verify(folder: Path) -> tuple[Manifest, CheckReport]:
    """Ask every binary of a dist folder everything again.

    What a binary must be comes from the project's own facts of that release, not from the
    folder, but for the patches of the user's, which its plan names. A control ("stock") is held to
    be nokmem and so fails: it must never pass for the real thing. What the papers say is held
    against these facts, the plan and the binaries.
    """
    described = manifest.read(folder)
    decided = plan(dataclasses.replace(described.request, variant="nokmem"))
    planned = manifest.plan(folder)
    said = {component.name: component.source for component in planned.components}
    parts = tuple(followed(c, said.get(c.name, c.source)) for c in decided.components)
    items = _items(described, dataclasses.replace(decided, components=parts), folder)
    asked = checks.prove(items, decided.target).checks
    known = provenance.check_sources(planned, plan(described.request))
    papers = _papers(described, planned, [binary for binary, _ in items], folder)
    return described, CheckReport((*asked, known, *papers))


def package(
    place: Path, release: str, sign: str, options: Options, cache: Cache, terminal: Terminal
) -> list[Package]:
    """Make the RPMs of a dist folder that passes verification, and put them into it, signed by the
    key that `sign` names if it names one.

    Earlier ones in it are replaced, all at once.
    """
    shown, place = place, place.resolve()
    signer = gpg.Signer(sign, options.places.environment) if sign else None
    with ExitStack() as stack:
        stack.enter_context(_full_disk_named(place.parent, cache.root))
        stack.enter_context(manifest.hold(place.parent, place.name))
        with terminal.phase("prove"):
            described = proven(place)
        facts = Facts()
        platform = facts.platforms[described.data["target"]]
        planned = json.loads((place / PLAN).read_text())
        builder = choose(options.builder, cache, terminal)
        stack.callback(builder.close)
        stack.enter_context(cache.lock(IN_USE, shared=True))
        unbundle(options, cache, terminal)
        folder = manifest.staging(place.parent, place.name)
        stack.callback(surely, partial(shutil.rmtree, folder, ignore_errors=True))
        tools = packager(facts)
        supply = Supply(facts, options, cache, terminal, builder)
        _make_toolchain(tools, builder, supply, lambda _: None)
        session = stack.enter_context(builder.start(tools.key, options.limits))
        made = []
        for one in package_plans(planned, platform, release):
            with terminal.phase(f"package {one.file}") as phase:
                made.append(packages.make(one, platform, place, session, folder, phase.line))
        if signer is not None:
            with terminal.phase(f"sign with {signer.key.fingerprint}"):
                made = packages.signed(made, signer)
        manifest.copy(described, place, folder)
        described = manifest.with_packages(described, made)
        text = provenance.make_packages(described, provenance.described(tools), __version__)
        (folder / PACKAGES_PROVENANCE).write_text(text)
        described = manifest.with_files(described, folder, [PACKAGES_PROVENANCE])
        if signer is None:
            manifest.put_in_place(folder, place, described)
        else:
            manifest.put_in_place(folder, place, described, signer.detach)
        return [dataclasses.replace(one, path=shown / one.path.name) for one in made]


@dataclass(frozen=True)
class Compared:
    """A file of a dist folder and the one that a second build made; sha256 of each, of a package
    without its signature. `why` is what diffoscope says of two that differ, where it is at hand."""

    name: str
    there: str
    again: str
    why: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        return self.there == self.again


def reproduce(
    place: Path, work: Path, options: Options, cache: Cache, terminal: Terminal
) -> list[Compared]:
    """Build into `work` what the manifest of a proven dist folder says, and compare all that no
    run may change: binaries, plan, report, bill, provenance, packages. What says where the packages
    come from is left out: it has their hashes, signatures included."""
    with terminal.phase(f"prove {place}"):
        described, report = verify(place)
    if not report.passed:
        raise proof_error(report, str(place))
    options = dataclasses.replace(options, rebuild=True)
    again = build(described.request, options, work, cache, terminal).place
    options = dataclasses.replace(options, bundle=None)  # what it holds is in the cache now
    rows = described.data["packages"]
    if rows:
        platform = Facts().platforms[described.data["target"]]
        planned = json.loads((place / PLAN).read_text())
        usual = {each.name: each.release for each in package_plans(planned, platform)}
        own = {row["release"] for row in rows if row["release"] != usual.get(row["name"])}
        release = own.pop().removesuffix(f".{platform.dist}") if own else ""
        package(again, release, "", options, cache, terminal)
    binaries = [row["name"] for row in described.data["binaries"]]
    names = [*binaries, *manifest.BUILT, *(row["file"] for row in rows)]
    return [_compare(name, place / name, again / name) for name in names]


def _compare(name: str, there: Path, again: Path) -> Compared:
    one, other = packages.unsigned_sha256(there), packages.unsigned_sha256(again)
    diffoscope = process.find("diffoscope") if one != other else None
    if diffoscope is None:
        return Compared(name, one, other)
    argv = [diffoscope, "--max-report-size", "4096", str(there), str(again)]
    _, text = process.capture(argv, timeout=DIFFOSCOPE)
    return Compared(name, one, other, tuple(text.splitlines()[:40]))


@dataclass(frozen=True)
class Bundled:
    """A bundle that was written: its sha256, its size in bytes, and what it says of itself."""

    sha256: str
    size: int
    about: bundling.About


def bundle(
    requests: Iterable[BuildRequest],
    dists: Iterable[Path],
    place: Path,
    project: Path,
    options: Options,
    cache: Cache,
    terminal: Terminal,
) -> Bundled:
    """Write one file with all that builds of these need where there is no network, the project
    among it, and proven dist folders. What is not in the cache is fetched."""
    facts, environment = Facts(own_patches=options.patches), options.places.environment
    requests = [_packable(request, facts) for request in requests]
    if place.is_dir() or not place.parent.is_dir():
        raise UsageError(
            "a folder stands there" if place.is_dir() else "its folder is not there",
            place=str(place),
            next_step="name a file in a folder that is there with --output",
        )
    with ExitStack() as stack:
        stack.enter_context(_full_disk_named(place.parent, cache.root))
        stack.enter_context(cache.lock(IN_USE, shared=True))
        scratch = stack.enter_context(cache.scratch())
        known = []
        for dist in dists:
            with terminal.phase(f"prove {dist}"):
                known.append((dist, proven(dist)))
        commit, epoch, items = bundling.project(project, scratch, terminal.say)
        supply = Supply(facts, options, cache, terminal)
        decided = supply.settle_all(requests)
        toolchains = {plan.toolchain.key: plan.toolchain for plan in decided}
        if decided or not all(described.data["packages"] for _, described in known):
            tools = packager(facts)
            toolchains[tools.key] = tools
        for one in toolchains.values():
            with terminal.phase(f"fetch {one.name}", "bytes") as phase:
                supply.fetch_toolchain(one, phase)
        with terminal.phase("fetch Python packages"):
            items += bundling.requirements(scratch, environment)
        with terminal.phase(f"pack {place.name}", "bytes") as phase:
            tagged, packs = _repositories(decided, supply, scratch)
            signers = bundling.keys(known, scratch, environment)
            items += bundling.cached(cache, bundling.files(decided, toolchains.values()))
            items += [*packs, *signers.values()]
            items += [item for dist, described in known for item in bundling.dist(dist, described)]
            items += bundling.own_patches(options.patches) if options.patches else []
            about = bundling.About(
                commit,
                bundling.python(),
                tuple(bundling.words(plan.request) for plan in decided),
                tagged,
                tuple(sorted(described.kubernetes for _, described in known)),
                tuple(sorted(signers)),
            )
            sha256 = bundling.write(place, about, items, epoch, partial(_count, phase))
            phase.note = f"{len(items)} files"
    return Bundled(sha256, place.stat().st_size, about)


def _packable(request: BuildRequest, facts: Facts) -> BuildRequest:
    """The request, by a toolchain of which every package is pinned; UsageError for another."""
    if request.toolchain == "auto":
        request = dataclasses.replace(request, toolchain="debian")
    name = resolve(request, facts).toolchain.name
    if facts.toolchains[request.toolchain].image is not None:
        raise UsageError(
            f"{name} is an image that yum made: nothing pins what is in it, so that nobody could "
            "check it where the bundle arrives",
            place="--toolchain",
            next_step="use --toolchain debian, or make the image there by a registry and a vault",
        )
    return request


def _repositories(
    decided: Iterable[BuildPlan], supply: Supply, scratch: Path
) -> tuple[dict[str, dict[str, str]], list[Item]]:
    """The commits that plans need, by component and tag, and packs of them."""
    tagged: dict[str, dict[str, str]] = {}
    folders = {}
    for plan in decided:
        for component in plan.components:
            folder = supply.provider(plan, component.name).repository(component)
            if folder is not None:
                source, folders[component.name] = component.source, folder
                tagged.setdefault(component.name, {})[source.revision] = source.commit
    packs = [
        bundling.packed(name, folder, tagged[name].values(), scratch)
        for name, folder in folders.items()
    ]
    return tagged, packs


def unbundle(options: Options, cache: Cache, terminal: Terminal) -> bundling.About | None:
    """Bring into the cache what it lacks of the bundle that the options name, if they name one,
    after all of it was read and found whole; what it says of itself."""
    place = options.bundle
    if place is None:
        return None
    with (
        terminal.phase(f"read {place.name}", "bytes") as phase,
        cache.scratch() as scratch,
    ):
        lacks = partial(sources.lacks, cache)
        taken = bundling.take(place, cache, scratch, lacks, partial(_count, phase))
        try:
            for name, packed in taken.packs.items():
                room = scratch / f"{name}.git"
                room.mkdir()
                tagged = taken.about.repositories[name]
                sources.adopt(cache, name, packed, tagged, room, terminal.say)
        except (IntegrityError, UnavailableError) as error:
            error.place = str(place)  # the user's word for it, not the cache's
            raise
        for sha256, path in taken.files.items():
            cache.adopt(sha256, path)
        phase.note = f"{len(taken.files) + len(taken.packs)} things the cache had not"
    return taken.about


def verify_bundle(
    place: Path, cache: Cache, terminal: Terminal
) -> tuple[bundling.About, list[tuple[str, str]]]:
    """Read a bundle to its end and prove its dist folders: what it says of itself, and what was
    found, in rows. ProofError where a folder does not pass."""
    with _full_disk_named(cache.root), cache.scratch() as scratch:
        with terminal.phase(f"read {place.name}", "bytes") as phase:
            members, about = bundling.unpack_dists(place, scratch, partial(_count, phase))
        rows = [("project", f"commit {about.commit}"), *bundling.contents(members, about)]
        for name in about.dists:
            with terminal.phase(f"prove {name}"):
                folder = scratch / bundling.DIST / name
                _, report = _proven(folder)
            rows.append((f"dist {name}", f"{len(report.checks)} checks passed"))
    return about, rows


def _count(phase: Phase, count: int) -> None:
    phase.step(amount=count)


def repo(
    dists: Iterable[Path], folder: Path, url: str, sign: str, options: Options, terminal: Terminal
) -> tuple[int, int]:
    """Add the packages of proven dist folders to a yum repository; how many came, how many are
    there. All are proven and checked before the first is added."""
    signer = gpg.Signer(sign, options.places.environment) if sign else None
    known = []
    for dist in dists:
        with terminal.phase(f"prove {dist}"):
            known.append((dist, proven(dist)))
    with _full_disk_named(folder), repository.hold(folder), terminal.phase(f"index {folder}"):
        return repository.grow(folder, known, signer, url)


def publish(
    folder: Path, target: Target, terminal: Terminal, *, is_repository: bool, dry_run: bool
) -> tuple[list[publishing.Row], bool]:
    """Put a dist folder that passes verification, or a repository, where others can get it.

    What became of each file, or would, and whether anything changed there.
    """
    with ExitStack() as stack:
        if is_repository and (folder / repository.INDEX).is_dir():
            stack.enter_context(repository.hold(folder))
        with terminal.phase("prove"):
            if is_repository:
                items = publishing.repository(folder)
            else:
                items = publishing.dist(folder, proven(folder).kubernetes)
        unsigned = publishing.unsigned(items)
        if unsigned:
            terminal.say(f"not signed: {', '.join(unsigned)}")
        with terminal.phase("compare") as phase:
            rows = publishing.compare(items, target, phase.line)
        if dry_run:
            return rows, False
        publishing.refuse(rows, target)
        return rows, publishing.send(rows, target, terminal)


def proven(folder: Path) -> Manifest:
    """The manifest of a dist folder that may leave this machine: verified, and no control."""
    return _proven(folder)[0]


def _proven(folder: Path) -> tuple[Manifest, CheckReport]:
    described, report = verify(folder)
    if described.data["variant"] == "stock":
        raise ProofError(
            "by its manifest this is the control, which nobody may get for the real thing",
            place=str(folder),
            next_step="give the folder that the build without --variant stock has made",
        )
    if not report.passed:
        raise proof_error(report, str(folder))
    return described, report


def _items(described: Manifest, decided: BuildPlan, folder: Path) -> list[tuple[Binary, Expected]]:
    """The binaries of a dist folder, with the modules that its bill names, and what the plan wants
    them to be."""
    rows = {row["name"]: row for row in described.data["binaries"]}
    names = [component.name for component in decided.components]
    if set(rows) != set(names):
        raise ProofError(
            f"the manifest has {', '.join(sorted(rows))}; a build has {', '.join(sorted(names))}",
            place=str(folder),
            next_step="build this version again",
        )
    vendored, found = sbom.modules(folder), []
    for name in names:
        row, path = rows[name], folder / name
        packages, known = elf.go_packages(path), vendored.get(name, ())
        binary = Binary(name, path, row["size"], row["sha256"], None, packages, known)
        found.append((binary, _expect(decided, name, row["sha256"])))
    return found


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
    with cache.lock(IN_USE, shared=True):
        return tuple(_check_patches(request, facts, supply) for request in requests)


def _check_patches(request: BuildRequest, facts: Facts, supply: Supply) -> PatchRow:
    version = facts.release(request.kubernetes).version
    names = tuple(patch.name for patch in patches_for(facts, "kubernetes", version))
    if not names:
        return PatchRow(version, names, True, "nothing to apply")
    try:
        decided = supply.settle_kubernetes(request)
        done = _patch(decided, ["kubelet"], facts, supply)["kubelet"]
    except (IntegrityError, UnavailableError) as error:
        return PatchRow(version, names, False, f"FAILS: {error.fact} ({error.place})")
    result = f"applies: {len(done.files)} files, commit {done.commit[:12]}"
    return PatchRow(version, names, True, result)


def test_patches(
    request: BuildRequest, options: Options, cache: Cache, terminal: Terminal
) -> gotest.Report:
    """Run the Go tests that the patches bring, inside the patched tree of one release."""
    facts = Facts(own_patches=options.patches)
    with ExitStack() as stack:
        builder = choose(options.builder, cache, terminal)
        stack.callback(builder.close)
        stack.enter_context(cache.lock(IN_USE, shared=True))
        supply = Supply(facts, options, cache, terminal, builder)
        decided = _equip(request, supply.settle(request), builder, supply, lambda _: None)
        (kubelet,) = (c for c in decided.components if c.name == "kubelet")
        if not kubelet.build:
            raise UnavailableError(
                f"no patch for {kubelet.version} brings tests of its own",
                place="patches/kubernetes/series.toml",
                next_step="name a release that the series serves",
            )
        patched = _patch(decided, ["kubelet"], facts, supply)["kubelet"]
        session = stack.enter_context(builder.start(decided.toolchain.key, options.limits))
        for go in decided.toolchain.go:
            if go.archive and go.version == kubelet.go:
                put_go(go, supply.go.file(go), session, lambda _: None)
        scratch = stack.enter_context(cache.run_folder())
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        with terminal.phase(f"test the patches on {kubelet.version}") as phase:
            phase.note = f"Go {kubelet.go}"
            source = supply.provider(decided, "kubelet").tree(kubelet, scratch)
            lay(kubelet, source, patched.files, session, phase.line)
            return gotest.run(kubelet, session, phase.line)


def _patch(
    decided: BuildPlan, names: Iterable[str], facts: Facts, supply: Supply
) -> dict[str, Patched]:
    """The files that the patches of the named components change."""
    found = {}
    for component in (c for c in decided.components if c.name in names):
        kind = "kubernetes" if component.name == "kubelet" else component.name
        series = patches_for(facts, kind, component.version, decided.variant)
        if not series:
            found[component.name] = Patched({}, "")
            continue
        provider = supply.provider(decided, component.name)
        with supply.terminal.phase(f"patch {component.name} {component.version}") as phase:
            with supply.cache.scratch() as scratch:
                source, work = scratch / "source", scratch / "work"
                source.mkdir()
                work.mkdir()
                read = partial(provider.read, component, folder=source)
                done = patches.apply(component, series, read, work)
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
        _make_toolchain(decided.toolchain, builder, supply, write)
        return decided
    except (ToolchainError, UnavailableError) as error:
        if request.toolchain != "auto" or decided.toolchain.image is None:
            raise
        name = decided.toolchain.name
        supply.terminal.say(f"toolchain: debian, because {name} cannot be made: {error.fact}")
    settled = supply.settle(dataclasses.replace(request, toolchain="debian"))
    _make_toolchain(settled.toolchain, builder, supply, write)
    return settled


def _make_toolchain(
    wanted: ToolchainPlan, builder: Builder, supply: Supply, write: OnOutput
) -> None:
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
            lambda: supply.fetch_toolchain(wanted, phase),
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

        together = _side_by_side(options.limits, builder.memory())

        def one(component: ComponentPlan) -> Binary:
            source = supply.provider(decided, component.name)
            # kubelet is what takes long, and leaves a core idle while it links
            room = Background(session) if together and component.name != "kubelet" else session
            return _compile_one(
                component, source, patched[component.name], room, folder, supply, write
            )

        if not together:
            return [one(component) for component in decided.components]
        with ThreadPoolExecutor(len(decided.components)) as pool:
            try:
                work = [pool.submit(one, component) for component in decided.components]
                going = set(work)
                while going:
                    finished, going = wait(work, AWAKE, FIRST_EXCEPTION)
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
        supply.cache.scratch() as scratch,
    ):
        phase.note = f"Go {component.go}"

        def take(line: str) -> None:
            write(f"{component.name}: {line}")
            phase.line(line)

        source = provider.tree(component, scratch)
        with ThreadPoolExecutor(1) as pool:
            vendored = pool.submit(modules.vendored, component, source, patched.files)
            binary = compile_component(
                component, source, patched.files, session, folder, take, phase.step
            )
        return dataclasses.replace(binary, modules=vendored.result())


def _side_by_side(limits: Limits, available: int | None) -> bool:
    """Whether there is memory for two compilers at once, as far as anybody says."""
    bounds = [bound for bound in (limits.memory, available) if bound is not None]
    return min(bounds, default=TWO_COMPILERS) >= TWO_COMPILERS


def _expect(decided: BuildPlan, name: str, sha256: str) -> Expected:
    component = next(component for component in decided.components if component.name == name)
    return Expected(
        name, component.linking, component.accounting, component.prints, sha256, component.build
    )


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
