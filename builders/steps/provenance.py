"""Plan and results -> statements of where they come from: in-toto's, with SLSA's predicate.

Nothing of the run is in them, no clock, no host, no builder: the same plan gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from builders.model.artifact import (
    PACKAGES_PROVENANCE,
    PLAN,
    PROVENANCE,
    REPORT,
    SBOM,
    SCRIPT,
    Binary,
    Check,
    Manifest,
)
from builders.model.components import module_of
from builders.model.plan import BuildPlan, ComponentPlan, ToolchainPlan
from builders.model.reading import differences
from builders.tools import bom
from builders.tools.cache import sha256_of

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
#: What these mean is said in docs/reference.md.
BUILD, PACKAGE, BUILDER = "urn:nokmem:build:1", "urn:nokmem:package:1", "urn:nokmem:builder:1"

#: A thing by name and digest.
Resource = dict[str, Any]


def make(plan: BuildPlan, binaries: Iterable[Binary], folder: Path, nokmem: str) -> str:
    """The statement about what nodes get of a folder that has all but this: the binaries and the
    script; `nokmem` is the version of the tool that built them."""
    return _statement(
        [
            *(_resource(binary.name, binary.sha256) for binary in binaries),
            _resource(SCRIPT, sha256_of(folder / SCRIPT)),
        ],
        BUILD,
        asdict(plan.request),
        {"epoch": plan.epoch, "toolchain": described(plan.toolchain)},
        [
            *(row for component in plan.components for row in _sources(component)),
            *_compilers(plan.toolchain),
        ],
        nokmem,
        [_resource(name, sha256_of(folder / name)) for name in (PLAN, REPORT, SBOM)],
    )


def make_packages(manifest: Manifest, toolchain: Mapping[str, Any], nokmem: str) -> str:
    """The statement about the packages that a manifest names; `toolchain` is what `described`
    says of the one that made them, `nokmem` the version of the tool."""
    data = manifest.data
    rows = data["packages"]
    parts = {row["name"]: row["sha256"] for row in data["binaries"]}
    parts |= {name: data["files"][name]["sha256"] for name in (PLAN, SCRIPT)}
    return _statement(
        [_resource(row["file"], row["sha256"]) for row in rows],
        PACKAGE,
        {
            "packages": [
                {name: row[name] for name in ("name", "version", "release")} for row in rows
            ],
            "signed_by": sorted({row["signed_by"] for row in rows}),
        },
        {"epoch": data["epoch"], "toolchain": dict(toolchain)},
        [_resource(name, sha256) for name, sha256 in parts.items()],
        nokmem,
        [],
    )


def _statement(
    subjects: list[Resource],
    kind: str,
    asked: Mapping[str, Any],
    decided: Mapping[str, Any],
    dependencies: list[Resource],
    nokmem: str,
    byproducts: list[Resource],
) -> str:
    """Sorted JSON; `asked` are what SLSA calls external parameters, `decided` the internal ones."""
    value = {
        "_type": STATEMENT,
        "subject": _sorted(subjects),
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": kind,
                "externalParameters": asked,
                "internalParameters": decided,
                "resolvedDependencies": _sorted(dependencies),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"nokmem": nokmem}},
                "byproducts": _sorted(byproducts),
            },
        },
    }
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _sorted(rows: Iterable[Resource]) -> list[Resource]:
    return sorted(rows, key=lambda row: (row["name"], json.dumps(row, sort_keys=True)))


def _resource(name: str, sha256: str, uri: str = "", **annotations: str) -> Resource:
    """A resource descriptor of in-toto's; what is not known is left out."""
    row = {
        "name": name,
        "uri": uri,
        "digest": {"sha256": sha256} if sha256 else {},
        "annotations": annotations,
    }
    return {key: value for key, value in row.items() if value}


def _sources(component: ComponentPlan) -> Iterator[Resource]:
    """The files or the commit that a component's source is, and the patches on it."""
    source, (name, _) = component.source, module_of(component)
    commit = {"name": name, "digest": {"gitCommit": source.commit}}
    if source.provider in ("git", "dir"):
        uri = {"uri": f"git+{source.url}@refs/tags/{source.revision}"} if source.url else {}
        yield {**commit, **uri}
    for row in source.files:
        file = row["path"].rpartition("/")[2]
        if source.provider == "archive":
            yield _resource(
                file, row["sha256"], holds=f"{name} {source.revision}, by the user's word"
            )
            continue
        yield _resource(file, row["sha256"], bom.debian(row))
        if row["architecture"] == "source":
            yield {**commit, "annotations": {"named": f"in the header of {file}"}}
    for patch in source.patches:
        yield _resource(patch["name"], patch["sha256"], patches=name)


