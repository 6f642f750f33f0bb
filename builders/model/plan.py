"""Request in, plan out: every file, hash, commit, flag and time of a build, decided before it runs.

`resolve` is pure: the same request and facts give the same plan on any machine, in any folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from builders.errors import FactsError, UnavailableError, UsageError
from builders.model.reading import GO
from builders.model.releases import Facts, Release, RuncRelease
from builders.model.series import Patch
from builders.model.toolchains import DebianSource, Target, Toolchain, numbers

PLAN_SCHEMA = 2
#: Version of the seed that steps/toolchain.py writes, and the id that compiles in it: both
#: change a tree, so both are in its key.
SEED = 1
BUILDER_ID = 61000
VARIANTS = ("nokmem", "stock")
#: Where a source may come from: the distribution, a repository (upstream's or a mirror of it), a
#: repository in a folder, an archive whose sha256 the user gives. "auto" is the first that
#: answers, in the order that `choices` gives.
PROVIDERS = ("auto", "debian", "git", "dir", "archive")
#: Which Go compiles, beside a version: the one that upstream used, or the toolchain's own.
GO_WORDS = ("auto", "official", "distribution")
#: kubelet's vendored reflect2 (up to v1.0.1) reads the runtime's maps by a layout that ends here.
GO_TOO_NEW = (1, 18)
#: A comma between two tags, the one form that GOFLAGS can carry, is understood from here on.
GO_COMMA_TAGS = (1, 13)
TAG = re.compile(r"[a-z][a-z0-9_.]*")

#: Where upstream's `make kubelet` leaves it, at every release.
KUBELET_OUTPUT = "_output/local/bin/linux/amd64/kubelet"
#: Where things are inside a builder. Fixed, so that no path of a machine reaches a binary.
WORK = "/build"
GO_CACHE = "/cache/go"
TMP = f"{WORK}/tmp"  # noqa: S108 -- inside a builder


@dataclass(frozen=True)
class OwnArchive:
    """An archive of the user's: of Kubernetes, of runc or of Go, by its file name and sha256.
    `version` is the release it holds; "" is whichever is asked for."""

    component: str
    version: str
    name: str
    sha256: str


@dataclass(frozen=True)
class BuildRequest:
    """What the user asked for. Variant "stock" is the control: the same without nokmem.

    `runc` is a release, one of the pairs of data/kubernetes.toml, or "" for the default pair;
    the sources are of PROVIDERS; `go` is one of GO_WORDS or a version; `runc_tags` stand for
    the mission's own (nokmem is added where it is needed), `kubelet_tags` come beside it.
    """

    kubernetes: str
    variant: str = "nokmem"
    target: str = "el7"
    runc: str = ""
    kubernetes_source: str = "auto"
    runc_source: str = "auto"
    toolchain: str = "auto"
    go: str = "auto"
    kubelet_tags: tuple[str, ...] = ()
    runc_tags: tuple[str, ...] = ("seccomp",)
    own: tuple[OwnArchive, ...] = ()

    def archive(self, component: str, version: str) -> OwnArchive | None:
        """The user's archive of that release, the one given for any version before others."""
        rows = [row for row in self.own if row.component == component]
        return next((r for v in ("", version) for r in rows if r.version == v), None)


@dataclass(frozen=True)
class Choices:
    """What each "auto" of a request may become, the best first."""

    kubernetes_source: tuple[str, ...]
    runc_source: tuple[str, ...]
    compiler: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SourcePlan:
    """Where a component's source comes from: `files` become one tree, or, where there are none,
    the tree of `commit` does, which is what `revision`, a tag of the repository `url`, must be.
    `patches` (name, sha256, subject) are applied in order."""

    provider: str
    revision: str
    url: str
    commit: str
    files: tuple[Mapping[str, Any], ...]
    patches: tuple[Mapping[str, str], ...]
    evidence: str


