"""The statements of provenance: what they say, that they are in-toto's, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from builders import pipeline
from builders.model.artifact import (
    PACKAGES_PROVENANCE,
    PLAN,
    PROVENANCE,
    REPORT,
    SBOM,
    SCRIPT,
    Manifest,
)
from builders.model.plan import BuildPlan, OwnArchive
from builders.steps import provenance
from builders.tools.cache import sha256_of
from tests.conftest import DATA
from tests.unit.test_sbom import GIT, SHA256, binaries

SCHEMA = json.loads((DATA / "provenance.schema.json").read_text())
TOOLS = {"name": "debian", "key": "e" * 64}


def statement(plan: BuildPlan, folder: Path) -> dict[str, Any]:
    """The statement about a folder that is filled with a plan, and with what stands for the rest."""
    (folder / PLAN).write_text(plan.to_json())
    for name in (REPORT, SBOM, SCRIPT):
        (folder / name).write_text(name)
    text = provenance.make(plan, binaries(plan), folder, "1.0")
    (folder / PROVENANCE).write_text(text)
    data: dict[str, Any] = json.loads(text)
    jsonschema.validate(data, SCHEMA)
    return data


def materials(data: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = data["predicate"]["buildDefinition"]["resolvedDependencies"]
    return rows


def test_what_it_says(plan: BuildPlan, tmp_path: Path) -> None:
    data = statement(plan, tmp_path)
    subjects = {row["name"]: row["digest"]["sha256"] for row in data["subject"]}
    assert subjects == {**SHA256, SCRIPT: sha256_of(tmp_path / SCRIPT)}
    definition, run = data["predicate"]["buildDefinition"], data["predicate"]["runDetails"]
    assert definition["externalParameters"]["kubernetes"] == "v1.20.2"
    assert definition["internalParameters"]["toolchain"]["key"] == plan.toolchain.key
    assert run["builder"]["version"] == {"nokmem": "1.0"} and "metadata" not in run
    assert {row["name"]: row["digest"]["sha256"] for row in run["byproducts"]} == {
        name: sha256_of(tmp_path / name) for name in (PLAN, REPORT, SBOM)
    }


def test_every_pinned_file_and_patch_is_a_material(plan: BuildPlan, tmp_path: Path) -> None:
    rows = materials(statement(plan, tmp_path))
    digests = {row["digest"].get("sha256") for row in rows}
    pinned = [file for c in plan.components for file in (*c.source.files, *c.source.patches)]
    assert {file["sha256"] for file in (*pinned, *plan.toolchain.packages)} == digests - {None}
    (commit,) = (row for row in rows if "gitCommit" in row["digest"])
    assert commit["digest"]["gitCommit"] == plan.kubernetes_commit
    assert commit["annotations"]["named"].startswith("in the header of kubernetes_1.20.5")


def test_commits_and_archives(tmp_path: Path) -> None:
    planned = pipeline.plan(GIT)
    rows = {row["name"]: row for row in materials(statement(planned, tmp_path))}
    tag = "git+https://github.com/kubernetes/kubernetes@refs/tags/v1.15.3"
    assert rows["k8s.io/kubernetes"]["uri"] == tag
    assert rows["k8s.io/kubernetes"]["digest"] == {"gitCommit": planned.kubernetes_commit}
    assert "uri" not in rows["github.com/opencontainers/runc"], "where a folder is is no one's"
    (go,) = planned.toolchain.go
    assert rows[go.archive["name"]]["digest"]["sha256"] == go.archive["sha256"]
    own = OwnArchive("kubernetes", "", "k.tar.gz", "e" * 64)
    asked = dataclasses.replace(GIT, kubernetes_source="archive", own=(own,))
    rows = {row["name"]: row for row in materials(statement(pipeline.plan(asked), tmp_path))}
    assert rows["k.tar.gz"]["digest"] == {"sha256": own.sha256}
    assert "by the user's word" in rows["k.tar.gz"]["annotations"]["holds"]


def test_an_image_by_its_digest(tmp_path: Path) -> None:
    planned = pipeline.plan(dataclasses.replace(GIT, toolchain="el7"))
    rows = {row["name"]: row for row in materials(statement(planned, tmp_path))}
    assert planned.toolchain.image is not None
    assert f"sha256:{rows['centos']['digest']['sha256']}" == planned.toolchain.image["digest"]
    assert rows["make-3.82-24.el7"]["uri"] == "pkg:rpm/centos/make@3.82-24.el7?arch=x86_64"


Change = Callable[[dict[str, Any]], object]


def material(key: str) -> dict[str, Any]:
    return {"digest": {key: "f" * (40 if key == "gitCommit" else 64)}}


def commit_of(data: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in materials(data) if "gitCommit" in row["digest"])


FALSE: dict[str, tuple[Change, str]] = {
    "a subject": (
        lambda data: data["subject"][1]["digest"].update(sha256="f" * 64),
        ".subject[1].digest.sha256",
    ),
    "a subject less": (lambda data: data["subject"].pop(), ".subject"),
    "a commit": (
        lambda data: commit_of(data)["digest"].update(gitCommit="f" * 40),
        ".digest.gitCommit",
    ),
    "a material less": (lambda data: materials(data).pop(), ".resolvedDependencies"),
    "a source's hash": (lambda data: materials(data)[0].update(material("sha256")), ".sha256"),
    "the request": (
        lambda data: data["predicate"]["buildDefinition"]["externalParameters"].update(runc="1.1"),
        ".externalParameters.runc",
    ),
    "a clock": (
        lambda data: data["predicate"]["runDetails"].update(metadata={"startedOn": "now"}),
        ".runDetails.metadata",
    ),
    "all": (lambda data: data.clear(), "._type"),
}


@pytest.mark.parametrize("false", FALSE.values(), ids=FALSE.keys())
def test_what_is_falsified_is_refused(
    false: tuple[Change, str], plan: BuildPlan, tmp_path: Path
) -> None:
    change, said = false
    data = statement(plan, tmp_path)
    assert provenance.check(plan, binaries(plan), tmp_path, "1.0").passed
    change(data)
    (tmp_path / PROVENANCE).write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")
    check = provenance.check(plan, binaries(plan), tmp_path, "1.0")
    assert not check.passed and said in check.found


@pytest.mark.parametrize(
    ("text", "said"), [("", "no JSON"), ("[]", "all of it"), ("[" * 100_000, "no JSON")]
)
def test_what_is_no_statement_is_refused(
    text: str, said: str, plan: BuildPlan, tmp_path: Path
) -> None:
    statement(plan, tmp_path)
    (tmp_path / PROVENANCE).write_text(text)
    assert said in provenance.check(plan, binaries(plan), tmp_path, "1.0").found


def test_another_way_to_write_it_is_refused(plan: BuildPlan, tmp_path: Path) -> None:
    (tmp_path / PROVENANCE).write_text(json.dumps(statement(plan, tmp_path)))
    found = provenance.check(plan, binaries(plan), tmp_path, "1.0").found
    assert "the way it is written" in found


def altered(plan: BuildPlan, name: str, **words: Any) -> BuildPlan:
    """The plan with other words about the source of a component."""
    return dataclasses.replace(
        plan,
        components=tuple(
            dataclasses.replace(c, source=dataclasses.replace(c.source, **words))
            if c.name == name
            else c
            for c in plan.components
        ),
    )


def test_a_plan_of_other_commits_or_patches_is_refused(plan: BuildPlan) -> None:
    patch = {"name": "0001-own.patch", "sha256": "f" * 64, "subject": "own"}
    (kubelet,) = (c for c in plan.components if c.name == "kubelet")
    patches = kubelet.source.patches
    assert provenance.check_sources(plan, plan).passed
    more = altered(plan, "kubelet", patches=(*patches, patch))
    assert provenance.check_sources(more, plan).passed, "the user's own come after the project's"
    for other, said in (
        (dataclasses.replace(plan, kubernetes_commit="f" * 40), ".commit"),
        (dataclasses.replace(plan, epoch=1), ".epoch"),
        (altered(plan, "runc", commit="f" * 40), ".runc.commit"),
        (altered(plan, "kubelet", patches=(patch, *patches)), "the patches of kubelet"),
        (altered(plan, "kubelet", patches=patches[:-1]), "the patches of kubelet"),
        (dataclasses.replace(plan, components=plan.components[:1]), ".kubelet"),
    ):
        check = provenance.check_sources(other, plan)
        assert not check.passed and said in check.found


def described() -> Manifest:
    rows = [
        {"file": f"{name}.rpm", "name": name, "version": "1", "release": "1.el7", "sha256": digest,
         "signed_by": "A" * 40}
        for name, digest in SHA256.items()
    ]  # fmt: skip
    built = [{"name": name, "sha256": digest} for name, digest in SHA256.items()]
    files = {name: {"sha256": "d" * 64} for name in (PLAN, SCRIPT)}
    return Manifest({"packages": rows, "binaries": built, "files": files, "epoch": 1})


def test_the_statement_about_packages(tmp_path: Path) -> None:
    one = described()
    text = provenance.make_packages(one, TOOLS, "1.0")
    data = json.loads(text)
    jsonschema.validate(data, SCHEMA)
    assert [row["name"] for row in data["subject"]] == ["kubelet.rpm", "runc.rpm"]
    assert [row["name"] for row in materials(data)] == ["kubelet", SCRIPT, PLAN, "runc"]
    place = tmp_path / PACKAGES_PROVENANCE
    assert "cannot be read" in provenance.check_packages(one, tmp_path).found
    place.write_text(text)
    assert provenance.check_packages(one, tmp_path).passed
    for old, new in (("a" * 64, "f" * 64), ("1.el7", "2.el7"), ("A" * 40, "B" * 40)):
        place.write_text(text.replace(old, new, 1))
        assert not provenance.check_packages(one, tmp_path).passed
    for odd in ("", "{}", "[" * 100_000, text.replace('"toolchain": {', '"toolchain": 1, "x": {')):
        place.write_text(odd)
        assert "cannot be read" in provenance.check_packages(one, tmp_path).found
