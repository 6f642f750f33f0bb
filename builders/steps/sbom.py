"""Plan, binaries and modules -> the bill of materials of a dist folder, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from builders.errors import ProofError
from builders.model.artifact import SBOM, Binary, Check
from builders.model.components import module_of
from builders.model.modules import Module, attributed
from builders.model.plan import BuildPlan, ComponentPlan, GoPlan
from builders.tools import bom
from builders.tools.bom import Part

#: Of Kubernetes and of runc, and so of what is compiled of them: LICENSE at every tag.
LICENCE = "Apache-2.0"
#: What a module's part says beside what CycloneDX has a place for.
PATH, KNOWN_BY, COMMIT = "nokmem:import-path", "nokmem:known-by", "nokmem:commit"


def make(plan: BuildPlan, binaries: Iterable[Binary], nokmem: str) -> str:
    """The bill as CycloneDX JSON; `nokmem` is the version of the tool that makes it.

    Of a binary it has all modules that the source vendors: in the scope "required" those whose code
    is in the binary, in "excluded" the others.
    """
    found = {binary.name: binary for binary in binaries}
    parts: list[Part] = []
    for component in plan.components:
        parts += _binary(plan, component, found[component.name])
    for go in plan.toolchain.go:
        parts += _go(plan, go)
    subject = Part(
        "dist",
        "application",
        "kubernetes-nokmem",
        plan.kubernetes,
        about=f"kubelet and runc for {plan.target.name}, variant {plan.variant}",
        needs=tuple(component.name for component in plan.components),
    )
    return bom.written(subject, parts, plan.epoch, ("nokmem", nokmem))


def _binary(plan: BuildPlan, component: ComponentPlan, binary: Binary) -> Iterator[Part]:
    """A binary, its source, the patches on it, the modules that it vendors, and of a static one the
    C libraries that are in it."""
    name = component.name
    linked, _ = attributed(binary.packages, binary.modules, module_of(component)[0])
    modules = [_module(name, module, module.path in linked) for module in binary.modules]
    patches = [
        Part(
            f"{name}:patch:{patch['name']}",
            "file",
            patch["name"],
            sha256=patch["sha256"],
            about=patch["subject"],
        )
        for patch in component.source.patches
    ]
    static = plan.toolchain.static if component.linking == "static" else {}
    libraries = [
        _package(f"{name}:{row['package']}", row, scope="required")
        for row in plan.toolchain.packages
        if static.get(row["package"]) in binary.packages
    ]
    source = _source(component, tuple(module.ref for module in modules))
    properties = {"nokmem:linking": component.linking, "nokmem:tags": " ".join(component.tags)}
    if component.build:
        properties["nokmem:build"] = component.build
    yield Part(
        name,
        "application",
        name,
        component.version,
        bom.purl("generic", name, component.version, checksum=f"sha256:{binary.sha256}"),
        binary.sha256,
        LICENCE,
        properties=properties,
        needs=(
            source.ref,
            f"go:{component.go}",
            *(patch.ref for patch in patches),
            *(library.ref for library in libraries),
            *(module.ref for module in modules if module.scope == "required"),
        ),
    )
    yield from (source, *patches, *libraries, *modules)


def _package(ref: str, row: Mapping[str, Any], **more: Any) -> Part:
    """A package of Debian's."""
    return Part(
        **{"ref": ref, "kind": "library", "scope": "", **more},
        name=row["package"],
        version=row["version"],
        purl=bom.debian(row),
        sha256=row["sha256"],
    )


def _source(component: ComponentPlan, needs: tuple[str, ...]) -> Part:
    """What a binary was compiled of. Of a distribution's package, which has patches of its own, the
    commit is no more than the ancestor."""
    source, (name, version) = component.source, module_of(component)
    known = {"nokmem:provider": source.provider, "nokmem:evidence": source.evidence}
    upstream = Part(
        f"{component.name}:source",
        "library",
        name,
        version,
        bom.purl("golang", name, version),
        licence=LICENCE,
        repository=f"git+{source.url}@{source.commit}" if source.url else "",
        properties={COMMIT: source.commit},
    )
    for row in source.files:
        if row.get("architecture", "source") == "source":
            known["nokmem:file"] = row["path"].rpartition("/")[2]
            upstream = replace(upstream, sha256=row["sha256"])
        elif row["version"] == source.revision:
            ancestor = replace(upstream, ref=f"{upstream.ref}:upstream")
            words = {"licence": LICENCE, "properties": known, "needs": needs}
            return _package(upstream.ref, row, ancestor=ancestor, **words)
    return replace(upstream, properties={**upstream.properties, **known}, needs=needs)