@dataclass(frozen=True)
class ComponentPlan:
    """How one binary is made: the source is unpacked in `folder`, `files` and `links` (path ->
    target) are laid beside it, and `command` runs there with `environment`. `output` is the path
    of the binary inside the builder, and the first lines of its `--version` are `prints`.
    `go` is the version that compiles. `accounting` says whether kernel-memory accounting must be
    found in it (a control)."""

    name: str
    version: str
    source: SourcePlan
    tags: tuple[str, ...]
    linking: str
    go: str
    folder: str
    files: Mapping[str, str]
    links: Mapping[str, str]
    environment: Mapping[str, str]
    command: tuple[str, ...]
    output: str
    prints: tuple[str, ...]
    accounting: bool


@dataclass(frozen=True)
class GoPlan:
    """A Go that compiles: `archive` (name and sha256) is unpacked to make `root`; where it is
    empty, the toolchain has it there, as `package`."""

    version: str
    root: str
    package: str
    archive: Mapping[str, str]


@dataclass(frozen=True)
class ToolchainPlan:
    """What compiles. `key` is the hash of all that the tree or image is made of; Go archives are
    put beside it. `seed` or `image` is what it is made of, the other is None."""

    key: str
    name: str
    recipe: str
    recipe_sha256: str
    go: tuple[GoPlan, ...]
    seed: Mapping[str, Any] | None
    image: Mapping[str, Any] | None

    @property
    def packages(self) -> tuple[Mapping[str, Any], ...]:
        """The distribution's packages that it is made of, debootstrap first."""
        return (self.seed["debootstrap"], *self.seed["packages"]) if self.seed else ()


@dataclass(frozen=True)
class BuildPlan:
    """Everything that a build will do. `epoch` is SOURCE_DATE_EPOCH, seconds since 1970;
    `request` has no "auto" in it any more."""

    schema: int
    kubernetes: str
    kubernetes_commit: str
    variant: str
    mechanism: str
    epoch: int
    request: BuildRequest
    go_official: str
    target: Target
    toolchain: ToolchainPlan
    components: tuple[ComponentPlan, ...]
    deviations: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder below dist/."""
        suffix = "" if self.variant == "nokmem" else f"-{self.variant}"
        return f"{self.kubernetes}{suffix}"

    def to_json(self) -> str:
        """The plan as sorted JSON, ending in a newline."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"


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
    _refuse_unknown(option, asked, PROVIDERS, "a folder, a file or a URL")
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


def _refuse_unknown(name: str, value: str, known: Iterable[str], more: str = "") -> None:
    if value not in known:
        raise UsageError(
            f"{value!r} is not one of --{name}'s",
            place=f"--{name}",
            next_step=f"use one of: {', '.join(known)}" + (f", or {more}" if more else ""),
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
        component = _packaged_runc(request, facts, release, runc, runc_compiler)
    else:
        component = _upstream_runc(request, facts, release, runc, runc_compiler, known)
    kubelet = _kubelet(request, facts, release, compiler)
    goes = (compiler,) if runc_compiler == compiler else (compiler, runc_compiler)
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
        components=(component, kubelet),
        deviations=_deviations(request, facts, release, runc, (component, kubelet), goes),
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
        raise UsageError(
            f"no sha256 is held of an archive of Go {version}",
            place="--go",
            next_step=f"known are {', '.join(facts.go_archives)}; one of your own is named, with "
            "its sha256, under [archives.go] in nokmem.toml",
        )
    return GoPlan(
        version,
        f"{WORK}/goroot/{version}/go",
        "",
        {"name": archive.name, "sha256": archive.sha256},
    )


def _refuse_go(go: GoPlan, release: Release) -> None:
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


def _packaged(facts: Facts, component: str, version: str) -> DebianSource:
    source = facts.debian_source(component, version)
    if source is None:
        raise UnavailableError(
            f"the distribution does not hold {component} {version}",
            place="provider debian",
            next_step="`matrix` says which source holds what; git holds every release",
        )
    return source


def _source(
    request: BuildRequest,
    facts: Facts,
    component: str,
    release: Release | RuncRelease,
    provider: str,
) -> SourcePlan:
    revision = f"v{release.version.removeprefix('v')}"
    files: tuple[Mapping[str, Any], ...] = ()
    evidence = "the tag must be that commit"
    if provider == "debian":
        source = _packaged(facts, component, release.version)
        revision, evidence = source.revision, source.evidence
        files = tuple(dataclasses.asdict(file) for file in source.files)
    elif provider == "archive":
        own = request.archive(component, release.version)
        if own is None:
            raise UsageError(
                f"no archive of {component} {release.version} is named",
                place="provider archive",
                next_step="give a file or a URL and its sha256, or name both under "
                f"[archives.{component}] in nokmem.toml",
            )
        files, evidence = ({"path": own.name, "sha256": own.sha256},), "the user's word"
    return SourcePlan(
        provider=provider,
        revision=revision,
        url=facts.repositories[component] if provider == "git" else "",
        commit=release.commit,
        files=files,
        patches=tuple(
            {"name": patch.name, "sha256": patch.sha256, "subject": patch.subject}
            for patch in patches_for(facts, component, release.version)
        ),
        evidence=evidence,
    )


def patches_for(facts: Facts, component: str, version: str) -> tuple[Patch, ...]:
    """The patches that a release gets, in order."""
    return tuple(p for p in facts.patches if p.component == component and version in p.serves)


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
    )


