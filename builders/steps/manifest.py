"""Binaries and report -> a dist folder, and back: what stands in one, declared and compared.

A folder is written beside its place and exchanged with the earlier one in a single rename,
where the filesystem can do that; elsewhere in two.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema

from builders import __version__
from builders.errors import MachineError, ProofError
from builders.model.artifact import (
    LOG,
    MANIFEST,
    MANIFEST_SCHEMA,
    PLAN,
    REPORT,
    SUMS,
    Binary,
    CheckReport,
    Manifest,
)
from builders.model.plan import BuildPlan
from builders.tools.cache import locked, sha256_of

SCHEMA_FILE = Path(__file__).parents[1] / "model/manifest.schema.json"
AT_FDCWD = -100
RENAME_EXCHANGE = 2


@contextmanager
def hold(dist: Path, name: str) -> Iterator[None]:
    """Keep the place of dist/<name> to this run; BusyError where another run has it."""
    try:
        dist.mkdir(parents=True, exist_ok=True)
        file = (dist / f".{name}.lock").open("a")
    except OSError as error:
        raise MachineError(
            f"dist cannot be written: {error.strerror}",
            place=str(dist),
            next_step="give another folder with --dist",
        ) from error
    with file, locked(file, f"{dist / name}", wait=False):
        yield


def staging(dist: Path, name: str) -> Path:
    """A new folder beside the place of dist/<name>, on the same filesystem; nobody else may enter
    it until it is put in place.

    The caller holds the lock of that place: what killed runs left beside it is removed.
    """
    for rubbish in dist.glob(f".{name}.*.partial"):
        shutil.rmtree(rubbish)
    path = dist / f".{name}.{secrets.token_hex(4)}.partial"
    dist.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700)
    return path


def describe(
    plan: BuildPlan,
    binaries: Iterable[Binary],
    folder: Path,
    builder: str,
    profile: Iterable[tuple[str, float]] = (),
) -> Manifest:
    """The manifest of a staged folder that already holds plan, report and binaries; `profile` has
    the seconds that each phase took."""
    components = {component.name: component for component in plan.components}
    rows = []
    for binary in sorted(binaries, key=lambda binary: binary.name):
        component = components[binary.name]
        rows.append(
            {
                "name": binary.name,
                "version": component.version,
                "sha256": binary.sha256,
                "size": binary.size,
                "linking": component.linking,
                "go": component.go,
                "tags": list(component.tags),
                "prints": list(component.prints),
                "source": {
                    "provider": component.source.provider,
                    "revision": component.source.revision,
                    "commit": component.source.commit,
                    "patches": [dict(patch) for patch in component.source.patches],
                    "files": {
                        row["path"].rpartition("/")[2]: row["sha256"]
                        for row in component.source.files
                    },
                },
            }
        )
    return Manifest(
        {
            "schema": MANIFEST_SCHEMA,
            "nokmem": __version__,
            "request": json.loads(json.dumps(dataclasses.asdict(plan.request))),
            "kubernetes": plan.kubernetes,
            "kubernetes_commit": plan.kubernetes_commit,
            "variant": plan.variant,
            "mechanism": plan.mechanism,
            "target": plan.target.name,
            "epoch": plan.epoch,
            "builder": builder,
            "profile": [{"phase": title, "seconds": round(s, 1)} for title, s in profile],
            "toolchain": {
                "name": plan.toolchain.name,
                "key": plan.toolchain.key,
                "go": [
                    {"version": go.version, "package": go.package, **go.archive}
                    for go in plan.toolchain.go
                ],
            },
            "go_official": plan.go_official,
            "deviations": list(plan.deviations),
            "binaries": rows,
            "files": {
                name: {"sha256": sha256_of(folder / name), "size": (folder / name).stat().st_size}
                for name in (PLAN, REPORT)
            },
            "logs": [LOG],
        }
    )


def put_in_place(folder: Path, dist: Path, plan: BuildPlan, manifest: Manifest) -> Path:
    """Finish a staged folder and put it in its place; returns that place."""
    (folder / MANIFEST).write_text(manifest.to_json())
    names = sorted(path.name for path in folder.iterdir())
    (folder / SUMS).write_text("".join(f"{sha256_of(folder / n)}  {n}\n" for n in names))
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    folder.chmod(0o755)
    place = dist / plan.name
    if not os.path.lexists(place):
        folder.rename(place)
        return place
    if place.is_symlink() or not place.is_dir():
        raise MachineError(
            "what stands in the place of the result is not a folder",
            place=str(place),
            next_step="move it away, then build again",
        )
    _exchange(folder, place)
    shutil.rmtree(folder)
    return place


def write_plan_and_report(folder: Path, plan: BuildPlan, report: CheckReport) -> None:
    (folder / PLAN).write_text(plan.to_json())
    (folder / REPORT).write_text(report.to_json())


def read(folder: Path) -> Manifest:
    """The manifest of a dist folder, valid by schema and true of every file, both ways.

    Raises ProofError on the first sort of difference, naming all files concerned. The
    binaries' own hashes are left to the checks, which report them one by one.
    """
    manifest = Manifest.read(folder)
    try:
        jsonschema.validate(manifest.data, json.loads(SCHEMA_FILE.read_text()))
    except jsonschema.ValidationError as error:
        raise ProofError(
            f"the manifest is malformed at {error.json_path}: {error.message}",
            place=str(folder / MANIFEST),
            next_step="build this version again",
        ) from error
    binaries = {row["name"]: row["sha256"] for row in manifest.data["binaries"]}
    logs = set(manifest.data["logs"])
    files: Mapping[str, Any] = manifest.data["files"]
    declared = set(binaries) | logs | set(files) | {MANIFEST, SUMS}
    present = {path.name for path in folder.iterdir()}
    _refuse(declared - present, "missing", folder)
    _refuse(present - declared, "not declared by the manifest", folder)
    _refuse({p.name for p in folder.iterdir() if not p.is_file() or p.is_symlink()},
            "not a plain file", folder)  # fmt: skip
    changed = {name for name, row in files.items() if sha256_of(folder / name) != row["sha256"]}
    _refuse(changed, "changed since the build", folder)
    sized = {row["name"]: row["size"] for row in manifest.data["binaries"]}
    sized |= {name: row["size"] for name, row in files.items()}
    odd = {name for name, size in sized.items() if (folder / name).stat().st_size != size}
    _refuse(odd, "not of the size that the manifest says", folder)
    _refuse(_sums_differences(folder, declared - {SUMS}, binaries), f"not as {SUMS} says", folder)
    return manifest


def _sums_differences(folder: Path, declared: set[str], binaries: Mapping[str, str]) -> set[str]:
    """Names that SHA256SUMS lists otherwise; of a binary, otherwise than the manifest does."""
    listed = {}
    for line in (folder / SUMS).read_text(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    wrong = set(listed) ^ declared
    return wrong | {
        name
        for name in declared & set(listed)
        if listed[name] != (binaries.get(name) or sha256_of(folder / name))
    }


def _refuse(names: set[str], what: str, folder: Path) -> None:
    if names:
        raise ProofError(
            f"{', '.join(sorted(names))}: {what}",
            place=str(folder),
            next_step="build this version again, or restore the folder",
        )


def _exchange(left: Path, right: Path) -> None:
    """Swap two folders in one step (renameat2, Linux 3.15 and later)."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        if renameat2(AT_FDCWD, bytes(left), AT_FDCWD, bytes(right), RENAME_EXCHANGE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code), str(right))
    # Some C libraries and filesystems cannot exchange: two renames, and the earlier folder is
    # never deleted before the new one is in place.
    aside = right.with_name(f"{left.name}.old")
    right.rename(aside)
    left.rename(right)
    aside.rename(left)
