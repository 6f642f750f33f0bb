"""Over to where there is no network: a bundle of a fresh clone, unpacked by tar, sets itself up,
builds and packages there out of an empty cache."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from builders.tools import process
from builders.tools.cache import Cache, sha256_of
from tests.conftest import VERSION, leave_out
from tests.e2e.conftest import MINUTES, PINNED, PROVEN, run


def make(clone: Path, built: Path, place: Path) -> Path:
    code, text = run(clone, "bundle", *PINNED, "--dist", str(built), "--output", str(place))
    assert code == 0 and f"sha256 {sha256_of(place)}" in text, text
    return place


@pytest.fixture(scope="module")
def bundle(clone: Path, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(clone, built, tmp_path_factory.mktemp("bundle") / "nokmem.tar")


@pytest.fixture(scope="module")
def away(
    request: pytest.FixtureRequest, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The project as it is on the other side, by what every machine has: tar and sha256sum."""
    if os.geteuid() != 0:
        leave_out(request, "root", "only root may cut the network off")
    folder = tmp_path_factory.mktemp("over there")
    script = (
        'tar -xf "$0" nokmem && tar -xOf "$0" SHA256SUMS | '
        "sha256sum --check --quiet --ignore-missing"
    )
    result, text = process.capture(["sh", "-c", f"cd '{folder}' && {script}", str(bundle)])
    assert result.ok, text
    return folder / "nokmem"


def cut(away: Path, *words: str, **more: str) -> tuple[int, str]:
    """A command of the project over there, in a network that has nothing, not even itself."""
    place = away.parent
    (place / "home").mkdir(exist_ok=True)
    result, text = process.capture(
        ["unshare", "--net", str(away / "run"), *words],
        environment={
            "CI": "true", "HOME": str(place / "home"), "NOKMEM_CACHE": str(place / "cache"),
            "PIP_RETRIES": "0", **more,
        },
        timeout=20 * MINUTES,
    )  # fmt: skip
    return result.exit_code, text


def test_without_its_wheels_nothing_could_be_set_up_there(away: Path) -> None:
    """The network is cut indeed."""
    (away / "wheels").rename(away / "aside")
    try:
        code, text = cut(away, "--version")
    finally:
        (away / "aside").rename(away / "wheels")
    assert code == 4 and "the requirements could not be installed" in text, text


def test_it_sets_itself_up_there_and_knows_what_it_came_with(away: Path, bundle: Path) -> None:
    code, text = cut(away, "verify", "--from-bundle", str(bundle))
    assert code == 0 and f"dist {VERSION}" in text and "checks passed" in text, text
    code, text = cut(away, "verify", "--dist", str(away / "dist" / VERSION))
    assert code == 0, text
    assert (away / "rollout/node/swap.sh").is_file()


def test_nothing_is_fetched_there(away: Path, tmp_path: Path) -> None:
    words = ("fetch", *PINNED, "--builder", "rootfs")
    code, text = cut(away, *words, NOKMEM_CACHE=str(tmp_path))
    assert code == 5, text


def test_it_builds_there_what_was_proven_and_packages_it(
    away: Path, bundle: Path, built: Path, cache: Cache
) -> None:
    """The cache over there holds nothing but what Go has compiled here, so that this takes one
    minute and not five; that is no part of what is fetched, and of what is built no byte."""
    place = away.parent
    shutil.rmtree(place / "cache", ignore_errors=True)
    (place / "cache").mkdir()
    copied = process.run(["cp", "-a", str(cache.root / "go"), str(place / "cache/go")])
    assert copied.ok, copied.tail
    words = ("--from-bundle", str(bundle), "--builder", "rootfs")
    code, text = cut(away, "build", *PINNED, *words, "--dist", str(place / "made"))
    assert code == 0, text
    made = place / "made" / VERSION
    assert {name: sha256_of(made / name) for name in PROVEN} == PROVEN
    for name in ("plan.json", "report.json"):
        assert (made / name).read_bytes() == (built / name).read_bytes(), name
    code, text = cut(away, "package", "--dist", str(made), *words)
    assert code == 0 and len(list(made.glob("*.rpm"))) == 3, text


def test_the_same_bundle_is_made_again(
    clone: Path, built: Path, bundle: Path, tmp_path: Path
) -> None:
    assert sha256_of(make(clone, built, tmp_path / "again.tar")) == sha256_of(bundle)