def _compilers(toolchain: ToolchainPlan) -> Iterator[Resource]:
    """Go's archives, and what the toolchain is made of."""
    for go in toolchain.go:
        if go.archive:
            uri = bom.purl("generic", "go", go.version)
            yield _resource(go.archive["name"], go.archive["sha256"], uri)
    for row in toolchain.packages:
        yield _resource(row["path"].rpartition("/")[2], row["sha256"], bom.debian(row))
    if toolchain.image is not None:
        name, digest = toolchain.image["name"], toolchain.image["digest"]
        yield _resource(name, digest.partition(":")[2], bom.purl("docker", name, digest))
        for package in toolchain.image["packages"]:
            name, version, release = package.rsplit("-", 2)
            uri = bom.purl("rpm", f"centos/{name}", f"{version}-{release}", arch="x86_64")
            yield _resource(package, "", uri)


def described(toolchain: ToolchainPlan) -> dict[str, str]:
    """What a statement says of a toolchain beside what it is made of."""
    return {
        "name": toolchain.name,
        "key": toolchain.key,
        "recipe": toolchain.recipe,
        "recipe_sha256": toolchain.recipe_sha256,
    }


def check_sources(plan: BuildPlan, facts: BuildPlan) -> Check:
    """Whether a plan that somebody gave is of the commits, Go and patches that the project's own
    facts have for that release; after its patches may come others."""
    wrong = list(differences(_facts(plan), _facts(facts)))
    for component, known in zip(plan.components, facts.components, strict=False):
        series = known.source.patches
        if component.source.patches[: len(series)] != series:
            wrong.append(f"the patches of {component.name}")
    found = f"as the facts have them: Kubernetes of commit {plan.kubernetes_commit[:12]}"
    return Check(
        PLAN,
        "sources",
        not wrong,
        f"not as the facts have them: {', '.join(wrong)}" if wrong else found,
        "build this version again, with this version of nokmem",
    )


def _facts(plan: BuildPlan) -> dict[str, Any]:
    return {
        "kubernetes": plan.kubernetes,
        "commit": plan.kubernetes_commit,
        "epoch": plan.epoch,
        **{c.name: {"version": c.version, "commit": c.source.commit} for c in plan.components},
    }


def check(plan: BuildPlan, binaries: Iterable[Binary], folder: Path, nokmem: str) -> Check:
    """Whether a dist folder's statement is the one of this plan and of what stands beside it."""
    ours = make(plan, binaries, folder, nokmem)
    dependencies = json.loads(ours)["predicate"]["buildDefinition"]["resolvedDependencies"]
    return _compared(
        PROVENANCE, folder, ours, f"{len(dependencies)} materials, as the plan has them"
    )


def check_packages(manifest: Manifest, folder: Path) -> Check:
    """Whether the statement about packages is of those that stand there, and of these binaries; of
    what made them there is no more than its word."""
    path = folder / PACKAGES_PROVENANCE
    try:
        said = json.loads(path.read_text(encoding="utf-8"))["predicate"]
        toolchain = said["buildDefinition"]["internalParameters"]["toolchain"]
        nokmem = said["runDetails"]["builder"]["version"]["nokmem"]
        toolchain = {name: str(value) for name, value in toolchain.items()}
        ours = make_packages(manifest, toolchain, str(nokmem))
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        found = f"cannot be read: {type(error).__name__} {error}"
        return Check(PACKAGES_PROVENANCE, "content", False, found, "package it again")
    count = len(manifest.data["packages"])
    return _compared(PACKAGES_PROVENANCE, folder, ours, f"{count} packages of these binaries")


def _compared(name: str, folder: Path, ours: str, found: str) -> Check:
    there = (folder / name).read_text(encoding="utf-8", errors="replace")
    if there != ours:
        try:
            others = list(differences(json.loads(there), json.loads(ours)))
        except (ValueError, RecursionError):
            others = ["it is no JSON"]
        found = f"not what it is made of: {', '.join(others[:3]) or 'the way it is written'}"
    return Check(name, "content", there == ours, found, "build this version again")
