"""Request in, plan out: every file, hash, commit, flag and time of a build, decided before it runs.

`resolve` is pure: the same request and facts give the same plan on any machine, in any folder.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from builders.errors import UsageError
from builders.model.components import kubelet, packaged_runc, patches_for, upstream_runc
from builders.model.plan import (
    BUILDER_ID,
    GO_WORDS,
    PLAN_SCHEMA,
    PROVIDERS,
    SEED,
    VARIANTS,
    WORK,
    BuildPlan,
    BuildRequest,
    Choices,
    ComponentPlan,
    GoPlan,
    OwnArchive,
    ToolchainPlan,
)
from builders.model.reading import GO
from builders.model.releases import Facts, Release, RuncRelease
from builders.model.toolchains import Toolchain, numbers

#: kubelet's vendored reflect2 (up to v1.0.1) reads the runtime's maps by a layout that ends here.
GO_TOO_NEW = (1, 18)
#: From here on "auto" means modules wherever a go.mod lies, in a GOPATH too.
GO_AUTO_MODULES = (1, 13)
TAG = re.compile(r"[a-z][a-z0-9_.]*")


def choices(request: BuildRequest, facts: Facts) -> Choices:
    """What may be tried for a request, in order; one entry where the user decided.

    An archive of the user's own comes before repositories, the distribution before both. The
    official Go comes first; the distribution's of the same minor stands in for it, one of a newer
    minor only where it is asked for (--go distribution).
    """
    release = facts.release(request.kubernetes)
    runc = facts.runc(release.runc(request.runc))
    _refuse_unknown("toolchain", request.toolchain, ("auto", *facts.toolchains))
    return Choices(
        _providers(request, facts, "kubernetes", release.version),
        _providers(request, facts, "runc", runc.version),
        _compilers(request, facts, release),
    )


def compiler_name(toolchain: str, go: str) -> str:
    """How a toolchain and its Go are called: el7 with Go 1.12.9."""
    return f"{toolchain} with {'its own Go' if go == 'distribution' else f'Go {go}'}"


def _providers(
    request: BuildRequest, facts: Facts, component: str, version: str
) -> tuple[str, ...]:
    asked = request.kubernetes_source if component == "kubernetes" else request.runc_source
    option = "k8s-source" if component == "kubernetes" else "runc-source"
    if asked not in PROVIDERS:
        raise UsageError(
            f"--{option} cannot be {asked!r}, which is neither here nor a URL",
            place=f"--{option}",
            next_step="use auto, debian or git, or name a folder, a file or a URL",
        )
    if asked != "auto":
        return (asked,)
    found = ["debian"] if facts.debian_source(component, version) else []
    found += ["archive"] if request.archive(component, version) else []
    return (*found, "git")


def _compilers(
    request: BuildRequest, facts: Facts, release: Release
) -> tuple[tuple[str, str], ...]:
    names = tuple(facts.toolchains) if request.toolchain == "auto" else (request.toolchain,)
    if request.go not in ("auto", "distribution"):
        return tuple((name, _go_version(request.go, release)) for name in names)
    own = [(name, "distribution") for name in names if facts.toolchains[name].go]
    if request.go == "distribution":
        if not own:
            raise UsageError(
                f"the toolchain {request.toolchain} has no Go of its own",
                place="--go",
                next_step="use --go official, or --toolchain debian",
            )
        return tuple(own)
    same = [
        (name, go) for name, go in own if _minor(facts.toolchains[name].go) == _minor(release.go)
    ]
    return (*((name, release.go) for name in names), *same)


def _go_version(asked: str, release: Release) -> str:
    version = release.go if asked == "official" else asked
    if not GO.fullmatch(version):
        raise UsageError(
            f"{asked!r} is not a Go version",
            place="--go",
            next_step=f"use one of: {', '.join(GO_WORDS)}, or write it as 1.15.15",
        )
    return version


def _refuse_unknown(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise UsageError(
            f"--{name} cannot be {value!r}",
            place=f"--{name}",
            next_step=f"use one of: {', '.join(known)}",
        )


def resolve(request: BuildRequest, facts: Facts) -> BuildPlan:
    """Decide a whole build; each "auto" is the first of `choices`.

    Raises UsageError, UnknownReleaseError, or UnavailableError where no source is known.
    """
    _refuse_unknown("variant", request.variant, VARIANTS)
    _refuse_unknown("target", request.target, sorted(facts.targets))
    release = facts.release(request.kubernetes)
    runc = facts.runc(release.runc(request.runc))
    _refuse_unusable(runc)
    may = choices(request, facts)
    (name, go) = may.compiler[0]
    request = dataclasses.replace(
        request,
        runc=runc.version,
        kubernetes_source=may.kubernetes_source[0],
        runc_source=may.runc_source[0],
        toolchain=name,
        go=go,
    )
    known = facts.toolchains[name]
    compiler = _go(request, facts, go, known)
    _refuse_go(compiler, release)
    runc_compiler = _go_for_runc(request, facts, runc, compiler)
    for option, tags in (("kubelet-tags", request.kubelet_tags), ("runc-tags", request.runc_tags)):
        if odd := [tag for tag in tags if not TAG.fullmatch(tag)]:
            raise UsageError(
                f"{odd[0]!r} is not a build tag",
                place=f"--{option}",
                next_step="write tags such as seccomp, with blanks between them",
            )
    if request.runc_source == "debian":
        runc_plan = packaged_runc(request, facts, release, runc, runc_compiler, known)
    else:
        runc_plan = upstream_runc(request, facts, release, runc, runc_compiler, known)
    kubelet_plan = kubelet(request, facts, release, compiler)
    goes = (compiler,) if runc_compiler == compiler else (compiler, runc_compiler)
    request = dataclasses.replace(request, own=_used(request, release, runc, goes))
    return BuildPlan(
        schema=PLAN_SCHEMA,
        kubernetes=release.version,
        kubernetes_commit=release.commit,
        variant=request.variant,
        mechanism=release.mechanism if request.variant == "nokmem" else "none",
        epoch=release.epoch,
        request=request,
        go_official=release.go,
        target=facts.targets[request.target],
        toolchain=_toolchain(known, goes, facts.recipes[known.recipe]),
        components=(runc_plan, kubelet_plan),
        deviations=_deviations(request, facts, release, runc, (runc_plan, kubelet_plan), goes),
    )


def _refuse_unusable(runc: RuncRelease) -> None:
    if runc.nokmem == "absent":
        raise UsageError(
            f"runc {runc.version} has no nokmem tag: it would account kernel memory",
            place="--runc",
            next_step="use 1.0.0-rc6 or later",
        )


def _minor(version: str) -> tuple[int, ...]:
    return numbers(version)[:2]


def _go(request: BuildRequest, facts: Facts, version: str, toolchain: Toolchain) -> GoPlan:
    if version == "distribution":
        return GoPlan(toolchain.go, toolchain.go_root, toolchain.go_package, {})
    archive = request.archive("go", version) or facts.go_archives.get(version)
    if archive is None:
        near = difflib.get_close_matches(version, facts.go_archives, n=3, cutoff=0)
        raise UsageError(
            f"no sha256 is held of an archive of Go {version}",
            place="--go",
            next_step=f"nearest: {', '.join(near)}; one of your own is named, with its sha256, "
            "under [archives.go] in nokmem.toml",
        )
    return GoPlan(
        version,
        f"{WORK}/goroot/{version}/go",
        "",
        {"name": archive.name, "sha256": archive.sha256},
    )


def _refuse_go(go: GoPlan, release: Release) -> None:
    if release.modules == "auto" and numbers(go.version) >= GO_AUTO_MODULES:
        raise UsageError(
            f"kubelet {release.version} sets GO111MODULE=auto, with which Go {go.version} passes "
            "over its vendor folder",
            place="--go",
            next_step=f"use {release.go}, or another release before 1.13",
        )
    if numbers(go.version) >= GO_TOO_NEW:
        raise UsageError(
            f"Go {go.version} compiles kubelet {release.version}, but the reflect2 that it "
            "vendors crashes at run time from Go 1.18 on",
            place="--go",
            next_step=f"use {release.go}, or another release before 1.18",
        )
    if _minor(go.version) < _minor(release.go):
        raise UsageError(
            f"kubelet {release.version} is written for Go {release.go}, {go.version} is older",
            place="--go",
            next_step=f"use {release.go}, or a later release before 1.18",
        )


def _go_for_runc(
    request: BuildRequest, facts: Facts, runc: RuncRelease, kubelets: GoPlan
) -> GoPlan:
    """kubelet's Go, or where runc is written for a newer one, the first archive that will do."""
    if not runc.go or _minor(runc.go) <= _minor(kubelets.version):
        return kubelets
    wanted = _minor(runc.go)
    fit = [v for v in facts.go_archives if wanted <= _minor(v) and numbers(v) < GO_TOO_NEW]
    if not fit:
        raise UsageError(
            f"runc {runc.version} is written for Go {runc.go}; before 1.18 there is none like it",
            place="--runc",
            next_step="use a release up to 1.1.12",
        )
    newest = max((v for v in fit if _minor(v) == min(map(_minor, fit))), key=numbers)
    return _go(request, facts, newest, next(iter(facts.toolchains.values())))