def _environment(release: Release, go: GoPlan) -> dict[str, str]:
    return {
        "GOCACHE": f"{GO_CACHE}/build",
        "GOPROXY": "off",
        "HOME": TMP,
        "LC_ALL": "C",  # EL7 has no C.UTF-8
        "PATH": f"{go.root}/bin:/usr/local/bin:/usr/bin:/bin",
        "SOURCE_DATE_EPOCH": str(release.epoch),
        "TMPDIR": TMP,
        "TZ": "UTC",
    }


def _kubelet(request: BuildRequest, facts: Facts, release: Release, go: GoPlan) -> ComponentPlan:
    """kubelet ignores BUILDTAGS, only GOFLAGS carries the tag (runc issue 1725).

    `-tags=` stands last in GOFLAGS: hack/lib/golang.sh cuts the tags out with a sed that takes
    everything up to the next dash, so a flag after it would become part of the tag. It stands
    there in the control too, because without it the same sed passes all of GOFLAGS as tags.
    """
    source = _source(request, facts, "kubernetes", release, request.kubernetes_source)
    if release.mechanism == "backport" and request.variant == "nokmem":
        _refuse_unpatched(facts, release)
    needed = release.mechanism != "not needed" and request.variant == "nokmem"
    extra = tuple(dict.fromkeys(request.kubelet_tags + (("nokmem",) if needed else ())))
    if len(extra) > 1 and numbers(go.version) < GO_COMMA_TAGS:
        raise UsageError(
            f"Go {go.version} takes one tag in GOFLAGS, asked for are {', '.join(extra)}",
            place="--kubelet-tags",
            next_step="leave it out: only Go 1.13 and later take several",
        )
    home = f"{WORK}/kubelet"
    major, minor, _ = release.version.removeprefix("v").split(".")
    version_file = {
        "KUBE_GIT_COMMIT": release.commit,
        "KUBE_GIT_TREE_STATE": "clean",
        "KUBE_GIT_VERSION": release.version,
        "KUBE_GIT_MAJOR": major,
        "KUBE_GIT_MINOR": minor,
    }
    return ComponentPlan(
        name="kubelet",
        version=release.version,
        source=source,
        tags=release.kubelet_tags + extra,
        linking="dynamic",
        go=go.version,
        folder=f"{home}/src",
        files={
            f"{home}/version": "".join(f"{k}='{v}'\n" for k, v in version_file.items()),
        },
        # hack/lib/golang.sh exports a GOCACHE of its own; this makes it the one that is kept.
        links={f"{home}/src/_output/local/go/cache": f"{GO_CACHE}/build"},
        environment={
            **_environment(release, go),
            "GOFLAGS": f"-v -tags={','.join(extra)}",
            "KUBE_GIT_VERSION_FILE": f"{home}/version",
        },
        command=("make", "kubelet"),
        output=f"{home}/src/{KUBELET_OUTPUT}",
        prints=(f"Kubernetes {release.version}",),
        accounting=not needed and release.mechanism != "not needed",
    )


