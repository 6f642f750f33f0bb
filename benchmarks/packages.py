"""Packages and their repository: `python -m benchmarks.packages dist/v1.20.2`, a few minutes.

A repository of many versions holds the packages of this one under many names: of each, all is read
and hashed as if it were another.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import run, said, table
from builders.model.artifact import Manifest
from builders.steps import repository

FRONT = (sys.executable, "tasks.py")
FEW, MANY = 10, 50
URL = "https://yum.example/nokmem"


def filled(dist: Path, versions: int) -> tuple[float, float]:
    """Seconds to make a repository of so many versions in one run, and to add one more to it."""
    manifest = Manifest.read(dist)
    with tempfile.TemporaryDirectory() as name:
        folder, sources = Path(name) / "repo", []
        for number in range(versions + 1):
            source, rows = Path(name) / f"{number}", []
            source.mkdir()
            for row in manifest.data["packages"]:
                file = f"{number}-{row['file']}"
                shutil.copyfile(dist / row["file"], source / file)
                rows.append({**row, "file": file})
            sources.append((source, Manifest({**manifest.data, "packages": rows})))
        took = []
        with repository.hold(folder):
            for some in (sources[:-1], sources[-1:]):
                began = time.monotonic()
                repository.grow(folder, some, None, URL)
                took.append(time.monotonic() - began)
        return took[0], took[1]


def main(dist: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / Path(dist).name
        shutil.copytree(dist, copy)
        made = run((*FRONT, "package", "--dist", str(copy)))
        kept = run((*FRONT, "repo", "--dist", str(copy), "--folder", f"{name}/repo", "--url", URL))
        few, many = (filled(copy, versions) for versions in (FEW, MANY))
    table(
        [
            ("`package` and `repo`, one version", f"{made.seconds + kept.seconds:.1f} s", "15 s",
             f"{said(made)}; {said(kept)}"),
            (f"a repository of {MANY} versions, by one of {FEW}",
             f"{many[0] / few[0]:.1f} times", f"{MANY // FEW} times",
             f"{many[0]:.1f} s; {few[0]:.1f} s; one more takes {many[1]:.1f} s and {few[1]:.1f} s"),
        ]
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
