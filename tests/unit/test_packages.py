"""What packages are called and say, and what is refused in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builders import pipeline
from builders.errors import FactsError, UsageError
from builders.model.artifact import Package
from builders.model.packages import PackagePlan, package_plans, rpm_version
from builders.model.plan import BuildPlan
from builders.model.releases import Facts
from builders.steps import manifest, repository
from builders.steps.packages import refused
from builders.steps.sources import Places
from builders.supply import Options
from builders.tools.cache import Cache
from builders.tools.render import render
from builders.tools.terminal import Terminal
from tests.unit.test_manifest import REPORT, write

EL7 = Facts().platforms["el7"]


@pytest.fixture
def plans(plan: BuildPlan) -> dict[str, PackagePlan]:
    return {each.binary: each for each in package_plans(json.loads(plan.to_json()), EL7)}


@pytest.mark.parametrize(
    ("upstream", "version"),
    [("v1.20.2", "1.20.2"), ("1.0.0-rc93", "1.0.0~rc93"), ("1.1.12", "1.1.12")],
)
def test_versions(upstream: str, version: str) -> None:
    assert rpm_version(upstream) == version


@pytest.mark.parametrize("upstream", ["1.20", "v1.20.2-beta.1", "v1.20.2\n", "1.0.0-rc93+dev", ""])
def test_what_is_no_release_has_no_package(upstream: str) -> None:
    with pytest.raises(FactsError):
        rpm_version(upstream)


def test_names(plans: dict[str, PackagePlan]) -> None:
    assert plans["kubelet"].file == "kubelet-nokmem-1.20.2-1.el7.x86_64.rpm"
    assert plans["runc"].file == "runc-nokmem-1.0.0~rc93-1.v1.20.2.el7.x86_64.rpm"


def test_the_script_has_a_package(plans: dict[str, PackagePlan]) -> None:
    script = plans["nokmem-rollout"]
    assert script.file == "nokmem-rollout-1.20.2-1.el7.noarch.rpm"
    assert script.sources == {"nokmem-rollout": ("/usr/sbin/nokmem-rollout", "0755")}


def test_own_patches_and_an_own_release_show_in_the_name(plan: BuildPlan) -> None:
    data = json.loads(plan.to_json())
    (kubelet,) = (c for c in data["components"] if c["name"] == "kubelet")
    kubelet["build"] += ".0123abcd"
    files = [each.file for each in package_plans(data, EL7)]
    assert "kubelet-nokmem-1.20.2-1.0123abcd.el7.x86_64.rpm" in files
    files = [each.file for each in package_plans(data, EL7, "2.site")]
    assert all("-2.site.el7." in file for file in files)


@pytest.mark.parametrize("release", ["", "1", "2.site"])
def test_a_release_of_ones_own_is_asked_for_again(
    release: str, plan: BuildPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that some of the packages would have anyway."""
    place = write(tmp_path, plan)
    made = [
        Package(each.name, each.version, each.release, place / each.file, 0, "")
        for each in package_plans(json.loads(plan.to_json()), EL7, release)
    ]
    described = manifest.with_packages(manifest.read(place), made)
    asked: list[str] = []
    monkeypatch.setattr(pipeline, "verify", lambda _: (described, REPORT))
    monkeypatch.setattr(pipeline, "build", lambda *_: pipeline.Built(place, 0, (), ()))
    monkeypatch.setattr(pipeline, "package", lambda _, word, *__: asked.append(word))
    monkeypatch.setattr(pipeline, "_compare", lambda *_: None)
    cache, terminal = Cache(tmp_path / "cache"), Terminal(ci=True)
    pipeline.reproduce(place, tmp_path, Options(Places({})), cache, terminal)
    assert asked == [release]


@pytest.mark.parametrize("release", ["0", "2-1", "2;id", "%(id)", "2.site\n", "../2", "é"])
def test_a_release_that_is_none(plan: BuildPlan, release: str) -> None:
    with pytest.raises(UsageError):
        package_plans(json.loads(plan.to_json()), EL7, release)


def test_a_plan_of_no_release_is_in_no_spec(plan: BuildPlan) -> None:
    data = {**json.loads(plan.to_json()), "kubernetes": "v1.20.2%(touch /tmp/x)"}
    with pytest.raises(FactsError):
        package_plans(data, EL7)


def test_a_repository_keeps_its_address_until_it_gets_another(tmp_path: Path) -> None:
    assert repository.address(tmp_path, "") == tmp_path.as_uri()
    url = "https://yum.example/nokmem"
    text = render(repository.TEMPLATE, url=url, signed=True, key=repository.KEY)
    (tmp_path / repository.REPO).write_text(text)
    assert repository.address(tmp_path, "") == url
    assert repository.address(tmp_path, "https://other.example") == "https://other.example"


def test_nobody_elses_runc_is_provided_or_made_obsolete(plans: dict[str, PackagePlan]) -> None:
    assert plans["runc"].values["provides"] == []
    assert plans["kubelet"].values["provides"] == ["kubelet = 1.20.2-1.el7"]
    assert "10-nokmem-adoption.conf" not in plans["runc"].sources


GOOD = [
    "payload cpio gzip",
    "digest 8",
    "host nokmem",
    "time {epoch}",
    "needs /bin/sh",
    "needs rpmlib(FileDigests)",
]


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ("payload cpio gzip", "payload cpio zstd", "packed by gzip; it says: payload cpio zstd"),
        ("digest 8", "digest 1", "sha256"),
        ("host nokmem", "host ci-17.example", "name no host"),
        ("time {epoch}", "time 17", "time of the source"),
        ("needs /bin/sh", "needs rpmlib(RichDependencies)", "not know rpmlib(RichDependencies)"),
        ("needs /bin/sh", "needs rpmlib(PayloadIsZstd)", "not know rpmlib(PayloadIsZstd)"),
    ],
)
def test_what_a_node_would_refuse(
    plans: dict[str, PackagePlan], line: str, instead: str, said: str
) -> None:
    plan = plans["kubelet"]
    good = [each.format(epoch=plan.epoch) for each in GOOD]
    assert refused(good, plan, EL7) == []
    bad = [instead if each == line.format(epoch=plan.epoch) else each for each in good]
    (problem,) = refused(bad, plan, EL7)
    assert said in problem
