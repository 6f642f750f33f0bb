"""Files by content, locks that die with their holder."""

from __future__ import annotations

import hashlib
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from builders import survey
from builders.errors import BusyError, MachineError
from builders.tools.builder import Kept
from builders.tools.cache import Cache


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_a_damaged_file_is_not_held_and_goes(cache: Cache) -> None:
    name = hashlib.sha256(b"right").hexdigest()
    cache.file(name).parent.mkdir()
    cache.file(name).write_bytes(b"right")
    assert cache.holds(name)
    cache.file(name).write_bytes(b"wrong")
    assert not cache.holds(name)
    assert not cache.file(name).exists()


def test_what_a_killed_run_left_half_written_goes_and_what_a_living_one_writes_stays(
    cache: Cache,
) -> None:
    name = hashlib.sha256(b"whole").hexdigest()
    with cache.keep(name, "") as write:
        (cache.root / "files/.part-killed").write_bytes(b"half")
        write(b"wh")
        cache.sweep()
        (part,) = (cache.root / "files").iterdir()
        assert part.name != ".part-killed"
        write(b"ole")
    assert [path.name for path in (cache.root / "files").iterdir()] == [name]
    assert cache.holds(name)


def test_a_taken_lock_is_said_and_freed_at_the_end(cache: Cache) -> None:
    with cache.lock("one", wait=False), pytest.raises(BusyError), cache.lock("one", wait=False):
        pass
    with cache.lock("one", wait=False):
        pass


def test_shared_holders_keep_a_lone_one_out(cache: Cache) -> None:
    with (
        cache.lock("x", shared=True),
        cache.lock("x", shared=True, wait=False),
        pytest.raises(BusyError),
        cache.lock("x", wait=False),
    ):
        pass


def test_a_run_folder_is_abandoned_only_when_its_run_is_over(cache: Cache) -> None:
    with cache.run_folder() as folder:
        assert list(cache.abandoned()) == []
        assert cache.is_running(folder.name)
    assert list(cache.abandoned()) == [folder]
    assert not cache.is_running(folder.name)
    folder.rmdir()
    assert list(cache.abandoned()) == []
    assert list((cache.root / "runs").iterdir()) == []


def test_a_cache_that_cannot_be_made_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError) as caught:
        Cache(tmp_path / "file/cache")
    assert "NOKMEM_CACHE" in caught.value.next_step


@pytest.mark.parametrize("name", ["", "git", "locks"])
def test_a_cache_of_somebody_elses_is_not_taken(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir(exist_ok=True)
    foreign, look = tmp_path / name, Path.stat

    def stat(path: Path, **how: bool) -> os.stat_result:
        found = list(look(path, **how))
        found[4] += path == foreign
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(MachineError, match="somebody else's") as caught:
        Cache(tmp_path)
    assert caught.value.place == str(foreign) and "NOKMEM_CACHE" in caught.value.next_step


def test_default_place(tmp_path: Path) -> None:
    assert Cache.default({"NOKMEM_CACHE": str(tmp_path / "n")}).root == tmp_path / "n"
    assert Cache.default({"XDG_CACHE_HOME": str(tmp_path)}).root == tmp_path / "nokmem"


class Engine:
    """One that keeps a volume while a container of a killed run has it."""

    def __init__(self) -> None:
        self.containers = 1

    def inventory(self) -> list[Kept]:
        return [Kept("volume", "nokmem-go-1", 1, "1")]

    def discard(self, _: Kept) -> bool:
        return not self.containers

    def sweep(self) -> int:
        self.containers = 0
        return 1


def test_a_prune_takes_what_only_a_killed_run_held(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine()
    monkeypatch.setattr(survey, "_present", lambda _: nullcontext([engine]))
    assert len(survey.prune(cache, everything=True, dry_run=True)) == engine.containers == 1
    assert [row.kind for row in survey.prune(cache, everything=True, dry_run=False)] == ["volume"]
