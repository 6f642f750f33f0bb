"""What a bundle says of itself, and what reaches the cache of one that is not as it should be."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders import pipeline
from builders.errors import IntegrityError, ProofError, UnavailableError
from builders.model.plan import BuildPlan, BuildRequest
from builders.steps import bundle
from builders.steps.bundle import About
from builders.steps.sources import Places
from builders.supply import Options
from builders.tools.cache import Cache
from builders.tools.parcel import Item
from builders.tools.terminal import Terminal
from tests.unit.test_manifest import write as write_dist

ABOUT = About("1" * 40, "3.11", ("--k8s=v1.20.2",), {}, (), ())
CONTENTS = (b"one", b"another" * 1000, b"")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def quiet(_: int) -> None:
    pass


def items(folder: Path, named: dict[str, bytes]) -> list[Item]:
    folder.mkdir(exist_ok=True)
    found = []
    for name, content in named.items():
        path = folder / sha256(name.encode())
        path.write_bytes(content)
        found.append(Item(name, path))
    return found


def make(folder: Path, named: dict[str, bytes] | None = None, about: About = ABOUT) -> Path:
    files = {f"{bundle.FILES}/{sha256(one)}": one for one in CONTENTS}
    project = {f"{bundle.PROJECT}/run": b"#!/bin/sh\n"}
    place = folder / "nokmem.tar"
    listed = items(folder / "in", {**files, **project, **(named or {})})
    bundle.write(place, about, listed, 7, quiet)
    return place


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path / "cache")
    with cache.keep(sha256(b"there"), "") as write:
        write(b"there")
    return cache


def state(cache: Cache) -> dict[str, bytes]:
    """All that lies in a cache, but for the files of locks."""
    return {
        str(path.relative_to(cache.root)): path.read_bytes()
        for path in cache.root.rglob("*")
        if path.is_file() and path.parent.name != "locks"
    }


def take(place: Path, cache: Cache) -> About | None:
    options = Options(Places({}), offline=True, bundle=place)
    return pipeline.unbundle(options, cache, Terminal(ci=True))


def test_all_files_of_it_are_in_the_cache_then_and_what_was_there_stays(
    cache: Cache, tmp_path: Path
) -> None:
    about = take(make(tmp_path), cache)
    assert about == ABOUT
    assert {path.name for path in cache.files()} == set(map(sha256, (*CONTENTS, b"there")))
    assert all(cache.holds(path.name) for path in cache.files())
    assert not list((cache.root / "runs").iterdir())
    before = state(cache)
    assert take(tmp_path / "nokmem.tar", cache) == ABOUT
    assert state(cache) == before


def test_without_one_nothing_is_read(cache: Cache) -> None:
    assert pipeline.unbundle(Options(Places({})), cache, Terminal(ci=True)) is None


def _cut(content: bytes) -> bytes:
    return content[:-10240]


def _flip_last_content(content: bytes) -> bytes:
    at = content.rindex(b"#!/bin/sh")
    return content[:at] + b"?" + content[at + 1 :]


def _other_schema(content: bytes) -> bytes:
    return content.replace(b'"schema": 1', b'"schema": 2')


def _append(content: bytes) -> bytes:
    return content + b"more"


@pytest.mark.parametrize("harm", [_cut, _flip_last_content, _other_schema, _append])
def test_nothing_of_a_bundle_that_is_not_whole_reaches_the_cache(
    harm: Callable[[bytes], bytes], cache: Cache, tmp_path: Path
) -> None:
    """What is wrong comes last, when all else was read."""
    place, before = make(tmp_path), state(cache)
    place.write_bytes(harm(place.read_bytes()))
    with pytest.raises(IntegrityError) as caught:
        take(place, cache)
    assert caught.value.place == str(place)
    assert state(cache) == before
    assert not list((cache.root / "runs").iterdir())


@pytest.mark.parametrize(
    ("named", "about"),
    [
        ({f"{bundle.FILES}/{'0' * 64}": b"not that"}, {}),
        ({f"{bundle.FILES}/x/y": b""}, {}),
        ({"etc/passwd": b""}, {}),
        ({f"{bundle.GIT}/kubelet.pack": b""}, {}),
        ({}, {"repositories": {"kubelet": {"v1.15.3": "1" * 40}}}),
        ({}, {"repositories": {"other": {"v1.15.3": "1" * 40}}}),
        ({f"{bundle.GIT}/kubelet.pack": b""}, {"repositories": {"kubelet": {"--x": "1" * 40}}}),
        ({f"{bundle.GIT}/kubelet.pack": b""}, {"repositories": {"kubelet": {"v1": "--x"}}}),
        ({}, {"dists": ("v1.20.2",)}),
        ({}, {"dists": ("../v1.20.2",)}),
        ({f"{bundle.DIST}/v1.20.2/runc": b""}, {}),
        ({f"{bundle.DIST}/v1.20.2/x/runc": b""}, {"dists": ("v1.20.2",)}),
        ({}, {"keys": ("A" * 40,)}),
        ({}, {"commit": "main"}),
        ({}, {"made_for": (7,)}),
    ],
)
def test_a_file_that_is_whole_but_no_bundle_of_ours_is_refused(
    named: dict[str, bytes], about: dict[str, Any], cache: Cache, tmp_path: Path
) -> None:
    place, before = make(tmp_path, named, dataclasses.replace(ABOUT, **about)), state(cache)
    with pytest.raises(IntegrityError, match="no bundle of nokmem's is like this"):
        take(place, cache)
    assert state(cache) == before


def test_a_bundle_of_another_schema_says_what_reads_it(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "SCHEMA", 2)
    place = make(tmp_path)
    monkeypatch.undo()
    with pytest.raises(IntegrityError, match="schema 2 is not 1") as caught:
        take(place, cache)
    assert caught.value.next_step.endswith("tar -xf nokmem.tar nokmem")


def test_a_bundle_that_is_not_there(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="no such file"):
        take(tmp_path / "none.tar", cache)


def test_its_dist_folders_are_proven_with_it(cache: Cache, tmp_path: Path, plan: BuildPlan) -> None:
    """These are no binaries: the folder is as its manifest says, and does not pass."""
    folder = write_dist(tmp_path / "dist", plan)
    listed = {f"{bundle.DIST}/v1.20.2/{p.name}": p.read_bytes() for p in folder.iterdir()}
    place = make(tmp_path, listed, dataclasses.replace(ABOUT, dists=("v1.20.2",)))
    before = state(cache)
    with pytest.raises(ProofError, match="checks failed") as caught:
        pipeline.verify_bundle(place, cache, Terminal(ci=True))
    assert "kubelet architecture: not a readable ELF file" in caught.value.detail
    assert state(cache) == before


def test_a_bundle_without_any_says_what_it_holds(cache: Cache, tmp_path: Path) -> None:
    about, rows = pipeline.verify_bundle(make(tmp_path), cache, Terminal(ci=True))
    assert about == ABOUT
    assert dict(rows)["sources and tools"] == "3 files, 0.0 MB"
    assert dict(rows)["Python packages"].endswith("for Python 3.11")


def test_a_full_disk_leaves_the_cache_as_it_was(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, before = make(tmp_path), state(cache)
    opened = Path.open

    def full(self: Path, mode: str = "r", *more: Any, **words: Any) -> Any:
        if mode == "xb":
            raise OSError(28, "No space left on device", str(self))
        return opened(self, mode, *more, **words)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        take(place, cache)
    monkeypatch.undo()
    assert state(cache) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "--k8s=v1.15.3 --runc=1.0.0-rc10 --toolchain=debian --go=1.12.9 --k8s-source=git "
             "--runc-source=git"),
        ({"kubernetes_source": "dir", "runc_source": "archive"},
         "--k8s=v1.15.3 --runc=1.0.0-rc10 --toolchain=debian --go=1.12.9 --k8s-source=git"),
        ({"runc_tags": ("seccomp", "selinux"), "stamp": True, "variant": "stock"},
         "--k8s=v1.15.3 --variant=stock --runc=1.0.0-rc10 --toolchain=debian --go=1.12.9 "
         "--k8s-source=git --runc-source=git '--runc-tags=seccomp selinux' --stamp"),
    ],
)  # fmt: skip
def test_the_words_ask_for_just_that(change: dict[str, Any], words: str) -> None:
    request = BuildRequest(
        "v1.15.3", runc="1.0.0-rc10", kubernetes_source="git", runc_source="git",
        toolchain="debian", go="1.12.9",
    )  # fmt: skip
    assert bundle.words(dataclasses.replace(request, **change)) == words


def test_a_plan_needs_its_sources_and_its_toolchain(plan: BuildPlan) -> None:
    needed = bundle.files([plan], [plan.toolchain])
    assert {row["sha256"] for row in plan.toolchain.packages} < needed
    assert all(row["sha256"] in needed for c in plan.components for row in c.source.files)
