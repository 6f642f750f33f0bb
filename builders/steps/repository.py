"""Dist folders with packages -> a yum repository, which only grows, and changes in one step."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from builders.errors import MachineError, PackageError
from builders.model.artifact import Manifest
from builders.tools import yum
from builders.tools.cache import locked, sha256_of
from builders.tools.files import exchange
from builders.tools.gpg import Signer
from builders.tools.render import render

TEMPLATE = Path(__file__).parents[1] / "templates/nokmem.repo.j2"
PACKAGES, INDEX, KEY, REPO = "packages", "repodata", "RPM-GPG-KEY-nokmem", "nokmem.repo"
MACHINES = ("x86_64", "noarch")


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep a repository to this run, and remove what killed runs left in it; BusyError where
    somebody else is writing it."""
    try:
        (folder / PACKAGES).mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise MachineError(
            f"the repository cannot be written: {error.strerror}",
            place=str(folder),
            next_step="give another folder with --folder",
        ) from error
    with file, locked(file, f"the repository {folder}", wait=False):
        for rubbish in folder.glob(".*.partial"):
            shutil.rmtree(rubbish)
        yield


def address(folder: Path, url: str) -> str:
    """Where nodes find a repository: as given, else as its nokmem.repo says, else the folder."""
    place = folder / REPO
    text = place.read_text(encoding="utf-8", errors="replace") if place.is_file() else ""
    named = re.search("^baseurl=(.+)$", text, re.M)
    return url or (named[1] if named else folder.resolve().as_uri())


def grow(
    folder: Path, dists: Iterable[tuple[Path, Manifest]], signer: Signer | None, url: str
) -> tuple[int, int]:
    """Add the packages of proven dist folders, those that are not there, and make of all in the
    repository what yum can use; how many came, and how many there are.

    All is checked, and indexed, beside the repository: what is refused leaves it as it was. With a
    signer every package must have its signature, and the index gets one. Readers see the earlier
    index or the new one; what the earlier one names stays until the next.
    """
    if signer is None and (folder / KEY).exists():
        raise PackageError(
            "this repository is signed, and its nodes expect that",
            place=str(folder),
            next_step="give its key with --sign, or another folder",
        )
    stage = folder / f".{secrets.token_hex(4)}.partial"
    (stage / PACKAGES).mkdir(parents=True)
    try:
        for path in (folder / PACKAGES).glob("*.rpm"):
            (stage / PACKAGES / path.name).symlink_to(f"../../{PACKAGES}/{path.name}")
        for dist, manifest in dists:
            _stage(stage, dist, manifest)
        packages = sorted((stage / PACKAGES).iterdir())
        _index(stage, packages, signer, url)
        new = [path for path in packages if not path.is_symlink()]
        for path in new:
            path.rename(folder / PACKAGES / path.name)
        _show(stage, folder)
    finally:
        shutil.rmtree(stage)
    return len(new), len(packages)


def _stage(stage: Path, dist: Path, manifest: Manifest) -> None:
    """Put the packages of a dist folder beside those that are in a repository; PackageError where
    there are none, or where another file stands under the name of one."""
    rows = manifest.data["packages"]
    if not rows:
        raise PackageError(
            "there are no packages in this dist folder",
            place=str(dist),
            next_step=f"./run package --dist {dist}",
        )
    for row in rows:
        place = stage / PACKAGES / row["file"]
        if not place.exists():
            shutil.copyfile(dist / row["file"], place)
            os.utime(place, (manifest.data["epoch"],) * 2)
        there = sha256_of(place)
        if there != row["sha256"]:
            raise PackageError(
                f"another package is there as {row['file']}: {there[:16]}, not "
                f"{row['sha256'][:16]}",
                place=str(dist),
                next_step="package it as another release: ./run package --release 2",
            )


def _index(stage: Path, packages: list[Path], signer: Signer | None, url: str) -> None:
    """Check all packages, and write index, key and nokmem.repo of them into the same folder."""
    if signer is not None:
        signer.check_rpms(packages)
        (stage / KEY).write_bytes(signer.public())
    machines = yum.index(stage, max((int(p.stat().st_mtime) for p in packages), default=0))
    foreign = sorted(path for path, machine in machines.items() if machine not in MACHINES)
    if foreign:
        raise PackageError(
            f"{', '.join(foreign)}: not for {' or '.join(MACHINES)}",
            place=PACKAGES,
            next_step="take it out: EL7 has no other machines",
        )
    if signer is not None:
        signer.detach(stage / INDEX / "repomd.xml")
    text = render(TEMPLATE, url=url.rstrip("/"), signed=signer is not None, key=KEY)
    (stage / REPO).write_text(text)


def _show(stage: Path, folder: Path) -> None:
    """Let readers see the new index; what it names is in place."""
    for name in (KEY, REPO):
        if (stage / name).exists():
            (stage / name).replace(folder / name)
    place = folder / INDEX
    if place.exists():
        _keep(place, stage / INDEX)
        exchange(stage / INDEX, place)
    else:
        (stage / INDEX).rename(place)


def _keep(earlier: Path, index: Path) -> None:
    """Put beside a new index the files that the earlier one names: somebody may be reading it."""
    named = (earlier / "repomd.xml").read_text()
    for path in earlier.iterdir():
        if path.name in named and not (index / path.name).exists():
            shutil.copy2(path, index / path.name)
