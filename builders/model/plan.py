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

from builders.errors import UnavailableError, UsageError
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

#: Where things are inside a builder. Fixed, so that no path of a machine reaches a binary.
WORK = "/build"
GO_CACHE = "/cache/go"
TMP = f"{WORK}/tmp"  # noqa: S108 -- inside a builder


@dataclass(frozen=True)
class BuildRequest:
    """What the user asked for. Variant "stock" is the control: the same without nokmem."""

    kubernetes: str
    variant: str = "nokmem"
    target: str = "el7"


@dataclass(frozen=True)
class SourcePlan:
    """Where a component's source comes from; `files` become one tree."""

    provider: str
    revision: str
    commit: str
    files: tuple[Mapping[str, Any], ...]
    patches: tuple[str, ...]
    evidence: str


@dataclass(frozen=True)
class ComponentPlan:
    """How one binary is made: `command` runs in `folder` with `environment`; `files` and `links`
    (path -> target) are laid beside the source first, `output` is the path of the binary inside
    the builder, and the first lines of its `--version` are `prints`."""

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
    release = facts.release(request.kubernetes)
    runc = facts.runc(release.runc)
    toolchain = _toolchain(facts.toolchain, release, recipe_sha256)
    kubelet_source = _source(facts, "kubernetes", release.version)
    runc_source = _source(facts, "runc", runc.version)
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
            _runc(runc, runc_source, release, toolchain, request.variant),
            _kubelet(release, kubelet_source, toolchain, request.variant),
        ),
        deviations=_deviations(release, runc, facts.toolchain, kubelet_source, runc_source),
    )


def _source(facts: Facts, component: str, version: str) -> DebianSource:
    source = facts.debian_source(component, version)
    if source is None:
        raise UnavailableError(
            f"no known source holds {component} {version}",
            place="provider debian",
            next_step="see `invoke plan` for the releases that can be built",
        )
    return source


def _source_plan(source: DebianSource, commit: str) -> SourcePlan:
    return SourcePlan(
        provider="debian",
        revision=source.revision,
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
    extra = (release.nokmem_tag,) if variant == "nokmem" else ()
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
        output=f"{home}/src/{release.kubelet_output}",
        prints=(f"Kubernetes {release.version}",),
    )


def _runc(
    runc: RuncRelease,
    source: DebianSource,
    release: Release,
    toolchain: ToolchainPlan,
    variant: str,
) -> ComponentPlan:
    """The distribution's package has no Makefile and no commit: `go build` gets what the
    Makefile's `static` would give it, and the package's version stands for the commit."""
    home = f"{WORK}/runc"
    extra = (runc.nokmem_tag,) if variant == "nokmem" else ()
    tags = runc.tags + extra + runc.static_tags
    stamps = ("-X", f"main.gitCommit={source.revision}", "-X", f"main.version={runc.version}")
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
            "go", "build", "-v", *runc.flags,
            "-tags", " ".join(tags),
            "-ldflags", " ".join(runc.static_ldflags + stamps),
            "-o", f"{home}/runc",
            "github.com/opencontainers/runc",
        ),
        output=f"{home}/runc",
        prints=(f"runc version {runc.version}", f"commit: {source.revision}"),
    )  # fmt: skip


def _deviations(
    release: Release,
    runc: RuncRelease,
    toolchain: Toolchain,
    kubelet_source: DebianSource,
    runc_source: DebianSource,
) -> tuple[str, ...]:
    """What is not as upstream's own build of this release would have it."""
    found = []
    if toolchain.go != release.go:
        found.append(
            f"Go {toolchain.go} ({toolchain.go_package}) compiles; "
            f"the official build of {release.version} used Go {release.go}"
        )
    found.append(
        f"runc {runc.version} is built from Debian's package revision {runc_source.revision}, "
        f"which carries Debian's patches, not from commit {runc.commit}"
    )
    if f"v{runc.version}" != release.vendored_runc:
        found.append(
            f"kubelet {release.version} vendors runc {release.vendored_runc}; "
            f"the runc beside it is {runc.version}"
        )
    if kubelet_source.unapplied:
        found.append(f"not applied to Kubernetes: {kubelet_source.unapplied}")
    return tuple(found)
