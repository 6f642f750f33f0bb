"""What a source vendors, by the lists of three ages and by a distribution's packages."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path

import pytest

from builders import pipeline
from builders.errors import IntegrityError
from builders.model.artifact import SourceTree
from builders.model.components import module_of
from builders.model.modules import Module, attributed
from builders.model.plan import BuildPlan, ComponentPlan
from builders.steps import modules
from builders.steps.sources import _merge_gocode
from tests.conftest import REQUEST
from tests.unit.test_fuzz import deb

COMMIT = "0123456789abcdef0123456789abcdef01234567"
#: As Kubernetes has it from 1.19 on: sorted, so that a package need not stand below its module.
MODULES_TXT = """\
# cloud.example/go v0.54.0 => cloud.example/go v0.54.0
# cloud.example/go => cloud.example/go v0.54.0
# cloud.example/go/query => cloud.example/go/query v1.4.0
cloud.example/go/compute/metadata
# github.com/Owner/gone v1.0.0 => github.com/other/taken v1.1.0+incompatible
## explicit
github.com/Owner/gone
# k8s.io/api v0.0.0 => ./staging/src/k8s.io/api
## explicit; go 1.16
# k8s.io/api => ./staging/src/k8s.io/api
k8s.io/api/core/v1
# k8s.io/plain v0.1.0
k8s.io/plain
# k8s.io/plain/v2 v2.0.0
k8s.io/plain/v2/sub
# only.example/named v1.0.0
"""
GODEPS = f"""{{
  "ImportPath": "k8s.io/kubernetes",
  "Deps": [
    {{"ImportPath": "github.com/a/tagged/one", "Comment": "v1.2.0", "Rev": "{COMMIT}"}},
    {{"ImportPath": "github.com/a/tagged/two", "Comment": "v1.2.0", "Rev": "{COMMIT}"}},
    {{"ImportPath": "github.com/b/later", "Comment": "v1.0.0-rc5-46-g871ba2e5", "Rev": "{COMMIT}"}},
    {{"ImportPath": "github.com/c/named", "Comment": "PROMOTED-488", "Rev": "{COMMIT}"}},
    {{"ImportPath": "golang.org/x/net/context", "Rev": "{COMMIT}"}},
    {{"ImportPath": "gopkg.in/square/go-jose.v2/json", "Rev": "{COMMIT}"}},
    {{"ImportPath": "gopkg.in/yaml.v2", "Comment": "v2.0", "Rev": "{COMMIT}"}},
    {{"ImportPath": "google.golang.org/grpc/codes", "Comment": "v1.13.0", "Rev": "{COMMIT}"}}
  ]
}}
"""
VENDOR_CONF = f"""\
# a comment
github.com/a/tag v0.8.0