def _refuse_unpatched(facts: Facts, release: Release) -> None:
    patches = patches_for(facts, "kubernetes", release.version)
    if not any(patch.brings == "nokmem" for patch in patches):
        raise UnavailableError(
            f"the libcontainer in {release.version} has no nokmem tag, and no patch brings it",
            place="patches/kubernetes",
            next_step="restore the project's own series, or use v1.14.0 or later",
        )


def _runc_tags(request: BuildRequest, runc: RuncRelease) -> tuple[str, ...]:
    """The mission's BUILDTAGS: seccomp, and nokmem where this release knows it."""
    needed = request.variant == "nokmem" and runc.nokmem == "tag"
    return tuple(dict.fromkeys(request.runc_tags + (("nokmem",) if needed else ())))


def _upstream_runc(
    request: BuildRequest,
    facts: Facts,
    release: Release,
    runc: RuncRelease,
    go: GoPlan,
    toolchain: Toolchain,
) -> ComponentPlan:
    """`make` with BUILDTAGS and COMMIT on its command line, which every release honours; in the
    environment some do not. It lies in a GOPATH, which releases without go.mod need.

    C is compiled without debug information: from rc91 on (-trimpath, -mod=vendor) that names the
    temporary folder in which Go compiled libseccomp's binding, another one each time.
    """
    gopath = f"{WORK}/runc/go"
    folder = f"{gopath}/src/github.com/opencontainers/runc"
    tags = _runc_tags(request, runc)
    target = "static" if toolchain.runc_linking == "static" else "runc"
    return ComponentPlan(
        name="runc",
        version=runc.version,
        source=_source(request, facts, "runc", runc, request.runc_source),
        tags=tags,
        linking=toolchain.runc_linking,
        go=go.version,
        folder=folder,
        files={},
        links={},
        environment={**_environment(release, go), "GOPATH": gopath, "CGO_CFLAGS": "-O2 -g0"},
        command=(
            "make", target,
            f"BUILDTAGS={' '.join(tags)}", f"COMMIT={runc.commit}", "EXTRA_FLAGS=-v",
        ),
        output=f"{folder}/runc",
        prints=(f"runc version {runc.prints}", f"commit: {runc.commit}"),
        accounting=runc.nokmem == "tag" and "nokmem" not in tags,
    )  # fmt: skip


def _packaged_runc(
    request: BuildRequest, facts: Facts, release: Release, runc: RuncRelease, go: GoPlan
) -> ComponentPlan:
    """The distribution's package has no Makefile and no commit: `go build` gets what the
    Makefile's `static` would give it, and the package's version stands for the commit."""
    home = f"{WORK}/runc"
    packaged = _packaged(facts, "runc", runc.version)
    how = packaged.go_build
    if how is None:
        raise FactsError(
            f"nothing says how to compile runc {runc.version} without its Makefile",
            place="builders/model/data/debian",
        )
    tags = _runc_tags(request, runc) + how.static_tags
    stamps = ("-X", f"main.gitCommit={packaged.revision}", "-X", f"main.version={runc.prints}")
    return ComponentPlan(
        name="runc",
        version=runc.version,
        source=_source(request, facts, "runc", runc, "debian"),
        tags=tags,
        linking="static",
        go=go.version,
        folder=f"{home}/src",
        files={},
        links={},
        environment={
            **_environment(release, go),
            "CGO_ENABLED": "1",
            "GO111MODULE": "off",
            "GOPATH": f"{home}/src",
        },
        command=(
            "go", "build", "-v", *how.flags,
            "-tags", " ".join(tags),
            "-ldflags", " ".join(how.static_ldflags + stamps),
            "-o", f"{home}/runc",
            "github.com/opencontainers/runc",
        ),
        output=f"{home}/runc",
        prints=(f"runc version {runc.prints}", f"commit: {packaged.revision}"),
        accounting=runc.nokmem == "tag" and "nokmem" not in tags,
    )  # fmt: skip


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
    if request.runc_tags != ("seccomp",):
        found.append(f"the runc tags {' '.join(request.runc_tags) or 'none'}")
    found += [
        f"your own patch {patch.name}"
        for component, version in (("kubernetes", release.version), ("runc", runc.version))
        for patch in patches_for(facts, component, version)
        if patch.own
    ]
    return found
