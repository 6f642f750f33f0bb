"""The seed that a node gets before its first kubelet that adopts containers."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rollout.script import script
from tests.rollout import MANIFEST


class Node:
    def __init__(self, root: Path) -> None:
        self.state, self.manifests = root / "kubelet/version-cache.json", root / "manifests"
        self.mark = root / "kubelet.service.d/20-nokmem-adoption.conf"
        self.state.parent.mkdir()
        self.manifests.mkdir()
        self.script = root / "nokmem-rollout"
        self.script.write_text(script(MANIFEST))

    def seed(self, *words: str, version: str = "v1.15.3") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", self.script, "seed", "--from", version, "--state", self.state,
             "--drop-in", self.mark.parent, *words],
            capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_says_what_ran_and_marks_it_as_required(node: Node) -> None:
    for name in ("etcd.yaml", "a b.yaml", ".hidden.yaml"):
        (node.manifests / name).write_text(name)
    (node.manifests / "folder").mkdir()
    done = node.seed("--manifests", f"{node.manifests}/")
    assert done.returncode == 0, done.stderr
    assert json.loads(node.state.read_text()) == {
        "schema": 1,
        "build": "v1.15.3",
        "retired": False,
        "containers": {},
        "manifests": {
            str(node.manifests / name): {"sha256": hashlib.sha256(name.encode()).hexdigest()}
            for name in ("a b.yaml", "etcd.yaml")
        },
    }
    assert node.state.stat().st_mode & 0o777 == 0o600
    assert "NOKMEM_ADOPTION=required" in node.mark.read_text()
    assert list(node.state.parent.iterdir()) == [node.state]


def test_a_second_time_changes_nothing(node: Node) -> None:
    assert node.seed().returncode == 0
    before = node.state.read_text()
    assert node.seed().returncode == 10
    node.mark.unlink()
    assert node.seed().returncode == 0 and node.mark.exists(), "half a seed is made whole"
    assert node.state.read_text() == before
    node.state.write_text(before.replace("v1.15.3", "v1.15.3+nokmem.1"))  # it has taken over
    assert node.seed().returncode == 10


@pytest.mark.parametrize("meanwhile", ["another version", "another manifest"])
def test_what_would_not_fit_any_more_is_refused_unless_it_is_forced(
    meanwhile: str, node: Node
) -> None:
    (node.manifests / "etcd.yaml").write_text("x")
    words = ["--manifests", str(node.manifests)]
    assert node.seed(*words).returncode == 0
    before = node.state.read_text()
    version = "v1.15.3" if meanwhile == "another manifest" else "v1.16.0"
    if meanwhile == "another manifest":
        (node.manifests / "etcd.yaml").write_text("y")
    refused = node.seed(*words, version=version)
    assert refused.returncode == 20 and "--force" in refused.stdout
    assert node.state.read_text() == before
    assert node.seed(*words, "--force", version=version).returncode == 0
    assert json.loads(node.state.read_text())["build"] == version


def odd(node: Node) -> None:
    (node.manifests / 'a".yaml').touch()


def foreign(node: Node) -> None:
    node.state.write_text("something else")


def homeless(node: Node) -> None:
    node.state.parent.rmdir()


NONSENSE: dict[str, tuple[str, list[str], Callable[[Node], None] | None]] = {
    "no version": ("1.15.3", [], None),
    "another program's version": ("v2.0.0", [], None),
    "a shell's words": ("v1.15.3; reboot", [], None),
    "two lines": ('v1.15.3",\n"x": "', [], None),
    "an unknown word": ("v1.15.3", ["--froom"], None),
    "a word without its value": ("v1.15.3", ["--manifests"], None),
    "a relative folder": ("v1.15.3", ["--manifests", "manifests"], None),
    "a folder by another name": ("v1.15.3", ["--manifests", "MANIFESTS/../manifests"], None),
    "a folder that is not there": ("v1.15.3", ["--manifests", "/nowhere"], None),
    "a name that JSON cannot have": ("v1.15.3", ["--manifests", "MANIFESTS"], odd),
    "a file of somebody else's": ("v1.15.3", [], foreign),
    "no kubelet here": ("v1.15.3", [], homeless),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_refused_and_nothing_is_written(name: str, node: Node) -> None:
    version, words, prepare = NONSENSE[name]
    if prepare:
        prepare(node)
    before = node.state.read_text() if node.state.exists() else None
    done = node.seed(*(w.replace("MANIFESTS", str(node.manifests)) for w in words), version=version)
    usage = words[-1:] in (["--froom"], ["--manifests"])
    assert done.returncode == (2 if usage else 20), (done.stdout, done.stderr)
    assert ("next  nokmem-rollout help" in done.stderr) if usage else ("refused: " in done.stdout)
    assert (node.state.read_text() if node.state.exists() else None) == before
    assert not node.mark.exists()


def test_what_cannot_be_written_is_named(node: Node) -> None:
    node.mark.parent.write_text("a file where the folder should be")
    done = node.seed()
    assert done.returncode == 30 and str(node.mark.parent) in done.stdout