github.com/b/commit   {COMMIT}
github.com/c/told     {COMMIT} # v1.0.1
github.com/d/fixed    {COMMIT} # v1.3.0 (+ CVE-2019-16884)
github.com/e/later    {COMMIT} # v1.0.1-59-g29686db
golang.org/x/sys      {COMMIT} https://github.com/golang/sys
"""


def component(plan: BuildPlan, name: str) -> ComponentPlan:
    return next(component for component in plan.components if component.name == name)


@pytest.fixture(scope="module")
def kubelet(plan: BuildPlan) -> ComponentPlan:
    return component(plan, "kubelet")


@pytest.fixture(scope="module")
def runc(plan: BuildPlan) -> ComponentPlan:
    return component(plan, "runc")


def tree(path: Path, files: dict[str, str], links: dict[str, str] | None = None) -> SourceTree:
    """A source below one folder."""
    with tarfile.open(path, "w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"top/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(f"top/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return SourceTree("any", path, strip=1)


def found(rows: tuple[Module, ...]) -> dict[str, tuple[str, str]]:
    return {row.path: (row.version, row.purl) for row in rows}


def test_modules_txt(kubelet: ComponentPlan, tmp_path: Path) -> None:
    source = tree(tmp_path / "a", {"vendor/modules.txt": MODULES_TXT, "Godeps/Godeps.json": "no"})
    assert found(modules.vendored(kubelet, source, {})) == {
        "cloud.example/go": ("v0.54.0", "pkg:golang/cloud.example/go@v0.54.0"),
        "github.com/Owner/gone": (
            "v1.1.0+incompatible",
            "pkg:golang/github.com/other/taken@v1.1.0%2Bincompatible",
        ),
        "k8s.io/api": (
            "v1.20.2",
            "pkg:golang/k8s.io/kubernetes@v1.20.2#staging/src/k8s.io/api",
        ),
        "k8s.io/plain": ("v0.1.0", "pkg:golang/k8s.io/plain@v0.1.0"),
        "k8s.io/plain/v2": ("v2.0.0", "pkg:golang/k8s.io/plain/v2@v2.0.0"),
    }


def test_godeps_knows_commits_and_the_links_what_is_in_the_tree(
    kubelet: ComponentPlan, tmp_path: Path
) -> None:
    links = {
        "vendor/k8s.io/api": "../../staging/src/k8s.io/api",
        "elsewhere/k8s.io/api": "../../staging/src/k8s.io/api",
    }
    source = tree(tmp_path / "a", {"Godeps/Godeps.json": GODEPS}, links)
    rows = modules.vendored(kubelet, source, {})
    assert {path: version for path, (version, _) in found(rows).items()} == {
        "github.com/a/tagged": "v1.2.0",
        "github.com/b/later": COMMIT,
        "github.com/c/named": COMMIT,
        "golang.org/x/net": COMMIT,
        "google.golang.org/grpc": "v1.13.0",
        "gopkg.in/square/go-jose.v2": COMMIT,
        "gopkg.in/yaml.v2": "v2.0",
        "k8s.io/api": "v1.20.2",
    }
    assert {row.commit for row in rows} == {COMMIT, ""}
    assert [row.known_by for row in rows if not row.commit] == ["a link in vendor"]


def test_vendor_conf(runc: ComponentPlan, tmp_path: Path) -> None:
    rows = modules.vendored(runc, tree(tmp_path / "a", {"vendor.conf": VENDOR_CONF}), {})
    assert [(row.path, row.version, row.commit) for row in rows] == [
        ("github.com/a/tag", "v0.8.0", ""),
        ("github.com/b/commit", COMMIT, COMMIT),
        ("github.com/c/told", "v1.0.1", COMMIT),
        ("github.com/d/fixed", COMMIT, COMMIT),
        ("github.com/e/later", COMMIT, COMMIT),
        ("golang.org/x/sys", COMMIT, COMMIT),
    ]


def test_a_list_that_patches_left_is_the_one_that_holds(
    kubelet: ComponentPlan, tmp_path: Path
) -> None:
    source = tree(tmp_path / "a", {"vendor/modules.txt": MODULES_TXT})
    text = b"# k8s.io/plain v0.1.1\nk8s.io/plain\n"
    rows = modules.vendored(kubelet, source, {"vendor/modules.txt": text, "other": b""})
    assert found(rows) == {"k8s.io/plain": ("v0.1.1", "pkg:golang/k8s.io/plain@v0.1.1")}
    assert modules.vendored(kubelet, source, {"vendor/modules.txt": None}) == ()


def test_a_source_without_a_list_vendors_nothing_that_is_known(
    kubelet: ComponentPlan, tmp_path: Path
) -> None:
    assert modules.vendored(kubelet, tree(tmp_path / "a", {"main.go": "package main"}), {}) == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vendor/modules.txt", "k8s.io/of/no/module\n"),
        ("vendor/modules.txt", "# k8s.io/plain v1 => one two three\nk8s.io/plain\n"),
        ("vendor/modules.txt", "# \n"),
        ("Godeps/Godeps.json", "{"),
        ("Godeps/Godeps.json", "[]"),
        ("Godeps/Godeps.json", "[" * 100_000),
        ("Godeps/Godeps.json", '{"Deps": [{"ImportPath": "github.com/a/b"}]}'),
        ("Godeps/Godeps.json", '{"Deps": [{"ImportPath": 1, "Rev": "a"}]}'),
        ("vendor.conf", "github.com/a/b\n"),
    ],
)
def test_a_list_that_cannot_be_read_is_named(
    name: str, text: str, kubelet: ComponentPlan, tmp_path: Path
) -> None:
    with pytest.raises(IntegrityError, match="cannot be read") as caught:
        modules.vendored(kubelet, tree(tmp_path / "a", {name: text}), {})
    assert (caught.value.place, caught.value.exit_code) == (name, 6)


def test_a_list_that_is_no_text_is_named(kubelet: ComponentPlan, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="cannot be read"):
        modules.vendored(kubelet, tree(tmp_path / "a", {}), {"vendor.conf": b"\xff"})


def test_a_distributions_packages(runc: ComponentPlan, tmp_path: Path) -> None:
    """One has a folder of somebody else's in it, of which nothing says the version."""
    own = "github.com/opencontainers/runc"
    go = "usr/share/gocode/src"
    contents = (
        (
            f"{go}/{own}/main.go",
            f"{go}/{own}/libcontainer/a.go",
            f"{go}/{own}/vendor/github.com/urfave/cli/app.go",
        ),
        (
            f"{go}/golang.org/x/sys/unix/a.go",
            f"{go}/golang.org/x/sys/cpu/a.go",
            "usr/share/doc/x/a.go",
        ),
        ("usr/share/doc/y/copyright",),
    )
    rows = [row for row in runc.source.files if row["version"] == runc.source.revision]
    rows += [row for row in runc.source.files if row not in rows][: len(contents) - 1]
    debs = []
    for number, files in enumerate(contents):
        body = io.BytesIO()
        with tarfile.open(fileobj=body, mode="w") as tar:
            for name in files:
                tar.addfile(tarfile.TarInfo(f"./{name}"))
        debs.append(tmp_path / f"{number}.deb")
        debs[-1].write_bytes(deb(body.getvalue()))
    parts = tuple(zip(rows, _merge_gocode(debs, tmp_path / "tar"), strict=True))
    one, other = modules.vendored(runc, SourceTree("runc", tmp_path / "tar", 0, parts), {})
    assert (one.path, one.name, one.version) == ("github.com/urfave/cli",) * 2 + ("",)
    assert runc.source.revision in one.known_by
    assert (other.path, other.name) == ("golang.org/x/sys", rows[1]["package"])
    assert other.sha256 == rows[1]["sha256"]
    assert other.purl.startswith(f"pkg:deb/debian/{rows[1]['package']}@") and "bull" in other.purl