def _module(binary: str, module: Module, linked: bool) -> Part:
    properties = {PATH: module.path, KNOWN_BY: module.known_by}
    if module.commit:
        properties[COMMIT] = module.commit
    return Part(
        f"{binary}:{module.path}",
        "library",
        module.name,
        module.version,
        module.purl,
        module.sha256,
        scope="required" if linked else "excluded",
        properties=properties,
    )


def _go(plan: BuildPlan, go: GoPlan) -> Iterator[Part]:
    """The Go that compiled, and its standard library, which is in what it compiled."""
    ref = f"go:{go.version}"
    if go.archive:
        sha256, library = go.archive["sha256"], f"{ref}:stdlib"
        address = bom.purl("generic", "go", go.version, checksum=f"sha256:{sha256}")
        yield Part(ref, "application", "go", go.version, address, sha256, needs=(library,))
        address = bom.purl("golang", "stdlib", go.version)
        yield Part(library, "library", "stdlib", go.version, address, scope="required")
        return
    name = go.package.partition(" ")[0]
    family = name.rpartition("-")[0]  # of golang-1.15-go, the library is in golang-1.15-src
    rows = [row for row in plan.toolchain.packages if row["package"].rpartition("-")[0] == family]
    refs = {row["package"]: f"{ref}:{row['package']}" for row in rows if row["package"] != name}
    for row in rows:
        if row["package"] == name:
            yield _package(ref, row, kind="application", needs=tuple(refs.values()))
        else:
            yield _package(refs[row["package"]], row, scope="required")


def modules(folder: Path) -> dict[str, tuple[Module, ...]]:
    """What the bill of a dist folder says that each binary's source vendors, by the binary's name;
    ProofError where it cannot be read."""
    path = folder / SBOM
    found: dict[str, list[Module]] = {}
    try:
        for row in json.loads(path.read_text(encoding="utf-8"))["components"]:
            binary, _, module = row["bom-ref"].partition(":")
            properties = {one["name"]: one["value"] for one in row.get("properties", ())}
            if properties.get(PATH) == module:
                found.setdefault(binary, []).append(_read(module, row, properties))
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ProofError(
            f"the bill of materials cannot be read: {type(error).__name__} {error}",
            place=str(path),
            next_step="build this version again",
        ) from error
    return {binary: tuple(sorted(rows)) for binary, rows in found.items()}


def _read(path: str, row: Mapping[str, Any], properties: Mapping[str, Any]) -> Module:
    hashes = row.get("hashes", ())
    words = (
        *(path, row["name"], row.get("version", ""), row["purl"], properties[KNOWN_BY]),
        *(properties.get(COMMIT, ""), hashes[0]["content"] if hashes else ""),
    )
    if not all(isinstance(word, str) for word in words):
        raise ValueError(f"{path} is described by something else than words")
    return Module(*words)


def check(plan: BuildPlan, binaries: Iterable[Binary], folder: Path, nokmem: str) -> Check:
    """Whether a dist folder's bill is the one of this plan, these binaries, and the modules that
    they are said to have; whether all are named that they do have, each of them is asked itself."""
    binaries = tuple(binaries)
    there = (folder / SBOM).read_text(encoding="utf-8", errors="replace")
    try:
        ours = make(plan, binaries, nokmem)
    except ValueError as error:
        ours, others = "", [f"({error})"]
    else:
        others = _others(there, ours)
    count = sum(len(binary.modules) for binary in binaries)
    return Check(
        SBOM,
        "content",
        there == ours,
        f"{count} modules; sources, Go, patches and binaries as plan and files have them"
        if there == ours
        else f"not what plan and binaries make it: {', '.join(others[:5])}",
        "build this version again",
    )


def _others(there: str, ours: str) -> list[str]:
    """The refs of the components that two bills do not have alike."""
    left, right = (
        {row["bom-ref"]: row for row in json.loads(text)["components"]} for text in (there, ours)
    )
    refs = sorted(ref for ref in left | right if left.get(ref) != right.get(ref))
    return refs or ["what is around its components"]
