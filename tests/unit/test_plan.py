"""Request and facts in, the whole decision out."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from builders import pipeline, survey
from builders.errors import UnavailableError, UnknownReleaseError, UsageError
from builders.model import plan as model
from builders.model.plan import BuildPlan, BuildRequest, OwnArchive
from builders.model.releases import PATCHES, Facts
from builders.model.resolve import choices, resolve
from builders.model.settings import own_archive
from builders.tools import builder as tools
from tests.conftest import REQUEST, ROOT, VERSION
from tests.integration import small

FACTS = Facts()


def walk(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in walk(item)]
    if isinstance(value, list):
        return [text for item in value for text in walk(item)]
    return [str(value)]


def test_is_the_same_from_run_to_run(plan: BuildPlan) -> None:
    again = resolve(REQUEST, Facts())
    assert plan.to_json() == again.to_json()


def test_names_no_place_of_this_machine_and_no_mirror(plan: BuildPlan) -> None:
    texts = walk(json.loads(plan.to_json()))
    assert not [text for text in texts if str(ROOT) in text or "://" in text]


def test_says_how_the_proof_target_and_every_file_is_pinned(plan: BuildPlan) -> None:
    files = [row for component in plan.components for row in component.source.files]
    for row in (*files, *plan.toolchain.packages):
        assert re.fullmatch("[0-9a-f]{64}", row["sha256"]) and row["size"] > 0, row
    assert plan.epoch == 1610543941
    assert plan.target.glibc == "2.17"


def tags_as_upstream_cuts_them(goflags: str) -> str:
    """hack/lib/golang.sh of 1.20: sed -e 's|.*-tags=\\([^-]*\\).*|\\1|'."""
    return re.sub(r".*-tags=([^-]*).*", r"\1", goflags)


@pytest.mark.parametrize("variant", ["nokmem", "stock"])
@pytest.mark.parametrize("version", FACTS.releases)
def test_kubelet_tags_survive_upstreams_sed(version: str, variant: str) -> None:
    decided = pipeline.plan(BuildRequest(version, variant))
    needed = variant == "nokmem" and FACTS.release(version).mechanism != "not needed"
    kubelet = next(c for c in decided.components if c.name == "kubelet")
    cut = tags_as_upstream_cuts_them(kubelet.environment["GOFLAGS"])
    assert cut == ("nokmem" if needed else "")


def test_upstreams_sed_would_lose_a_tag_with_a_flag_after_it() -> None:
    assert tags_as_upstream_cuts_them("-tags=nokmem -v") != "nokmem"


def test_stock_differs_in_the_tag_and_our_patches_alone(
    plan: BuildPlan, stock_plan: BuildPlan
) -> None:
    for real, control in zip(plan.components, stock_plan.components, strict=True):
        assert set(real.tags) - set(control.tags) == {"nokmem"}
        assert dataclasses.replace(real.source, patches=()) == control.source
        assert not control.build
    assert plan.toolchain == stock_plan.toolchain
    assert stock_plan.name == f"{VERSION}-stock"


def test_what_is_generated_has_a_place_for_each_source_go_and_variant() -> None:
    go = OwnArchive("go", "1.15.15", "go.tar.gz", "0" * 64)
    requests = [
        REQUEST,
        dataclasses.replace(REQUEST, variant="stock"),
        dataclasses.replace(REQUEST, kubernetes_source="git"),
        dataclasses.replace(REQUEST, go="1.15.15", own=(go,)),
        BuildRequest("v1.20.4", toolchain="debian"),
    ]
    places = {resolve(request, FACTS).components[1].generated for request in requests}
    assert len(places) == len(requests)
    assert all(place.startswith(f"{model.GENERATED}/") for place in places)


def test_what_is_generated_is_the_same_whatever_the_patches(tmp_path: Path) -> None:
    own = Facts(own_patches=Path(small.series(tmp_path, "cmd/main.go", "main()", "main( )")))
    plain, patched = (resolve(REQUEST, facts).components[1] for facts in (FACTS, own))
    assert patched.source.patches and patched.generated == plain.generated


@pytest.mark.parametrize(("version", "kept"), [("v1.10.13", False), ("v1.11.0", True)])
def test_a_go_that_looks_at_ages_gets_nothing_that_was_kept(version: str, kept: bool) -> None:
    kubelet = resolve(BuildRequest(version, toolchain="debian"), FACTS).components[1]
    assert [bool(x) for x in (kubelet.reads, kubelet.generate, kubelet.generated)] == [kept] * 3


def test_says_that_go_is_not_the_official_one(plan: BuildPlan) -> None:
    assert any("1.15.15" in text and "1.15.5" in text for text in plan.deviations)


def test_toolchain_key_follows_everything_it_is_made_of(plan: BuildPlan) -> None:
    facts = Facts()
    changed_recipe = Facts()
    changed_recipe.__dict__["recipes"] = {**facts.recipes, "debian": "0" * 64}
    other_recipe = resolve(REQUEST, changed_recipe)
    assert other_recipe.toolchain.key != plan.toolchain.key
    known = facts.toolchains["debian"]
    assert known.seed is not None
    first, *rest = known.seed.packages
    changed = dataclasses.replace(first, sha256="0" * 64)
    seed = dataclasses.replace(known.seed, packages=(changed, *rest))
    facts.__dict__["toolchains"] = {"debian": dataclasses.replace(known, seed=seed)}
    other = resolve(REQUEST, facts)
    assert other.toolchain.key != plan.toolchain.key
    official = resolve(dataclasses.replace(REQUEST, go="official"), Facts())
    assert official.toolchain.key == plan.toolchain.key, "Go is put beside it"


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
    ("asked", "nearest"),
    [
        (BuildRequest("v1.20.2", runc="rc9"), "nearest: 1.0.0-rc9, "),
        (BuildRequest("v1.20.2", go="1.15.3"), "nearest: 1.15.13, "),
    ],
)
def test_of_a_long_list_only_the_nearest_are_named(asked: BuildRequest, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        pipeline.plan(asked)
    assert caught.value.next_step.startswith(nearest) and len(caught.value.next_step) < 150


def test_without_the_series_what_needs_a_backport_is_refused(tmp_path: Path) -> None:
    facts = Facts(patches=tmp_path)
    with pytest.raises(UnavailableError, match="no nokmem tag, and no patch brings it"):
        resolve(BuildRequest("v1.13.12"), facts)
    control = resolve(BuildRequest("v1.13.12", "stock"), facts)
    assert control.components[1].accounting


def test_a_backport_brings_the_tag() -> None:
    kubelet = pipeline.plan(BuildRequest("v1.13.12")).components[1]
    assert kubelet.source.patches[0]["name"].startswith("0001")
    assert kubelet.tags == ("nokmem",) and not kubelet.accounting
    later = pipeline.plan(BuildRequest("v1.14.0")).components[1].source.patches
    assert not any(patch["name"].startswith("0001") for patch in later)


def test_a_build_has_an_id_that_only_the_stamp_shows(tmp_path: Path) -> None:
    kubelet = pipeline.plan(BuildRequest("v1.15.3")).components[1]
    assert kubelet.build == "v1.15.3+nokmem.1" and kubelet.prints == ("Kubernetes v1.15.3",)
    (stamp,) = (text for place, text in kubelet.files.items() if place.endswith("stamp.go"))
    assert f'Build = "{kubelet.build}"' in stamp
    stamped = pipeline.plan(BuildRequest("v1.15.3", stamp=True)).components[1]
    assert stamped.prints == ("Kubernetes v1.15.3+nokmem.1",) and stamped.build == kubelet.build
    shutil.copytree(PATCHES, tmp_path / "own")
    own = pipeline.plan(BuildRequest("v1.15.3"), tmp_path / "own").components[1]
    assert re.fullmatch(r"v1\.15\.3\+nokmem\.1\.[0-9a-f]{8}", own.build)


@pytest.mark.parametrize(
    "request_", [BuildRequest("v1.9.0", stamp=True), BuildRequest("v1.15.3", "stock", stamp=True)]
)
def test_what_has_no_id_cannot_show_one(request_: BuildRequest) -> None:
    with pytest.raises(UsageError, match="no id of its own"):
        pipeline.plan(request_)


def test_the_matrix_claims_only_what_was_proven() -> None:
    rows = {row.kubernetes: row for row in survey.matrix()}
    proven = {proof.release for proof in FACTS.proofs if proof.component == "kubernetes"}
    assert {version for version, row in rows.items() if row.proven} == proven
    assert (rows[VERSION].sources, rows["v1.15.3"].sources) == ("debian, git", "git")


def test_the_articles_own_pair() -> None:
    decided = pipeline.plan(BuildRequest("v1.15.3", runc="v1.0.0-rc9"))
    assert "unproven combination: v1.15.3 with runc 1.0.0-rc9" in decided.deviations
    assert decided == pipeline.plan(BuildRequest("v1.15.3", runc="article"))
    assert [c.source.provider for c in decided.components] == ["git", "git"]
    assert decided.request.go == "1.12.9"
    assert decided.components[0].go == decided.components[1].go == "1.12.9"


def test_the_current_pair_gets_the_go_it_needs_and_has_no_open_cve() -> None:
    decided = pipeline.plan(BuildRequest("v1.15.3", runc="current"))
    assert [(go.version) for go in decided.toolchain.go] == ["1.12.9", "1.17.13"]
    said = " ".join(decided.deviations)
    assert "runc 1.1.12 is compiled by Go 1.17.13" in said and "CVE" not in said


def test_the_distributions_runc_is_linked_as_its_toolchain_can() -> None:
    """EL7 has no libseccomp.a."""
    for toolchain, linking in (("el7", "dynamic"), ("debian", "static")):
        request = BuildRequest(VERSION, toolchain=toolchain, runc_source="debian")
        component = runc(request)
        assert component.linking == linking
        assert ("-static" in " ".join(component.command)) is (linking == "static")
        assert ("netgo" in component.tags) is (linking == "static")


def test_what_auto_may_become() -> None:
    may = choices(BuildRequest(VERSION), FACTS)
    assert may.compiler == (("el7", "1.15.5"), ("debian", "1.15.5"), ("debian", "distribution"))
    assert may.kubernetes_source == ("debian", "git")
    older = choices(BuildRequest("v1.15.3"), FACTS)
    assert older.compiler == (("el7", "1.12.9"), ("debian", "1.12.9"))
    newer = choices(BuildRequest("v1.18.0", go="distribution"), FACTS)
    assert newer.compiler == (("debian", "distribution"),)
    own = (OwnArchive("kubernetes", "v1.15.3", "k.tar.gz", "0" * 64),)
    assert choices(BuildRequest("v1.15.3", own=own), FACTS).kubernetes_source == ("archive", "git")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"go": "1.18.10"}, "no sha256 is held"),
        ({"go": "1.9.3"}, "is older"),
        ({"go": "latest"}, "not a Go version"),
        ({"go": "distribution", "toolchain": "el7"}, "no Go of its own"),
        ({"kubelet_tags": ("a-b",)}, "not a build tag"),
        ({"runc_tags": ("a;b",)}, "not a build tag"),
        ({"kubernetes_source": "archive"}, "no archive of kubernetes"),
    ],
)
def test_an_override_that_cannot_be_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        pipeline.plan(dataclasses.replace(BuildRequest(VERSION), **change))


def test_a_go_that_compiles_but_crashes_is_refused_with_the_reason() -> None:
    own = (OwnArchive("go", "1.18.10", "go1.18.10.tar.gz", "0" * 64),)
    with pytest.raises(UsageError, match="reflect2 that it vendors crashes"):
        pipeline.plan(BuildRequest(VERSION, go="1.18.10", own=own))


def test_a_go_that_would_pass_over_the_vendor_folder_is_refused() -> None:
    for version in ("v1.15.3", "v1.16.4"):
        with pytest.raises(UsageError, match="GO111MODULE=auto"):
            pipeline.plan(BuildRequest(version, go="distribution"))
    for version in ("v1.14.10", "v1.16.5"):
        pipeline.plan(BuildRequest(version, go="distribution"))


def test_two_tags_need_a_go_that_knows_commas() -> None:
    request = BuildRequest("v1.16.0", kubelet_tags=("providerless",))
    with pytest.raises(UsageError, match=r"Go 1.12.9 takes one tag in GOFLAGS"):
        pipeline.plan(request)
    decided = pipeline.plan(dataclasses.replace(request, kubernetes="v1.16.15"))
    assert decided.components[1].environment["GOFLAGS"] == "-v -tags=providerless,nokmem"
    assert "unproven combination: v1.16.15 with the kubelet tags providerless" in decided.deviations


def test_an_archive_of_ones_own_is_in_the_plan_by_name_and_hash_alone() -> None:
    own = (
        own_archive("kubernetes", "", "https://u:secret@h.example/a/k.tar.gz?t=secret", "1" * 64),
        own_archive("go", "1.12.9", "/home/me/go.tar.gz", "2" * 64),
    )
    decided = pipeline.plan(BuildRequest("v1.15.3", kubernetes_source="archive", own=own))
    assert decided.components[1].source.files == ({"path": "k.tar.gz", "sha256": "1" * 64},)
    said = " ".join(decided.deviations)
    assert "Go 1.12.9 is an archive of your own" in said and "is your word" in said
    assert "secret" not in decided.to_json() and "/home" not in decided.to_json()


def test_an_archive_for_something_else_changes_no_plan() -> None:
    own = (
        OwnArchive("kubernetes", "v1.15.3", "k.tar.gz", "1" * 64),
        OwnArchive("kubernetes", VERSION, "newer.tar.gz", "2" * 64),
        OwnArchive("runc", "1.0.0-rc9", "r.tar.gz", "3" * 64),
        OwnArchive("go", "1.12.9", "go.tar.gz", "4" * 64),
    )
    assert pipeline.plan(dataclasses.replace(REQUEST, own=own)) == pipeline.plan(REQUEST)
    decided = pipeline.plan(BuildRequest("v1.15.3", runc="1.0.0-rc9", own=own))
    assert decided.request.own == (own[0], *own[2:])
    assert pipeline.plan(decided.request) == decided


@pytest.mark.parametrize("field", ["variant", "target", "runc_source"])
def test_an_unknown_choice_is_refused_with_the_known_ones(field: str) -> None:
    change: dict[str, Any] = {field: "nonsense"}
    request = dataclasses.replace(BuildRequest(VERSION), **change)
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
    assert (found.command[:2], found.linking) == (("make", "runc"), "dynamic"), "EL7's own library"
    found = runc(BuildRequest(VERSION, runc="1.0.0-rc10", toolchain="debian"))
    assert (found.command[:2], found.linking) == (("make", "static"), "static")
    assert "BUILDTAGS=seccomp nokmem" in found.command
    assert f"COMMIT={found.source.commit}" in found.command
    control = runc(BuildRequest(VERSION, "stock", runc="1.0.0-rc10"))
    assert "BUILDTAGS=seccomp" in control.command and control.accounting


@pytest.mark.parametrize("version", ["1.0.0-rc6", "1.0.0-rc9"])
def test_a_static_runc_keeps_the_systemd_driver_that_its_makefile_would_leave_out(
    version: str,
) -> None:
    found = runc(BuildRequest(VERSION, runc=version, toolchain="debian"))
    assert (found.command[:2], found.linking) == (("make", "runc"), "static")
    assert found.tags == ("seccomp", "nokmem", "netgo", "osusergo")
    assert "EXTRA_LDFLAGS=-w -extldflags -static" in found.command
    assert "static_build" not in " ".join(found.command)
    dynamic = runc(BuildRequest(VERSION, runc=version))
    assert dynamic.tags == ("seccomp", "nokmem")
    assert dynamic.command[-1] == "EXTRA_FLAGS=-v"


def test_a_runc_that_never_accounts_needs_no_tag_and_has_no_control() -> None:
    for variant in ("nokmem", "stock"):
        found = runc(BuildRequest(VERSION, variant, runc="1.0.2"))
        assert "BUILDTAGS=seccomp" in found.command and not found.accounting


def test_what_is_unproven_lost_or_open_is_said() -> None:
    said = " ".join(pipeline.plan(BuildRequest(VERSION, runc="1.0.0-rc92")).deviations)
    assert "unproven combination: v1.20.2 with runc 1.0.0-rc92" in said
    assert "without its default tags selinux, apparmor" in said
    assert "open to CVE-2021-30465: a mount" in said and "CVE-2024-21626" in said
    patched = " ".join(pipeline.plan(REQUEST).deviations)
    assert "CVE-2021-30465" not in patched and "unproven" not in patched


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("1.0.0-rc5", "no nokmem tag"),
        ("1.1.13", "written for Go 1.18; before 1.18 there is none"),
        ("9.9", "no facts are held"),
        ("../x", "no facts are held"),
    ],
)
def test_an_unusable_runc_is_refused_with_the_reason(version: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        pipeline.plan(dataclasses.replace(REQUEST, runc=version))
