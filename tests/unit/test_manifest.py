"""A dist folder appears whole, and every difference from its manifest is named."""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import pipeline
from builders.errors import BusyError, MachineError, ProofError
from builders.model.artifact import LOG, Binary, Check, CheckReport
from builders.model.plan import BuildPlan
from builders.steps import manifest

REPORT = CheckReport((Check("runc", "hash", True, "as it should be"),))


def write(dist: Path, plan: BuildPlan, content: bytes = b"binary", runc: bytes = b"") -> Path:
    folder = manifest.staging(dist, plan.name)
    binaries = []
    for component in plan.components:
        path = folder / component.name
        own = runc if runc and component.name == "runc" else content
        path.write_bytes(own)
        digest = hashlib.sha256(own).hexdigest()
        binaries.append(Binary(component.name, path, len(own), digest))
    (folder / LOG).write_text("log\n")
    manifest.write_plan_and_report(folder, plan, REPORT)
    described = pipeline.write_papers(plan, binaries, folder, "rootfs")
    return manifest.put_in_place(folder, dist / plan.name, described)


def test_what_is_written_reads_back(tmp_path: Path, plan: BuildPlan) -> None:
    place = write(tmp_path, plan)
    assert place == tmp_path / "v1.20.2"
    assert manifest.read(place).kubernetes == "v1.20.2"
    assert [path.name for path in tmp_path.iterdir()] == ["v1.20.2"]


def test_a_second_build_takes_the_place_of_the_first(tmp_path: Path, plan: BuildPlan) -> None:
    write(tmp_path, plan)
    place = write(tmp_path, plan, b"newer")
    assert (place / "runc").read_bytes() == b"newer"
    assert [path.name for path in tmp_path.iterdir()] == ["v1.20.2"]


def test_two_renames_do_where_folders_cannot_be_exchanged(
    tmp_path: Path, plan: BuildPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    write(tmp_path, plan)
    place = write(tmp_path, plan, b"newer")
    assert (place / "runc").read_bytes() == b"newer"
    assert [path.name for path in tmp_path.iterdir()] == ["v1.20.2"]


def test_rubbish_of_a_killed_run_goes(tmp_path: Path, plan: BuildPlan) -> None:
    left = manifest.staging(tmp_path, plan.name)
    other = manifest.staging(tmp_path, f"{plan.name}-stock")
    with manifest.hold(tmp_path, plan.name):
        pass
    assert not left.exists()
    assert other.exists()


def test_the_manifest_is_the_same_for_the_same_build(tmp_path: Path, plan: BuildPlan) -> None:
    one, two = write(tmp_path / "a", plan), write(tmp_path / "b", plan)
    assert (one / "manifest.json").read_bytes() == (two / "manifest.json").read_bytes()


def _append(name: str) -> Callable[[Path], object]:
    def change(place: Path) -> None:
        with (place / name).open("a") as file:
            file.write(" ")

    return change


def _edit(key: str, value: object) -> Callable[[Path], object]:
    def change(place: Path) -> None:
        path = place / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))

    return change


def _falsify_sum(place: Path) -> None:
    lines = (place / "SHA256SUMS").read_text().splitlines()
    false = ["0" * 64 + line[64:] if line.endswith(" runc") else line for line in lines]
    (place / "SHA256SUMS").write_text("".join(f"{line}\n" for line in false))


def _falsify_size(place: Path) -> None:
    data = json.loads((place / "manifest.json").read_text())
    data["binaries"][0]["size"] += 1
    (place / "manifest.json").write_text(json.dumps(data))


def _link(place: Path) -> None:
    (place / "runc").unlink()
    (place / "runc").symlink_to("kubelet")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file more": (lambda place: (place / "extra").touch(), "extra: not declared"),
    "a file less": (lambda place: (place / "plan.json").unlink(), "plan.json: missing"),
    "a log less": (lambda place: (place / "build.log").unlink(), "build.log: missing"),
    "another plan": (_append("plan.json"), "plan.json: changed"),
    "another report": (_append("report.json"), "report.json: changed"),
    "another log": (_append("build.log"), "build.log: not as SHA256SUMS"),
    "another manifest": (_append("manifest.json"), "manifest.json: not as SHA256SUMS"),
    "another list of sums": (_append("SHA256SUMS"), "not as SHA256SUMS"),
    "an unknown key": (_edit("extra", 1), "malformed"),
    "another schema": (_edit("schema", 1), "schema 1 is not 5"),
    "a name with a path": (_edit("logs", ["../build.log"]), "malformed"),
    "another sum of a binary": (_falsify_sum, "runc: not as SHA256SUMS"),
    "another size": (_falsify_size, "kubelet: not of the size"),
    "no end of brackets": (
        lambda place: (place / "manifest.json").write_text("[" * 200_000),
        "cannot be read",
    ),
    "no JSON": (lambda place: (place / "manifest.json").write_text("{"), "cannot be read"),
    "no manifest": (lambda place: (place / "manifest.json").unlink(), "not a dist folder"),
    "a link": (
        _link,
        "runc: not a plain file",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_named(
    damage: tuple[Callable[[Path], object], str], tmp_path: Path, plan: BuildPlan
) -> None:
    place = write(tmp_path, plan)
    change, word = damage
    change(place)
    with pytest.raises(ProofError, match=word):
        manifest.read(place)


def test_a_dist_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ProofError, match="not a dist folder"):
        manifest.read(tmp_path / "file")
    with (
        pytest.raises(MachineError, match="a file stands there"),
        manifest.hold(tmp_path / "file", "v1.20.2"),
    ):
        pass


def test_a_place_is_held_by_one_run_however_it_is_spelled(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with manifest.hold(tmp_path, "v1.20.2"):
        with pytest.raises(BusyError), manifest.hold(tmp_path / "link", "v1.20.2"):
            pass
        with manifest.hold(tmp_path, "v1.20.2-stock"):
            pass


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_not_replaced(kind: str, tmp_path: Path, plan: BuildPlan) -> None:
    place = tmp_path / "v1.20.2"
    (tmp_path / "elsewhere").mkdir()
    if kind == "file":
        place.touch()
    else:
        place.symlink_to("elsewhere")
    with pytest.raises(MachineError, match="not a folder"):
        write(tmp_path, plan)
    assert place.is_symlink() is (kind == "link") and list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("key", ["kubernetes", "kubernetes_commit"])
def test_a_line_s_end_behind_a_value_is_refused(key: str, tmp_path: Path, plan: BuildPlan) -> None:
    place = write(tmp_path, plan)
    value = json.loads((place / "manifest.json").read_text())[key]
    _edit(key, f"{value}\n")(place)
    with pytest.raises(ProofError, match="malformed"):
        manifest.read(place)
