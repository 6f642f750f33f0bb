"""What is kept is listed, and a prune takes just what it says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from builders import pipeline, survey
from builders.errors import BusyError
from builders.tools import container, rootfs
from builders.tools.builder import Limits
from builders.tools.cache import IN_USE, Cache
from tests.conftest import REQUEST


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
