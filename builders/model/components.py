"""How each binary is made: the one file that knows the build entries of kubelet and runc."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from builders.errors import FactsError, UnavailableError, UsageError
from builders.model.plan import (
    GENERATED,
    GO_CACHE,
    TMP,
    WORK,
    BuildRequest,
    ComponentPlan,
    GoPlan,
    SourcePlan,
)
from builders.model.releases import Facts, Release, RuncRelease
from builders.model.series import ADOPTION, Patch
from builders.model.toolchains import DebianSource, Toolchain, numbers

#: A comma between two tags, the one form that GOFLAGS can carry, is understood from here on.
GO_COMMA_TAGS = (1, 13)
#: Until it, Go itself took what is as old as its source for compiled from it.
GO_BY_CONTENT = (1, 10)
#: Prints the folders of all packages that upstream's generators read: those that hold a mark for
#: them, the generators' own, and what either imports. Staging is known by its name in vendor.
READS = r"""
set -o pipefail
{
    grep -rl --include='*.go' '^// *+k8s:' cmd pkg plugin staging test
    ls -d hack/make-rules/helpers/*/ vendor/k8s.io/*/cmd/*/ vendor/github.com/*/go-bindata/*/ || :
} 2>/dev/null | sed 's|/[^/]*$||; s|^staging/src/|vendor/|; s|^|./|' | sort -u |
xargs bash hack/run-in-gopath.sh go list -e -f '{{.ImportPath}}{{range .Deps}}
{{.}}{{end}}' | sed -n 's|^k8s.io/kubernetes/||p' | sort -u
"""
#: Where upstream's `make kubelet` leaves it, at every release.
KUBELET_OUTPUT = "_output/local/bin/linux/amd64/kubelet"
#: Where a kubelet that adopts containers reads its own id.
STAMP_FILE = "pkg/kubelet/adoption/stamp.go"
#: The import path of each component's own source.
IMPORT_PATHS = {"kubelet": "k8s.io/kubernetes", "runc": "github.com/opencontainers/runc"}
STAMP = 'package adoption\n\nfunc init() {{ Build = "{}" }}\n'


def module_of(component: ComponentPlan) -> tuple[str, str]:
    """Import path and version of a component's source, as Go has them: v1.0.0-rc93."""
    return IMPORT_PATHS[component.name], f"v{component.version.removeprefix('v')}"


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
            for patch in patches_for(facts, component, release.version, request.variant)
        ),
        evidence=evidence,
    )


def patches_for(
    facts: Facts, component: str, version: str, variant: str = "nokmem"
) -> tuple[Patch, ...]:
    """The patches that a release gets, in order; a control gets the user's alone."""
    return tuple(
        patch
        for patch in facts.patches
        if patch.component == component
        and version in patch.serves
        and (patch.own or variant == "nokmem")
    )


def _build_id(patches: tuple[Patch, ...], version: str) -> str:
    """v1.17.17+nokmem.1: what a kubelet that adopts containers knows another one by; with patches
    of the user's, the beginning of their hash. "" for a kubelet that does not adopt."""
    adoption = next((patch for patch in patches if patch.brings == ADOPTION), None)
    if adoption is None:
        return ""
    own = (patch.sha256 for patch in patches if patch.own)
    return _with_own(f"{version}+nokmem.{adoption.revision}", own)


def _with_own(build: str, own: Iterable[str]) -> str:
    """The id of a build that has patches of the user's, too, by their hashes."""
    text = "".join(own)
    return f"{build}.{hashlib.sha256(text.encode()).hexdigest()[:8]}" if text else build


def followed(known: ComponentPlan, source: SourcePlan) -> ComponentPlan:
    """A component as the facts have it, by the id that it has where the patches of such a source
    follow its own."""
    if not known.build:
        return known
    own = source.patches[len(known.source.patches) :]
    build = _with_own(known.build, (patch.get("sha256", "") for patch in own))
    prints = tuple(line.replace(known.build, build) for line in known.prints)
    return dataclasses.replace(known, build=build, prints=prints)


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


def kubelet(request: BuildRequest, facts: Facts, release: Release, go: GoPlan) -> ComponentPlan:
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
    patches = patches_for(facts, "kubernetes", release.version, request.variant)
    build = _build_id(patches, release.version)
    if request.stamp and not build:
        raise UsageError(
            f"a {request.variant} kubelet {release.version} has no id of its own to show",
            place="--stamp",
            next_step="leave it out",
        )
    stamped = build if request.stamp else release.version
    home = f"{WORK}/kubelet"
    major, minor, _ = release.version.removeprefix("v").split(".")
    version_file = {
        "KUBE_GIT_COMMIT": release.commit,
        "KUBE_GIT_TREE_STATE": "clean",
        "KUBE_GIT_VERSION": stamped,
        "KUBE_GIT_MAJOR": major,
        "KUBE_GIT_MINOR": minor,
    }
    files = {f"{home}/version": "".join(f"{k}='{v}'\n" for k, v in version_file.items())}
    environment = {
        **_environment(release, go),
        "GOFLAGS": f"-v -tags={','.join(extra)}",
        "KUBE_GIT_VERSION_FILE": f"{home}/version",
    }
    generates = numbers(go.version) >= GO_BY_CONTENT
    return ComponentPlan(
        name="kubelet",
        version=release.version,
        source=source,
        tags=release.kubelet_tags + extra,
        linking="dynamic",
        go=go.version,
        folder=f"{home}/src",
        files={
            **files,
            **({f"{home}/src/{STAMP_FILE}": STAMP.format(build)} if build else {}),
        },
        # hack/lib/golang.sh exports a GOCACHE of its own; this makes it the one that is kept.
        links={f"{home}/src/_output/local/go/cache": f"{GO_CACHE}/build"},
        environment=environment,
        reads=("bash", "-c", READS) if generates else (),
        generate=("make", "generated_files") if generates else (),
        generated=_generated(source, go, files, environment) if generates else "",
        command=("make", "kubelet"),
        output=f"{home}/src/{KUBELET_OUTPUT}",
        prints=(f"Kubernetes {stamped}",),
        accounting=not needed and release.mechanism != "not needed",
        build=build,
    )


def _generated(source: SourcePlan, go: GoPlan, *more: Mapping[str, str]) -> str:
    """A place of its own for whatever decides what is generated; patches come after it."""
    unpatched = dataclasses.replace(source, patches=())
    parts = [dataclasses.asdict(unpatched), dataclasses.asdict(go), *more]
    text = json.dumps(parts, sort_keys=True)
    return f"{GENERATED}/{hashlib.sha256(text.encode()).hexdigest()}.tar.gz"


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


def upstream_runc(
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

    Where `make static` would leave the systemd cgroup driver out, `make runc` gets all that it
    gives the compiler but the tag static_build.
    """
    gopath = f"{WORK}/runc/go"
    folder = f"{gopath}/src/github.com/opencontainers/runc"
    tags = _runc_tags(request, runc)
    target = "static" if toolchain.runc_linking == "static" else "runc"
    flags: tuple[str, ...] = ("EXTRA_FLAGS=-v",)
    if target == "static" and runc.static_lacks_systemd:
        target, tags = "runc", (*tags, "netgo", "osusergo")
        flags = (
            "EXTRA_FLAGS=-v -buildmode=exe -installsuffix netgo",
            "EXTRA_LDFLAGS=-w -extldflags -static",
        )
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
        reads=(),
        generate=(),
        generated="",
        command=(
            "make", target,
            f"BUILDTAGS={' '.join(tags)}", f"COMMIT={runc.commit}", *flags,
        ),
        output=f"{folder}/runc",
        prints=(f"runc version {runc.prints}", f"commit: {runc.commit}"),
        accounting=runc.nokmem == "tag" and "nokmem" not in tags,
    )  # fmt: skip


def packaged_runc(
    request: BuildRequest,
    facts: Facts,
    release: Release,
    runc: RuncRelease,
    go: GoPlan,
    toolchain: Toolchain,
) -> ComponentPlan:
    """The distribution's package has no Makefile and no commit: `go build` gets what the
    Makefile's `static`, or its `runc`, would give it, and the package's version stands for the
    commit."""
    home = f"{WORK}/runc"
    packaged = _packaged(facts, "runc", runc.version)
    how = packaged.go_build
    if how is None:
        raise FactsError(
            f"nothing says how to compile runc {runc.version} without its Makefile",
            place="builders/model/data/debian",
            next_step="take upstream's: --runc-source git",
        )
    static = toolchain.runc_linking == "static"
    tags = _runc_tags(request, runc) + (how.static_tags if static else ())
    stamps = ("-X", f"main.gitCommit={packaged.revision}", "-X", f"main.version={runc.prints}")
    return ComponentPlan(
        name="runc",
        version=runc.version,
        source=_source(request, facts, "runc", runc, "debian"),
        tags=tags,
        linking=toolchain.runc_linking,
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
        reads=(),
        generate=(),
        generated="",
        command=(
            "go", "build", "-v", *how.flags,
            "-tags", " ".join(tags),
            "-ldflags", " ".join((*(how.static_ldflags if static else ()), *stamps)),
            "-o", f"{home}/runc",
            "github.com/opencontainers/runc",
        ),
        output=f"{home}/runc",
        prints=(f"runc version {runc.prints}", f"commit: {packaged.revision}"),
        accounting=runc.nokmem == "tag" and "nokmem" not in tags,
    )  # fmt: skip