def packager(facts: Facts) -> ToolchainPlan:
    """Where packages are made, whatever compiled: an rpmbuild that repeats itself, which the one of
    EL7 (4.11) does not, as it knows neither the time of the build nor the host as given."""
    known = facts.toolchains["debian"]
    return _toolchain(known, (), facts.recipes[known.recipe])


def _used(
    request: BuildRequest, release: Release, runc: RuncRelease, goes: Iterable[GoPlan]
) -> tuple[OwnArchive, ...]:
    """The archives of the user's that a plan takes something from, of all that are named."""
    used = [request.archive("go", go.version) for go in goes if go.archive]
    if request.kubernetes_source == "archive":
        used.append(request.archive("kubernetes", release.version))
    if request.runc_source == "archive":
        used.append(request.archive("runc", runc.version))
    return tuple(one for one in request.own if one in used)


def _toolchain(toolchain: Toolchain, goes: tuple[GoPlan, ...], recipe_sha256: str) -> ToolchainPlan:
    seed = dataclasses.asdict(toolchain.seed) if toolchain.seed else None
    image = dataclasses.asdict(toolchain.image) if toolchain.image else None
    content: dict[str, Any] = {
        "seed": SEED,
        "builder": BUILDER_ID,
        "recipe": recipe_sha256,
        "image": image,
    }
    if toolchain.seed:
        content |= {
            "script": toolchain.seed.script,
            "debootstrap": toolchain.seed.debootstrap.sha256,
            "required": toolchain.seed.required,
            "packages": [file.sha256 for file in toolchain.seed.packages],
        }
    return ToolchainPlan(
        key=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        name=toolchain.name,
        recipe=toolchain.recipe,
        recipe_sha256=recipe_sha256,
        go=goes,
        seed=seed,
        image=image,
        static=toolchain.static,
    )


