"""Request in, plan out: every file, hash, commit, flag and time of a build, decided before it runs.

`resolve` is pure: the same request and facts give the same plan on any machine, in any folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builders.errors import FactsError, UnavailableError, UsageError
from builders.model.releases import (
    DebianSource,
    Facts,
    Release,
    RuncRelease,
    Target,
    Toolchain,
)

PLAN_SCHEMA = 1
#: Version of the seed that steps/toolchain.py writes, and the id that compiles in it: both
#: change a tree, so both are in its key.
SEED = 1
BUILDER_ID = 61000
VARIANTS = ("nokmem", "stock")
#: Where a source may come from: the distribution, upstream's repository or a mirror of it, a
#: repository in a folder. "auto" is the distribution where it has that version, else git.
PROVIDERS = ("auto", "debian", "git", "dir")

#: Where upstream's `make kubelet` leaves it, at every release.
KUBELET_OUTPUT = "_output/local/bin/linux/amd64/kubelet"
#: Where things are inside a builder. Fixed, so that no path of a machine reaches a binary.
WORK = "/build"
GO_CACHE = "/cache/go"
TMP = f"{WORK}/tmp"  # noqa: S108 -- inside a builder


@dataclass(frozen=True)
class BuildRequest:
    """What the user asked for. Variant "stock" is the control: the same without nokmem.

    `runc` is a release, or "" for the one that goes with the Kubernetes release; `runc_source`
    one of PROVIDERS.
    """

    kubernetes: str
    variant: str = "nokmem"
    target: str = "el7"
    runc: str = ""
    runc_source: str = "auto"


@dataclass(frozen=True)
class SourcePlan:
    """Where a component's source comes from: `files` become one tree, or, where there are none,
    the tree of `commit` does, which is what `revision`, a tag of the repository `url`, must be."""

    provider: str
    revision: str
    url: str
    commit: str
    files: tuple[Mapping[str, Any], ...]
    patches: tuple[str, ...]
    evidence: str


@dataclass(frozen=True)
class ComponentPlan:
    """How one binary is made: the source is unpacked in `folder`, `files` and `links` (path ->
    target) are laid beside it, and `command` runs there with `environment`. `output` is the path
    of the binary inside the builder, and the first lines of its `--version` are `prints`.
    `accounting` says whether kernel-memory accounting must be found in it (a control)."""

    name: str
    version: str
    source: SourcePlan
    tags: tuple[str, ...]
    linking: str
    folder: str
    files: Mapping[str, str]
    links: Mapping[str, str]
    environment: Mapping[str, str]
    command: tuple[str, ...]
    output: str
    prints: tuple[str, ...]
    accounting: bool


@dataclass(frozen=True)
class ToolchainPlan:
    """The tree that compiles. `key` is the hash of all that it is made of."""

    key: str
    name: str
    go: str
    go_official: str
    go_root: str
    suites: tuple[str, ...]
    script: str
    recipe_sha256: str
    debootstrap: Mapping[str, Any]
    required: tuple[str, ...]
    packages: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class BuildPlan:
    """Everything that a build will do. `epoch` is SOURCE_DATE_EPOCH, seconds since 1970."""

    schema: int
    kubernetes: str
    kubernetes_commit: str
    variant: str
    mechanism: str
    epoch: int
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


def resolve(request: BuildRequest, facts: Facts, *, recipe_sha256: str) -> BuildPlan:
    """Decide a whole build. `recipe_sha256` is the hash of the toolchain's recipe files.

    Raises UsageError, UnknownReleaseError, or UnavailableError where no source is known.
    """
    if request.variant not in VARIANTS:
        raise UsageError(
            f"{request.variant!r} is not a variant",
            place="--variant",
            next_step=f"use one of: {', '.join(VARIANTS)}",
        )
    if request.target not in facts.targets:
        raise UsageError(
            f"{request.target!r} is not a target",
            place="--target",
            next_step=f"use one of: {', '.join(sorted(facts.targets))}",
        )
    if request.runc_source not in PROVIDERS:
        raise UsageError(
            f"{request.runc_source!r} is not a source",
            place="--runc-source",
            next_step=f"use one of: {', '.join(PROVIDERS)}",
        )
    release = facts.release(request.kubernetes)
    _refuse_unpatched(release)
    runc = facts.runc(request.runc or release.runc)
    _refuse_unusable(runc, facts.toolchain)
    toolchain = _toolchain(facts.toolchain, release, recipe_sha256)
    kubelet_source = _packaged(facts, "kubernetes", release.version)
    packaged = facts.debian_source("runc", runc.version)
    provider = request.runc_source
    if provider == "auto":
        provider = "debian" if packaged else "git"
    if provider == "debian":
        packaged = _packaged(facts, "runc", runc.version)
        component = _packaged_runc(runc, packaged, release, toolchain, request.variant)
    else:
        packaged = None
        component = _upstream_runc(
            runc, provider, facts.runc_repository, release, toolchain, request.variant
        )
    return BuildPlan(
        schema=PLAN_SCHEMA,
        kubernetes=release.version,
        kubernetes_commit=release.commit,
        variant=request.variant,
        mechanism=release.mechanism if request.variant == "nokmem" else "none",
        epoch=release.epoch,
        target=facts.targets[request.target],
        toolchain=toolchain,
        components=(
            component,
            _kubelet(release, kubelet_source, toolchain, request.variant),
        ),
        deviations=_deviations(release, runc, facts.toolchain, kubelet_source, packaged),
    )


def _refuse_unpatched(release: Release) -> None:
    if release.mechanism == "backport":
        raise UnavailableError(
            f"the libcontainer in {release.version} has no nokmem tag, and no patch brings it yet",
            place="patches/",
            next_step="use v1.14.0 or later",
        )


def _refuse_unusable(runc: RuncRelease, toolchain: Toolchain) -> None:
    if runc.nokmem == "absent":
        raise UsageError(
            f"runc {runc.version} has no nokmem tag: it would account kernel memory",
            place="--runc",
            next_step="use 1.0.0-rc6 or later",
        )
    if runc.go and _numbers(runc.go)[:2] > _numbers(toolchain.go)[:2]:
        raise UsageError(
            f"runc {runc.version} is written for Go {runc.go}, the toolchain has {toolchain.go}",
            place="--runc",
            next_step="use a release up to 1.0.3",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _packaged(facts: Facts, component: str, version: str) -> DebianSource:
    source = facts.debian_source(component, version)
    if source is None:
        raise UnavailableError(
            f"the distribution does not hold {component} {version}",
            place="provider debian",
            next_step="`matrix` says which source holds what; runc also comes from git "
            "(--runc-source git)",
        )
    return source


def _source_plan(source: DebianSource, commit: str) -> SourcePlan:
    return SourcePlan(
        provider="debian",
        revision=source.revision,
        url="",
        commit=commit,
        files=tuple(dataclasses.asdict(file) for file in source.files),
        patches=(),
        evidence=source.evidence,
    )


def _toolchain(toolchain: Toolchain, release: Release, recipe_sha256: str) -> ToolchainPlan:
    content = {
        "seed": SEED,
        "builder": BUILDER_ID,
        "recipe": recipe_sha256,
        "script": toolchain.script,
        "debootstrap": toolchain.debootstrap.sha256,
        "required": toolchain.required,
        "packages": [file.sha256 for file in toolchain.packages],
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return ToolchainPlan(
        key=key,
        name=toolchain.name,
        go=toolchain.go,
        go_official=release.go,
        go_root=toolchain.go_root,
        suites=toolchain.suites,
        script=toolchain.script,
        recipe_sha256=recipe_sha256,
        debootstrap=dataclasses.asdict(toolchain.debootstrap),
        required=toolchain.required,
        packages=tuple(dataclasses.asdict(file) for file in toolchain.packages),
    )


def _environment(release: Release, toolchain: ToolchainPlan) -> dict[str, str]:
    return {
        "GOCACHE": f"{GO_CACHE}/build",
        "GOPROXY": "off",
        "HOME": TMP,
        "LC_ALL": "C.UTF-8",
        "PATH": f"{toolchain.go_root}/bin:/usr/local/bin:/usr/bin:/bin",
        "SOURCE_DATE_EPOCH": str(release.epoch),
        "TMPDIR": TMP,
        "TZ": "UTC",
    }


def _kubelet(
    release: Release, source: DebianSource, toolchain: ToolchainPlan, variant: str
) -> ComponentPlan:
    """kubelet ignores BUILDTAGS, only GOFLAGS carries the tag (runc issue 1725).

    `-tags=` stands last in GOFLAGS: hack/lib/golang.sh cuts the tags out with a sed that takes
    everything up to the next dash, so a flag after it would become part of the tag. It stands
    there in the control too, because without it the same sed passes all of GOFLAGS as tags.
    """
    home = f"{WORK}/kubelet"
    extra = ("nokmem",) if variant == "nokmem" and release.mechanism == "tag" else ()
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
        source=_source_plan(source, release.commit),
        tags=release.kubelet_tags + extra,
        linking="dynamic",
        folder=f"{home}/src",
        files={
            f"{home}/version": "".join(f"{k}='{v}'\n" for k, v in version_file.items()),
        },
        # hack/lib/golang.sh exports a GOCACHE of its own; this makes it the one that is kept.
        links={f"{home}/src/_output/local/go/cache": f"{GO_CACHE}/build"},
        environment={
            **_environment(release, toolchain),
            "GOFLAGS": f"-v -tags={','.join(extra)}",
            "KUBE_GIT_VERSION_FILE": f"{home}/version",
        },
        command=("make", "kubelet"),
        output=f"{home}/src/{KUBELET_OUTPUT}",
        prints=(f"Kubernetes {release.version}",),
        accounting=variant == "stock" and release.mechanism != "not needed",
    )


def _runc_tags(runc: RuncRelease, variant: str) -> tuple[str, ...]:
    """The mission's BUILDTAGS: seccomp, and nokmem where this release knows it."""
    return ("seccomp", "nokmem") if variant == "nokmem" and runc.nokmem == "tag" else ("seccomp",)


