"""The bill of materials: what is in it, that it is CycloneDX, and what is refused in one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from builders import pipeline
from builders.errors import ProofError
from builders.model.artifact import SBOM, Binary
from builders.model.modules import Module
from builders.model.plan import BuildPlan, BuildRequest, OwnArchive
from builders.steps import checks, sbom

SHA256 = {"kubelet": "a" * 64, "runc": "b" * 64}
MODULES = (
    Module("github.com/a/b", "github.com/a/b", "v1.0.0", "pkg:golang/github.com/a/b@v1.0.0", "it"),
    Module(
        *("github.com/c/d", "golang-c-d-dev", "1.0-1", "pkg:deb/debian/golang-c-d-dev@1.0-1", "it"),
        sha256="c" * 64,
    ),
    Module("k8s.io/api", "k8s.io/api", "", "pkg:golang/k8s.io/api", "it", "d" * 40),
)
PACKAGES = frozenset({"k8s.io/kubernetes/vendor/k8s.io/api/core", "k8s.io/kubernetes/pkg/kubelet"})
GIT = BuildRequest("v1.15.3", kubernetes_source="git", runc_source="dir", toolchain="debian")


def binaries(plan: BuildPlan, packages: frozenset[str] = PACKAGES) -> list[Binary]:
    return [
        Binary(
            c.name, Path(c.name), 1, SHA256[c.name],
            packages=packages if c.name == "kubelet" else frozenset({"runtime/cgo"}),
            modules=MODULES if c.name == "kubelet" else MODULES[:1],
        )
        for c in plan.components
    ]  # fmt: skip


def parts(text: str) -> dict[str, Any]:
    return {row["bom-ref"]: row for row in json.loads(text)["components"]}


def told(part: Any) -> dict[str, str]:
    return {row["name"].removeprefix("nokmem:"): row["value"] for row in part["properties"]}


@pytest.mark.parametrize("toolchain", ["debian", "el7"])
@pytest.mark.parametrize("source", ["distribution", "git", "archive"])
def test_it_is_cyclonedx(plan: BuildPlan, source: str, toolchain: str) -> None:
    own = (OwnArchive("kubernetes", "", "k.tar.gz", "e" * 64),)
    request = {
        "distribution": plan.request,
        "git": GIT,
        "archive": dataclasses.replace(GIT, kubernetes_source="archive", own=own),
    }[source]
    go = "official" if toolchain == "el7" else request.go
    planned = pipeline.plan(dataclasses.replace(request, toolchain=toolchain, go=go))
    text = sbom.make(planned, binaries(planned), "1.0")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert text == sbom.make(planned, reversed(binaries(planned)), "1.0")
    refs = {"dist", *parts(text)}
    for row in json.loads(text)["dependencies"]:
        assert {row["ref"], *row.get("dependsOn", ())} <= refs


def test_what_is_in_it(plan: BuildPlan) -> None:
    found = parts(sbom.make(plan, binaries(plan), "1.0"))
    for name, digest in SHA256.items():
        assert found[name]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    kubernetes, runc = found["kubelet:source"], found["runc:source"]
    assert told(kubernetes)["commit"] == plan.kubernetes_commit
    assert kubernetes["purl"] == "pkg:golang/k8s.io/kubernetes@v1.20.2"
    # Debian's patches are in it: upstream's commit is what it was made of, and no more
    assert runc["purl"].startswith("pkg:deb/debian/golang-github-opencontainers-runc-dev@")
    assert "commit" not in told(runc)
    (upstream,) = runc["pedigree"]["ancestors"]
    (component,) = (c for c in plan.components if c.name == "runc")
    assert told(upstream)["commit"] == component.source.commit
    patches = [row for ref, row in found.items() if ref.startswith("kubelet:patch:")]
    assert {row["hashes"][0]["content"] for row in patches} == {
        patch["sha256"] for c in plan.components for patch in c.source.patches
    }
    assert found["go:1.15.15"]["purl"].startswith("pkg:deb/debian/golang-1.15-go@1.15.15-")
    assert "hashes" in found["go:1.15.15"] and "go:1.15.15:golang-1.15-src" in found


def test_only_what_is_in_the_binary_is_required(plan: BuildPlan) -> None:
    text = sbom.make(plan, binaries(plan), "1.0")
    scopes = {ref: row.get("scope") for ref, row in parts(text).items()}
    assert scopes["kubelet:k8s.io/api"] == "required"
    assert scopes["kubelet:github.com/a/b"] == scopes["kubelet:github.com/c/d"] == "excluded"
    needs = {row["ref"]: row.get("dependsOn", []) for row in json.loads(text)["dependencies"]}
    assert "kubelet:k8s.io/api" in needs["kubelet"]
    assert "kubelet:github.com/a/b" not in needs["kubelet"]
    assert "kubelet:github.com/a/b" in needs["kubelet:source"]
    # runc is static and calls C, but nothing of libseccomp's; kubelet is not static
    assert [ref for ref in scopes if ref.endswith("-dev")] == ["runc:libc6-dev"]


def test_an_archives_go_is_named_with_its_library() -> None:
    planned = pipeline.plan(GIT)
    found = parts(sbom.make(planned, binaries(planned), "1.0"))
    (go,) = planned.toolchain.go
    assert found["go:1.12.9"]["hashes"][0]["content"] == go.archive["sha256"]
    assert found["go:1.12.9:stdlib"]["purl"] == "pkg:golang/stdlib@1.12.9"
    url = "git+https://github.com/kubernetes/kubernetes@"
    (reference,) = found["kubelet:source"]["externalReferences"]
    assert reference["url"] == url + planned.kubernetes_commit
    assert "externalReferences" not in found["runc:source"], "where a folder is from nobody knows"


def test_its_time_is_the_sources_and_its_number_what_it_says(plan: BuildPlan) -> None:
    one, other = (json.loads(sbom.make(plan, binaries(plan), v)) for v in ("1.0", "1.1"))
    assert one["metadata"]["timestamp"] == "2021-01-13T13:19:01+00:00"
    assert one["serialNumber"] != other["serialNumber"]


def test_what_was_written_is_read(plan: BuildPlan, tmp_path: Path) -> None:
    (tmp_path / SBOM).write_text(sbom.make(plan, binaries(plan), "1.0"))
    assert sbom.modules(tmp_path) == {"kubelet": MODULES, "runc": MODULES[:1]}


Change = Callable[[dict[str, Any]], object]


def at(data: dict[str, Any], ref: str) -> dict[str, Any]:
    return next(row for row in data["components"] if row["bom-ref"] == ref)


def without(ref: str) -> Change:
    """A module is not there, nor anywhere named."""

    def change(data: dict[str, Any]) -> None:
        data["components"].remove(at(data, ref))
        data["dependencies"] = [row for row in data["dependencies"] if row["ref"] != ref]
        for row in data["dependencies"]:
            row["dependsOn"] = [one for one in row.get("dependsOn", ()) if one != ref]

    return change


FALSE: dict[str, tuple[Change, str]] = {
    "a binary's hash": (
        lambda data: at(data, "runc")["hashes"][0].update(content="f" * 64),
        "make it: runc",
    ),
    "a commit": (
        lambda data: at(data, "kubelet:source")["properties"][0].update(value="f" * 40),
        "make it: kubelet:source",
    ),
    "the hash of a source": (
        lambda data: at(data, "runc:source")["hashes"][0].update(content="f" * 64),
        "make it: runc:source",
    ),
    "a patch": (without("kubelet:patch:adoption"), "make it: kubelet:patch:adoption"),
    "Go": (lambda data: at(data, "go:1.15.15").update(version="1.16"), "make it: go:1.15.15"),
    "the scope of a module": (
        lambda data: at(data, "kubelet:k8s.io/api").update(scope="excluded"),
        "make it: kubelet:k8s.io/api",
    ),
    "a module is no part of the graph": (
        lambda data: data["dependencies"].pop(),
        "what is around its components",
    ),
    "a module that is named twice": (
        lambda data: data["components"].append(at(data, "kubelet:k8s.io/api")),
        "what is around its components",
    ),
    "the time": (
        lambda data: data["metadata"].update(timestamp="2026-01-01T00:00:00+00:00"),
        "what is around its components",
    ),
    "a word more": (lambda data: data.update(annotations=[]), "what is around its components"),
    "a purl that is none": (
        lambda data: at(data, "kubelet:k8s.io/api").update(purl="k8s.io/api"),
        "not what plan and binaries make it",
    ),
}


def judged(plan: BuildPlan, folder: Path) -> list[str]:
    """What fails in a folder that holds a bill, binaries and nothing else."""
    said = sbom.modules(folder)
    rows = [
        dataclasses.replace(one, modules=said.get(one.name, ())) for one in binaries(plan)
    ]  # as `verify` has them
    found = [sbom.check(plan, rows, folder, "1.0"), *map(checks._modules, rows)]
    return [check.found for check in found if not check.passed]


@pytest.mark.parametrize("false", FALSE.values(), ids=FALSE.keys())
def test_what_is_falsified_is_refused(
    false: tuple[Change, str], plan: BuildPlan, tmp_path: Path
) -> None:
    change, said = false
    data = json.loads(sbom.make(plan, binaries(plan), "1.0"))
    (tmp_path / SBOM).write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")
    assert judged(plan, tmp_path) == []
    change(data)
    (tmp_path / SBOM).write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")
    (found,) = judged(plan, tmp_path)
    assert said in found


def test_a_module_that_is_left_out_is_told_by_the_binary(plan: BuildPlan, tmp_path: Path) -> None:
    """Even where nothing else in the bill could say that it was ever there."""
    rows = [dataclasses.replace(one, modules=one.modules[:2]) for one in binaries(plan)]
    (tmp_path / SBOM).write_text(sbom.make(plan, rows, "1.0"))
    assert judged(plan, tmp_path) == ["no module is named of k8s.io/api/core"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"components": [{}]}',
        '{"components": [{"bom-ref": 1}]}',
        '{"components": [{"bom-ref": "a", "properties": 1}]}',
        json.dumps({"components": [{"bom-ref": "kubelet:x", "name": [], "purl": "",
            "properties": [{"name": sbom.PATH, "value": "x"}, {"name": sbom.KNOWN_BY, "value": ""}]}]}),
        "[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_bill_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / SBOM).write_text(text)
    with pytest.raises(ProofError, match="cannot be read"):
        sbom.modules(tmp_path)
