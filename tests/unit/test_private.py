"""What is half done is for its owner alone, and nothing is ever for others to write."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tasks
from builders.model.artifact import LOG
from builders.model.plan import BuildPlan
from builders.steps import manifest
from builders.tools import archives
from builders.tools.cache import Cache
from builders.tools.download import Downloader
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


def test_a_download_is_private_until_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def stream(_self: Downloader, _url: str, write: Any, *_: object) -> str:
        write(BODY)
        seen.extend(mode(path) for path in tmp_path.iterdir())
        return SHA256

    monkeypatch.setattr(Downloader, "_stream", stream)
    Downloader().fetch("http://h/x", tmp_path / "file", sha256=SHA256)
    assert (seen, mode(tmp_path / "file")) == ([0o600], 0o644)


def test_a_copy_is_private_until_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def sha256_of(path: Path) -> str:
        seen.append(mode(path.parent))
        return SHA256

    (tmp_path / "x.tar").write_bytes(BODY)
    cache = Cache(tmp_path / "cache")
    monkeypatch.setattr(archives, "sha256_of", sha256_of)
    with Downloader() as downloader:
        archives.obtain(cache, SHA256, [str(tmp_path / "x.tar")], downloader, lambda _: None)
    assert (seen, mode(cache.file(SHA256))) == ([0o700], 0o644)


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
        (tmp_path / "x.tar").write_bytes(BODY)
        with cache.run_folder(), Downloader() as downloader:
            archives.obtain(cache, SHA256, [str(tmp_path / "x.tar")], downloader, lambda _: None)
        with manifest.hold(tmp_path / "dist", plan.name):
            write(tmp_path / "dist", plan)
    assert len(list((tmp_path / "dist").rglob("*"))) > 5
    assert writable(tmp_path) == [tmp_path / "planted"]


@pytest.mark.parametrize("umask", [0o077, 0o027])
def test_a_stricter_umask_stays(umask: int) -> None:
    os.umask(umask)
    with tasks._terminal():
        assert os.umask(umask) == umask | 0o022
