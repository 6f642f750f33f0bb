"""What is half done is for its owner alone, and nothing is ever for others to write."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import tasks
from builders.model.artifact import LOG
from builders.model.plan import BuildPlan
from builders.steps import manifest
from builders.tools.cache import Cache
from tests.unit.test_manifest import write

BODY = b"content"
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def _careless() -> Iterator[None]:
    """A umask that takes nothing away, as some services have it."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def writable(folder: Path) -> list[Path]:
    """What others could write below a folder, itself included."""
    paths = [folder, *folder.rglob("*")]
    return [path for path in paths if not path.is_symlink() and mode(path) & 0o022]


def test_rooms_and_trees_are_behind_a_private_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir(mode=0o777)
    cache = Cache(tmp_path)
    with cache.run_folder() as folder:
        assert mode(folder.parent) == 0o700
    assert mode(cache.tree("x").parent) == 0o700
    assert mode(cache.go("x").parent) == 0o700


def test_a_file_is_private_until_it_is_whole(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with cache.keep(SHA256, "") as write:
        write(BODY)
        (part,) = (tmp_path / "files").iterdir()
        assert mode(part) == 0o600
    assert mode(cache.file(SHA256)) == 0o644


def test_a_result_and_its_log_are_private_until_they_are_in_place(
    tmp_path: Path, plan: BuildPlan
) -> None:
    folder = manifest.staging(tmp_path, plan.name)
    (folder / LOG).touch()
    assert mode(folder) == 0o700
    assert mode(write(tmp_path, plan)) == 0o755


def test_a_command_makes_nothing_that_others_could_write(tmp_path: Path, plan: BuildPlan) -> None:
    (tmp_path / "planted").touch()
    assert writable(tmp_path) == [tmp_path / "planted"], "the check sees nothing"
    with tasks._terminal():
        home = tmp_path / "home/.cache/nokmem"
        cache = Cache(home)
        assert cache.identity
        with cache.run_folder(), cache.keep(SHA256, "") as take:
            take(BODY)
        with manifest.hold(tmp_path / "dist", plan.name):
            write(tmp_path / "dist", plan)
    assert len(list((tmp_path / "dist").rglob("*"))) > 5
    assert writable(tmp_path) == [tmp_path / "planted"]


@pytest.mark.parametrize("umask", [0o077, 0o027])
def test_a_stricter_umask_stays(umask: int) -> None:
    os.umask(umask)
    with tasks._terminal():
        assert os.umask(umask) == umask | 0o022
