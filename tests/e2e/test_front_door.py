"""The way a user takes: a fresh clone, the README's command, and what lies in dist/ after it."""

from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builders.model.releases import Facts
from builders.tools import apt, container, process, rootfs
from builders.tools.cache import Cache, sha256_of
from tests.conftest import ROOT, VERSION, leave_out

MINUTES = 60
#: What this machine may reach decides nothing here.
PINNED = ("--k8s", VERSION, "--toolchain", "debian", "--go", "distribution")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone in another folder; its .venv is made by ./run itself."""
    folder = tmp_path_factory.mktemp("a fresh clone") / "nokmem"
    git = process.require("git", "to clone the project")
    result = process.run([git, "clone", "--quiet", f"file://{ROOT}", str(folder)])
    assert result.ok, result.tail
    return folder


def run(clone: Path, *words: str) -> tuple[int, str]:
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("NOKMEM_", "PIP_", "DOCKER_", "XDG_", "SSL_", "HOME", "PATH"))
        or name.lower().endswith("_proxy")
    }
    result, text = process.capture(
        [str(clone / "run"), *words], environment={**passed, "CI": "true"}, timeout=30 * MINUTES
    )
    return result.exit_code, text


@pytest.fixture(scope="module")
def built(request: pytest.FixtureRequest, clone: Path) -> Path:
    problem = rootfs.why_not()
    if problem is not None:
        leave_out(request, "rootfs", problem.fact)
    code, text = run(clone, "build", *PINNED, "--builder", "rootfs", "--dist", str(clone / "dist"))
    assert code == 0, text
    return clone / "dist" / VERSION


def test_a_second_start_sets_nothing_up(clone: Path) -> None:
    run(clone, "--version")
    code, text = run(clone, "--version")
    assert code == 0 and "setting up" not in text


def test_dist_holds_what_is_promised(built: Path) -> None:
    assert sorted(path.name for path in built.iterdir()) == [
        "SHA256SUMS", "build.log", "kubelet", "manifest.json", "plan.json", "report.json", "runc",
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
    proofs = {(p.component, p.release, p.source): p.sha256 for p in Facts().proofs}
    assert sha256_of(built / "kubelet") == proofs["kubernetes", VERSION, "debian"]
    assert sha256_of(built / "runc") == proofs["runc", "1.0.0-rc93", "debian"]


def test_the_real_binaries_verify(clone: Path, built: Path) -> None:
    code, text = run(clone, "verify", "--dist", str(built))
    assert code == 0, text
    assert "FAIL" not in text and text.count("pass  kubelet") == 8


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
    for name in ("kubelet", "runc", "plan.json", "report.json"):
        assert (tmp_path / VERSION / name).read_bytes() == (built / name).read_bytes(), name


def test_the_stock_control_is_rejected(clone: Path, built: Path) -> None:
    code, text = run(
        clone, "build", *PINNED, "--builder", "rootfs", "--variant", "stock",
        "--dist", str(clone / "dist"),
    )  # fmt: skip
    assert code == 0, text
    control = clone / "dist" / f"{VERSION}-stock"
    code, text = run(clone, "verify", "--dist", str(control))
    assert code == 9, text
    for name in ("kubelet", "runc"):
        assert f"FAIL  {name:<7}  nokmem" in text
    assert (control / "kubelet").read_bytes() != (built / "kubelet").read_bytes()


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
    assert "FAIL  kubelet  hash" in text


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