def _deviations(
    request: BuildRequest,
    facts: Facts,
    release: Release,
    runc: RuncRelease,
    components: Iterable[ComponentPlan],
    goes: Iterable[GoPlan],
) -> tuple[str, ...]:
    """What is not as upstream's own build of this release would have it, and what is known to
    be wrong with what is built."""
    found = []
    kubelets, *runcs = goes
    if kubelets.version != release.go:
        found.append(
            f"Go {kubelets.version} ({kubelets.package or kubelets.archive['name']}) compiles; "
            f"the official build of {release.version} used Go {release.go}"
        )
    found += [f"runc {runc.version} is compiled by Go {go.version}" for go in runcs]
    for go in goes:
        official = facts.go_archives.get(go.version)
        if go.archive and (official is None or official.sha256 != go.archive["sha256"]):
            found.append(f"Go {go.version} is an archive of your own, not the official one")
    for component in components:
        if component.source.provider == "archive":
            found.append(
                f"{component.name} is built from an archive of your own, known by the sha256 that "
                f"you gave; that it holds {component.version} is your word"
            )
    packaged = (
        facts.debian_source("runc", runc.version) if request.runc_source == "debian" else None
    )
    if packaged is not None:
        found.append(
            f"runc {runc.version} is built from Debian's package revision {packaged.revision}, "
            f"which carries Debian's patches, not from commit {runc.commit}"
        )
    for what in _unproven(request, facts, release, runc, kubelets):
        found.append(f"unproven combination: {release.version} with {what}")
    if f"v{runc.version}" != release.vendored_runc:
        found.append(
            f"kubelet {release.version} vendors runc {release.vendored_runc}; "
            f"the runc beside it is {runc.version}"
        )
    lost = [tag for tag in runc.default_tags if tag not in request.runc_tags]
    if lost:
        found.append(f"runc {runc.version} is built without its default tags {', '.join(lost)}")
    mended = packaged.fixes if packaged is not None else ()
    found += [
        f"runc {runc.version} is open to {cve.id}: {cve.summary} ({cve.evidence})"
        for cve in runc.cves
        if cve.id not in mended
    ]
    kubelet_source = facts.debian_source("kubernetes", release.version)
    if request.kubernetes_source == "debian" and kubelet_source and kubelet_source.unapplied:
        found.append(f"not applied to Kubernetes: {kubelet_source.unapplied}")
    return tuple(found)


def _unproven(
    request: BuildRequest, facts: Facts, release: Release, runc: RuncRelease, go: GoPlan
) -> list[str]:
    """What the user, and not the project's data, put together."""
    proven = {(p.component, p.release, p.go) for p in facts.proofs}
    found = []
    if runc.version != release.runc():
        found.append(f"runc {runc.version}")
    if go.version != release.go and ("kubernetes", release.version, go.version) not in proven:
        found.append(f"Go {go.version}")
    if request.kubelet_tags:
        found.append(f"the kubelet tags {' '.join(request.kubelet_tags)}")
    if request.stamp:
        found.append("the stamp in kubelet's version")
    if request.runc_tags != ("seccomp",):
        found.append(f"the runc tags {' '.join(request.runc_tags) or 'none'}")
    found += [
        f"your own patch {patch.name}"
        for component, version in (("kubernetes", release.version), ("runc", runc.version))
        for patch in patches_for(facts, component, version, request.variant)
        if patch.own
    ]
    return found
