"""Request and facts in, the whole decision out."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from builders import pipeline
from builders.errors import UnavailableError, UnknownReleaseError, UsageError
from builders.model import plan as model
from builders.model.plan import BuildPlan, BuildRequest, resolve
from builders.model.releases import Facts
from builders.tools import builder as tools
from tests.conftest import ROOT, VERSION

FACTS = Facts()


def walk(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in walk(item)]
    if isinstance(value, list):
        return [text for item in value for text in walk(item)]
    return [str(value)]


def test_is_the_same_from_run_to_run(plan: BuildPlan) -> None:
    again = resolve(BuildRequest(VERSION), Facts(), recipe_sha256=plan.toolchain.recipe_sha256)
    assert plan.to_json() == again.to_json()


def test_names_no_place_of_this_machine_and_no_mirror(plan: BuildPlan) -> None:
    texts = walk(json.loads(plan.to_json()))
    assert not [text for text in texts if str(ROOT) in text or "://" in text]


def test_says_how_the_proof_target_and_every_file_is_pinned(plan: BuildPlan) -> None:
    files = [row for component in plan.components for row in component.source.files]
    for row in (*files, *plan.toolchain.packages, plan.toolchain.debootstrap):
        assert re.fullmatch("[0-9a-f]{64}", row["sha256"]) and row["size"] > 0, row
    assert plan.epoch == 1610543941
    assert plan.target.glibc == "2.17"


def tags_as_upstream_cuts_them(goflags: str) -> str:
    """hack/lib/golang.sh of 1.20: sed -e 's|.*-tags=\\([^-]*\\).*|\\1|'."""
    return re.sub(r".*-tags=([^-]*).*", r"\1", goflags)


@pytest.mark.parametrize("variant", ["nokmem", "stock"])
@pytest.mark.parametrize("version", FACTS.held)
def test_kubelet_tags_survive_upstreams_sed(version: str, variant: str) -> None:
    decided = pipeline.plan(BuildRequest(version, variant))
    kubelet = next(c for c in decided.components if c.name == "kubelet")
    cut = tags_as_upstream_cuts_them(kubelet.environment["GOFLAGS"])
    assert cut == ("nokmem" if variant == "nokmem" else "")


def test_upstreams_sed_would_lose_a_tag_with_a_flag_after_it() -> None:
    assert tags_as_upstream_cuts_them("-tags=nokmem -v") != "nokmem"


def test_stock_differs_in_the_tag_alone(plan: BuildPlan, stock_plan: BuildPlan) -> None:
    for real, control in zip(plan.components, stock_plan.components, strict=True):
        assert set(real.tags) - set(control.tags) == {"nokmem"}
        assert real.source == control.source
    assert plan.toolchain == stock_plan.toolchain
    assert stock_plan.name == f"{VERSION}-stock"


def test_says_that_go_is_not_the_official_one(plan: BuildPlan) -> None:
    assert any("1.15.15" in text and "1.15.5" in text for text in plan.deviations)


def test_toolchain_key_follows_everything_it_is_made_of(plan: BuildPlan) -> None:
    facts = Facts()
    other_recipe = resolve(BuildRequest(VERSION), facts, recipe_sha256="0" * 64)
    assert other_recipe.toolchain.key != plan.toolchain.key
    first, *rest = facts.toolchain.packages
    changed = dataclasses.replace(first, sha256="0" * 64)
    facts.__dict__["toolchain"] = dataclasses.replace(facts.toolchain, packages=(changed, *rest))
    other = resolve(BuildRequest(VERSION), facts, recipe_sha256=plan.toolchain.recipe_sha256)
    assert other.toolchain.key != plan.toolchain.key


@pytest.mark.parametrize(
    "text",
    ["", "1.20.2", "v1.20", "v1.20.2 ", "v1.20.2\n", "v1.20.2;id", "../v1.20.2", "v01.20.2", "v1.20.2-rc.0"],
)  # fmt: skip
def test_a_malformed_version_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        pipeline.plan(BuildRequest(text))
    assert "v1.20.2" in caught.value.next_step


def test_an_unknown_version_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(UnknownReleaseError) as caught:
        pipeline.plan(BuildRequest("v1.20.99"))
    assert "v1.20.15, v1.20.14, v1.20.13" in caught.value.next_step


@pytest.mark.parametrize(
    ("version", "why"), [("v1.15.3", "does not hold kubernetes"), ("v1.13.12", "no nokmem tag")]
)
def test_a_known_release_that_cannot_be_built_yet_says_why(version: str, why: str) -> None:
    with pytest.raises(UnavailableError, match=why):
        pipeline.plan(BuildRequest(version))


def test_the_matrix_claims_only_what_was_proven() -> None:
    rows = {row.kubernetes: row for row in pipeline.matrix()}
    assert [version for version, row in rows.items() if row.proven] == [VERSION]
    assert (rows[VERSION].sources, rows["v1.15.3"].sources) == ("debian", "")


@pytest.mark.parametrize("field", ["variant", "target", "runc_source"])
def test_an_unknown_choice_is_refused_with_the_known_ones(field: str) -> None:
    request = dataclasses.replace(BuildRequest(VERSION), **{field: "nonsense"})
    with pytest.raises(UsageError) as caught:
        pipeline.plan(request)
    assert {"variant": "nokmem", "target": "el7", "runc_source": "git"}[
        field
    ] in caught.value.next_step


def test_plan_and_builders_agree_on_the_places_inside() -> None:
    inside = (tools.WORK, tools.GO_CACHE, tools.BUILDER_ID)
    assert inside == (model.WORK, model.GO_CACHE, model.BUILDER_ID)


def runc(request: BuildRequest) -> model.ComponentPlan:
    return next(c for c in pipeline.plan(request).components if c.name == "runc")


def test_runc_comes_from_the_distribution_where_it_has_it_else_from_git() -> None:
    assert runc(BuildRequest(VERSION)).source.provider == "debian"
    other = runc(BuildRequest(VERSION, runc="v1.0.0-rc10"))
    assert (other.source.provider, other.source.revision) == ("git", "v1.0.0-rc10")
    assert runc(BuildRequest(VERSION, runc_source="git")).source.revision == "v1.0.0-rc93"
    with pytest.raises(UnavailableError, match="distribution does not hold"):
        runc(BuildRequest(VERSION, runc="1.0.0-rc10", runc_source="debian"))


def test_upstreams_makefile_gets_tags_and_commit_on_its_command_line() -> None:
    found = runc(BuildRequest(VERSION, runc="1.0.0-rc10"))
    assert found.command[:2] == ("make", "static")
    assert "BUILDTAGS=seccomp nokmem" in found.command
    assert f"COMMIT={found.source.commit}" in found.command
    control = runc(BuildRequest(VERSION, "stock", runc="1.0.0-rc10"))
    assert "BUILDTAGS=seccomp" in control.command and control.accounting


def test_a_runc_that_never_accounts_needs_no_tag_and_has_no_control() -> None:
    for variant in ("nokmem", "stock"):
        found = runc(BuildRequest(VERSION, variant, runc="1.0.2"))
        assert "BUILDTAGS=seccomp" in found.command and not found.accounting


def test_what_is_unproven_lost_or_open_is_said() -> None:
    said = " ".join(pipeline.plan(BuildRequest(VERSION, runc="1.0.0-rc92")).deviations)
    assert "unproven combination: v1.20.2 with runc 1.0.0-rc92" in said
    assert "without its default tags selinux, apparmor" in said
    assert "open to CVE-2021-30465, CVE-2024-21626" in said
    patched = " ".join(pipeline.plan(BuildRequest(VERSION)).deviations)
    assert "CVE-2021-30465" not in patched and "unproven" not in patched


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("1.0.0-rc5", "no nokmem tag"),
        ("1.1.12", "written for Go 1.17, the toolchain has 1.15.15"),
        ("9.9", "no facts are held"),
        ("../x", "no facts are held"),
    ],
)
def test_an_unusable_runc_is_refused_with_the_reason(version: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        pipeline.plan(BuildRequest(VERSION, runc=version))