def _upstream_runc(
    runc: RuncRelease,
    provider: str,
    url: str,
    release: Release,
    toolchain: ToolchainPlan,
    variant: str,
) -> ComponentPlan:
    """`make static` with BUILDTAGS and COMMIT on its command line, which every release honours;
    in the environment some do not. It lies in a GOPATH, which releases without go.mod need."""
    gopath = f"{WORK}/runc/go"
    folder = f"{gopath}/src/github.com/opencontainers/runc"
    tags = _runc_tags(runc, variant)
    return ComponentPlan(
        name="runc",
        version=runc.version,
        source=SourcePlan(
            provider=provider,
            revision=f"v{runc.version}",
            url=url,
            commit=runc.commit,
            files=(),
            patches=(),
            evidence="the tag must be that commit",
        ),
        tags=tags,
        linking="static",
        folder=folder,
        files={},
        links={},
        environment={**_environment(release, toolchain), "GOPATH": gopath},
        command=(
            "make", "static",
            f"BUILDTAGS={' '.join(tags)}", f"COMMIT={runc.commit}", "EXTRA_FLAGS=-v",
        ),
        output=f"{folder}/runc",
        prints=(f"runc version {runc.prints}", f"commit: {runc.commit}"),
        accounting=variant == "stock" and runc.nokmem == "tag",
    )  # fmt: skip


