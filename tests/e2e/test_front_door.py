"""The way a user takes: a fresh clone, the README's command, and what lies in dist/ after it."""

from __future__ import annotations

import os
import platform
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builders import __version__
from builders.model.artifact import PROVENANCE, SBOM, Binary
from builders.model.releases import Facts
from builders.steps import manifest, provenance, sbom
from builders.tools import apt, container, elf, process
from builders.tools.cache import Cache, sha256_of
from tests import falsified
from tests.conftest import ROOT, VERSION, leave_out
from tests.e2e.conftest import PINNED, PROVEN, run


def test_a_second_start_sets_nothing_up(clone: Path) -> None:
    run(clone, "--version")
    code, text = run(clone, "--version")
    assert code == 0 and "setting up" not in text


def test_dist_holds_what_is_promised(built: Path) -> None:
    assert sorted(path.name for path in built.iterdir()) == [
        "SHA256SUMS", "build.log", "kubelet", "manifest.json", "nokmem-rollout", "plan.json",
        "provenance.json", "report.json", "runc", "sbom.cdx.json",
    ]  # fmt: skip
    result, text = process.capture(["sh", "-c", f"cd '{built}' && sha256sum -c SHA256SUMS"])
    assert result.ok, text


def test_dist_names_no_mirror_and_no_place_of_this_machine(clone: Path, built: Path) -> None:
    hosts = {uri.split("/")[2] for uris in apt.mirrors(os.environ).values() for uri in uris}
    places = {str(clone), str(Cache.default(os.environ).root)}
    for path in built.iterdir():
        content = path.read_bytes()
        assert not [word for word in hosts | places if word.encode() in content], path


def test_kubelet_says_exactly_its_version(built: Path) -> None:
    _, text = process.capture([str(built / "kubelet"), "--version"])
    assert text == f"Kubernetes {VERSION}"


def test_the_bytes_are_those_that_were_proven(built: Path) -> None:
    assert {name: sha256_of(built / name) for name in PROVEN} == PROVEN


def test_the_real_binaries_verify(clone: Path, built: Path) -> None:
    code, text = run(clone, "verify", "--dist", str(built))
    assert code == 0, text
    assert "FAIL" not in text
    assert (text.count("pass  kubelet"), text.count("pass  runc")) == (10, 9)


def test_a_bill_without_a_module_that_is_in_kubelet_is_rejected(
    clone: Path, built: Path, tmp_path: Path
) -> None:
    """All other papers say the same: it is the binary that tells."""
    dist = tmp_path / VERSION
    shutil.copytree(built, dist)
    planned, known = manifest.plan(dist), sbom.modules(dist)
    assert (len(known["kubelet"]), len(known["runc"])) == (242, 28)
    binaries = [
        Binary(
            name, dist / name, 0, sha256_of(dist / name), None, elf.go_packages(dist / name),
            tuple(one for one in modules if one.path != "k8s.io/klog/v2"),
        )
        for name, modules in known.items()
    ]  # fmt: skip
    (dist / SBOM).write_text(sbom.make(planned, binaries, __version__))
    (dist / PROVENANCE).write_text(provenance.make(planned, binaries, dist, __version__))
    falsified.fit(dist)
    code, text = run(clone, "verify", "--dist", str(dist))
    assert code == 9 and text.count("FAIL") == 2, text
    assert "FAIL  kubelet          modules" in text and "k8s.io/klog/v2" in text
    assert "not run: an earlier check failed" in text


@pytest.mark.parametrize(
    "paper", ["plan.json", "provenance.json", "manifest.json", "sbom.cdx.json"]
)
def test_another_commit_in_a_paper_is_rejected(
    clone: Path, built: Path, paper: str, tmp_path: Path
) -> None:
    dist, commit = tmp_path / VERSION, Facts().release(VERSION).commit
    shutil.copytree(built, dist)
    text = (dist / paper).read_text()
    assert commit in text
    (dist / paper).write_text(text.replace(commit, "0" * 40))
    falsified.fit(dist)
    code, text = run(clone, "verify", "--dist", str(dist))
    assert code == 9 and f"FAIL  {paper}" in text, text


def test_the_plan_beside_them_is_the_plan_of_any_folder(clone: Path, built: Path) -> None:
    for folder in (clone, ROOT):
        code, text = run(folder, "plan", *PINNED, "--format", "json")
        assert (code, text + "\n") == (0, (built / "plan.json").read_text())


def test_the_other_builder_gives_the_same_bytes(
    request: pytest.FixtureRequest, clone: Path, built: Path, tmp_path: Path
) -> None:
    problem = container.why_not()
    if problem is not None:
        leave_out(request, "container", problem.fact)
    code, text = run(clone, "build", *PINNED, "--builder", "container", "--dist", str(tmp_path))
    assert code == 0, text
    for name in ("kubelet", "runc", *manifest.BUILT):
        assert (tmp_path / VERSION / name).read_bytes() == (built / name).read_bytes(), name


def test_the_stock_control_is_rejected(clone: Path, built: Path, stock: Path) -> None:
    code, text = run(clone, "verify", "--dist", str(stock))
    assert code == 9, text
    for name in ("kubelet", "runc"):
        assert re.search(rf"^FAIL +{name} +nokmem", text, re.MULTILINE)
    assert (stock / "kubelet").read_bytes() != (built / "kubelet").read_bytes()


def test_a_build_that_stands_there_is_left_as_it_is(clone: Path, built: Path) -> None:
    """No builder is asked, and the request may leave to "auto" what was settled then."""
    before = (built / "kubelet").stat().st_mtime_ns
    code, text = run(clone, "build", "--k8s", VERSION, "--dist", str(built.parent))
    assert (code, (built / "kubelet").stat().st_mtime_ns) == (0, before), text
    assert "this very build stands there" in text and "builder:" not in text


def test_a_flipped_byte_in_kubelet_is_rejected(clone: Path, built: Path) -> None:
    kubelet = built / "kubelet"
    content = bytearray(kubelet.read_bytes())
    content[-1] ^= 1
    kubelet.write_bytes(content)
    try:
        code, text = run(clone, "verify", "--dist", str(built))
    finally:
        content[-1] ^= 1
        kubelet.write_bytes(content)
    assert code == 9
    assert re.search(r"^FAIL +kubelet +hash", text, re.MULTILINE)


def test_unknown_and_malformed_versions_end_with_their_codes(clone: Path) -> None:
    assert run(clone, "build", "--k8s", "v1.99.0")[0] == 3
    assert run(clone, "build", "--k8s", "$(id)")[0] == 2


def test_doctor_knows_this_machine(clone: Path) -> None:
    code, text = run(clone, "doctor")
    assert code == 0, text
    assert platform.machine() in text and "this machine can build" in text


def test_two_first_starts_at_once_set_up_once_and_do_not_wait_for_each_others_work(
    tmp_path: Path,
) -> None:
    git = process.require("git", "to clone the project")
    assert process.run([git, "clone", "--quiet", f"file://{ROOT}", str(tmp_path / "c")]).ok
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(run, tmp_path / "c", "doctor")
        quick = pool.submit(run, tmp_path / "c", "plan", "--k8s", VERSION)
        answers = [slow.result(), quick.result()]
    assert [code for code, _ in answers] == [0, 0], answers
    assert sum("setting up" in text for _, text in answers) == 1
