"""What was asked for and what was decided: values, and nothing else.

`resolve` (in resolve.py) makes a BuildPlan of a BuildRequest.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builders.model.reading import shaped
from builders.model.toolchains import Target

PLAN_SCHEMA = 3
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

#: Where things are inside a builder. Fixed, so that no path of a machine reaches a binary.
WORK = "/build"
GO_CACHE = "/cache/go"
GENERATED = f"{GO_CACHE}/generated"
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
    the mission's own (nokmem is added where it is needed), `kubelet_tags` come beside it;
    with `stamp` kubelet's `--version` shows the id of its build.
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
    stamp: bool = False

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
    target) are laid beside it, then come the patches, then `command` runs there with `environment`.
    `generate`, where it is not empty, may run before the patches, if they touch nothing in the
    folders that `reads` prints; what it leaves is kept as the file `generated`, which no other
    source, Go or environment has. `output` is the path of the binary inside the
    builder, and the first lines of its `--version` are `prints`.
    `go` is the version that compiles. `accounting` says whether kernel-memory accounting must be
    found in it (a control); `build` is the id by which a kubelet tells others from itself."""

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
    reads: tuple[str, ...]
    generate: tuple[str, ...]
    generated: str
    command: tuple[str, ...]
    output: str
    prints: tuple[str, ...]
    accounting: bool
    build: str = ""


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
    put beside it. `seed` or `image` is what it is made of, the other is None. `static` are the
    packages whose code a static binary has, each with the Go package that calls it."""

    key: str
    name: str
    recipe: str
    recipe_sha256: str
    go: tuple[GoPlan, ...]
    seed: Mapping[str, Any] | None
    image: Mapping[str, Any] | None
    static: Mapping[str, str]

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

    @classmethod
    def from_json(cls, text: str) -> BuildPlan:
        """What `to_json` has written; ValueError where that is something else."""
        plan: BuildPlan = shaped(cls, json.loads(text))
        if plan.schema != PLAN_SCHEMA:
            raise ValueError(f"plan schema {plan.schema} is not {PLAN_SCHEMA}")
        return plan
