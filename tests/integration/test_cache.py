"""What is kept is listed, and a prune takes just what it says."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from builders import pipeline, survey
from builders.errors import BusyError
from builders.model.plan import BuildPlan
from builders.tools import container, rootfs
from builders.tools.builder import Limits
from builders.tools.cache import IN_USE, Cache
from tests.conftest import REQUEST, VERSION
from tests.integration import small
from tests.integration.test_bad_days import Run, engine, kind

__all__ = ["kind"]  # a fixture


@pytest.fixture
def stocked(
    rootfs_builder: rootfs.Rootfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Cache:
    """A cache with one file nobody needs, one stale tree and one killed run; no engine."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/socket")
    cache = Cache(tmp_path / "cache")
    name = hashlib.sha256(b"x").hexdigest()
    cache.file(name).parent.mkdir()
    cache.file(name).write_bytes(b"x")
    cache.tree("stale").mkdir()
    (cache.tree("stale") / "file").write_bytes(bytes(5000))
    with cache.run_folder() as folder:
        (folder / "work").mkdir()
    return cache


def kinds(cache: Cache) -> list[tuple[str, bool]]:
    return [(row.kind, row.needed) for row in survey.cache_rows(cache)]


def test_a_dry_run_touches_nothing(stocked: Cache) -> None:
    before = sorted(str(path) for path in stocked.root.rglob("*") if "locks" not in str(path))
    would = survey.prune(stocked, everything=True, dry_run=True)
    assert sorted(row.kind for row in would) == ["file", "run", "tree"]
    after = sorted(str(path) for path in stocked.root.rglob("*") if "locks" not in str(path))
    assert after == before


def test_a_prune_takes_what_it_lists(stocked: Cache) -> None:
    assert kinds(stocked) == [("file", False), ("tree", False), ("run", False)]
    assert len(survey.prune(stocked, everything=False, dry_run=False)) == 3
    assert kinds(stocked) == []
    assert list((stocked.root / "runs").iterdir()) == []


def test_what_today_needs_stays(rootfs_builder: rootfs.Rootfs, stocked: Cache) -> None:
    key = pipeline.plan(REQUEST).toolchain.key
    stocked.tree(key).mkdir()
    survey.prune(stocked, everything=False, dry_run=False)
    assert kinds(stocked) == [("tree", True)]
    survey.prune(stocked, everything=True, dry_run=False)
    assert kinds(stocked) == []


def test_git_stores_are_listed_and_stay_unless_everything_goes(stocked: Cache) -> None:
    (stocked.repository("runc.git") / "objects").mkdir(parents=True)
    survey.prune(stocked, everything=False, dry_run=False)
    assert kinds(stocked) == [("git", True)]
    survey.prune(stocked, everything=True, dry_run=False)
    assert kinds(stocked) == []


def test_nothing_is_taken_from_a_running_build(stocked: Cache) -> None:
    with stocked.lock(IN_USE, shared=True), pytest.raises(BusyError):
        survey.prune(stocked, everything=True, dry_run=False)
    assert len(kinds(stocked)) == 3


def test_an_engine_keeps_what_is_in_use(
    container_builder: container.ContainerBuilder, tmp_path: Path
) -> None:
    """Even where the lock cannot know: a build with another cache, on the same engine."""
    key = pipeline.plan(REQUEST).toolchain.key
    with container_builder.start(key, Limits()):
        other = container.ContainerBuilder(Cache(tmp_path))
        kept = [row for row in other.inventory() if row.key == key[:16]]
        assert {row.kind for row in kept} == {"image", "volume"}
        assert [other.discard(row) for row in kept] == [False, False]
        other.close()
    assert container_builder.has(key)


@dataclass(frozen=True)
class Yard:
    """A cache with the toolchain in it, and names of its own on the engine, on which others work."""

    folder: Path
    kind: str
    one: small.Small

    def run(self, *words: str, cache: str = "cache") -> Run:
        front = "import runpy; from builders.tools import container; "
        front += f"container.VOLUME = {self.prefix!r}; container.LABEL = {self.prefix!r}; "
        front += "runpy.run_path('tasks.py', run_name='__main__')"
        return Run(*words, front=front, environment={"NOKMEM_CACHE": str(self.folder / cache)})

    @property
    def prefix(self) -> str:
        return f"nokmem-test-{os.getpid()}-"

    def build(self, version: str) -> Run:
        words = ("--builder", self.kind, "--dist", str(self.folder / "dist"), *self.one.words)
        return self.run("build", "--k8s", version, *words)

    def holds(self) -> set[str]:
        """What a prune could take: trees, Go's caches, files; and volumes."""
        root = self.folder / "cache"
        found = {path.name for name in ("trees", "go", "files") for path in root.glob(f"{name}/*")}
        with engine() if self.kind == "container" else nullcontext() as client:
            volumes = client.volumes.list(filters={"name": self.prefix}) if client else []
            return found | {volume.name for volume in volumes}


@pytest.fixture
def yard(kind: str, plan: BuildPlan, cache: Cache, tmp_path: Path) -> Iterator[Yard]:
    own = Cache(tmp_path / "cache")
    if kind == "rootfs":
        tree = cache.tree(plan.toolchain.key)
        subprocess.run(["cp", "-a", str(tree), str(own.tree(tree.name))], check=True)
    own.tree("stale").mkdir()
    one = Yard(tmp_path, kind, small.make(tmp_path, kubelet="sleep 9"))
    yield one
    assert one.run("cache.prune", "--everything").end() == 0
    assert one.holds() == set()


def test_a_prune_takes_nothing_from_builds_and_they_end_well(yard: Yard, plan: BuildPlan) -> None:
    """By the cache's lock, and from another cache by the
    engine itself."""
    first = yard.build(VERSION)
    first.wait_for("compile kubelet")
    second = yard.build("v1.20.4")
    second.wait_for("compile kubelet")
    before = yard.holds()
    assert "stale" in before and len(before) >= 2
    for words in (("cache.prune",), ("cache.prune", "--everything")):
        prune = yard.run(*words)
        assert prune.end() == 10 and "busy" in prune.text, prune.text
        other = yard.run(*words, cache="other")
        assert other.end() == 0, other.text
    assert yard.holds() == before
    assert first.end() == 0, first.text
    assert second.end() == 0, second.text
    after = yard.run("cache.prune")
    assert after.end() == 0, after.text
    assert yard.holds() == {name for name in before if plan.toolchain.key[:16] in name}