PATHS = ("github.com/a/b", "github.com/a/b/sub", "k8s.io/api")
OWN = "k8s.io/kubernetes"


@pytest.mark.parametrize(
    ("package", "module"),
    [
        ("github.com/a/b", "github.com/a/b"),
        ("github.com/a/b/c", "github.com/a/b"),
        ("github.com/a/b/sub/c", "github.com/a/b/sub"),
        ("k8s.io/kubernetes/vendor/github.com/a/b/c", "github.com/a/b"),
        ("k8s.io/kubernetes/pkg/kubelet", ""),
        ("k8s.io/kubernetes", ""),
        ("runtime/cgo", ""),
    ],
)
def test_a_package_is_of_the_module_with_the_longest_path(package: str, module: str) -> None:
    rows = [Module(path, path, "v1", "", "") for path in PATHS]
    assert attributed([package], rows, OWN) == (frozenset({module} - {""}), ())


@pytest.mark.parametrize(
    "package",
    [
        "github.com/a/bc",
        "k8s.io/kubernetes-other/pkg",
        "k8s.io/kubernetes/vendor/github.com/nobody/knows",
        "k8s.io/kubernetes/vendor/k8s.io/kubernetes/pkg",
    ],
)
def test_a_package_of_no_module_is_told(package: str) -> None:
    rows = [Module(path, path, "v1", "", "") for path in PATHS]
    linked, (strange,) = attributed([package], rows, OWN)
    assert not linked and package.endswith(strange)


def test_each_component_is_a_module_that_is_known(plan: BuildPlan) -> None:
    for version in ("v1.9.0", "v1.15.3", "v1.22.0"):
        request = dataclasses.replace(REQUEST, kubernetes=version, go="official")
        for one in (*plan.components, *pipeline.plan(request).components):
            path, version = module_of(one)
            assert "/" in path and version.startswith("v")