def _packaged_runc(
    runc: RuncRelease,
    source: DebianSource,
    release: Release,
    toolchain: ToolchainPlan,
    variant: str,
) -> ComponentPlan:
    """The distribution's package has no Makefile and no commit: `go build` gets what the
    Makefile's `static` would give it, and the package's version stands for the commit."""
    home = f"{WORK}/runc"
    how = source.go_build
    if how is None:
        raise FactsError(
            f"nothing says how to compile runc {runc.version} without its Makefile",
            place="builders/model/data/debian",
        )
    tags = _runc_tags(runc, variant) + how.static_tags
    stamps = ("-X", f"main.gitCommit={source.revision}", "-X", f"main.version={runc.prints}")
    return ComponentPlan(
        name="runc",
        version=runc.version,
        source=_source_plan(source, runc.commit),
        tags=tags,
        linking="static",
        folder=f"{home}/src",
        files={},
        links={},
        environment={
            **_environment(release, toolchain),
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
        prints=(f"runc version {runc.prints}", f"commit: {source.revision}"),
        accounting=variant == "stock" and runc.nokmem == "tag",
    )  # fmt: skip


def _deviations(
    release: Release,
    runc: RuncRelease,
    toolchain: Toolchain,
    kubelet_source: DebianSource,
    runc_package: DebianSource | None,
) -> tuple[str, ...]:
    """What is not as upstream's own build of this release would have it, and what is known to
    be wrong with what is built."""
    found = []
    if toolchain.go != release.go:
        found.append(
            f"Go {toolchain.go} ({toolchain.go_package}) compiles; "
            f"the official build of {release.version} used Go {release.go}"
        )
    if runc_package is not None:
        found.append(
            f"runc {runc.version} is built from Debian's package revision {runc_package.revision}, "
            f"which carries Debian's patches, not from commit {runc.commit}"
        )
    if runc.version != release.runc:
        found.append(f"unproven combination: {release.version} with runc {runc.version}")
    if f"v{runc.version}" != release.vendored_runc:
        found.append(
            f"kubelet {release.version} vendors runc {release.vendored_runc}; "
            f"the runc beside it is {runc.version}"
        )
    lost = [tag for tag in runc.default_tags if tag != "seccomp"]
    if lost:
        found.append(f"runc {runc.version} is built without its default tags {', '.join(lost)}")
    mended = runc_package.fixes if runc_package is not None else ()
    open_cves = [cve for cve in runc.cves if cve not in mended]
    if open_cves:
        found.append(f"runc {runc.version} is open to {', '.join(open_cves)}")
    if kubelet_source.unapplied:
        found.append(f"not applied to Kubernetes: {kubelet_source.unapplied}")
    return tuple(found)
