"""Binaries and report -> a dist folder, and back: what stands in one, declared and compared.

A folder is written beside its place and exchanged with the earlier one in a single rename,
where the filesystem can do that; elsewhere in two.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    PACKAGES_PROVENANCE,
    PLAN,
    PROVENANCE,
    REPORT,
    SBOM,
    SCRIPT,
    SIGNATURE,
    SUMS,
    Binary,
    Check,
    CheckReport,
    Manifest,
    Package,
)
from builders.model.packages import payload, rpm_version
from builders.model.plan import BuildPlan
from builders.model.reading import differences
from builders.tools.cache import locked, sha256_of
from builders.tools.files import exchange

#: What a build leaves beside binaries and log.
BUILT = (PLAN, REPORT, SCRIPT, SBOM, PROVENANCE)
SCHEMA_FILE = Path(__file__).parents[1] / "model/manifest.schema.json"


@contextmanager
def hold(dist: Path, name: str) -> Iterator[None]:
    """Keep the place of dist/<name> to this run, and remove what killed runs left beside it;
    BusyError where another run has it."""
    try:
        dist.mkdir(parents=True, exist_ok=True)
        file = (dist / f".{name}.lock").open("a")
    except OSError as error:
        taken = isinstance(error, FileExistsError)
        raise MachineError(
            f"dist cannot be written: {'a file stands there' if taken else error.strerror}",
            place=str(dist),
            next_step="give another folder with --dist",
        ) from error
    with file, locked(file, f"{dist / name}", wait=False):
        for rubbish in dist.glob(f".{name}.*.partial"):
            shutil.rmtree(rubbish)
        yield


def staging(dist: Path, name: str) -> Path:
    """A new folder beside the place of dist/<name>, on the same filesystem; nobody else may enter
    it until it is put in place."""
    path = dist / f".{name}.{secrets.token_hex(4)}.partial"
    dist.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700)
    return path


def describe(
    plan: BuildPlan,
    binaries: Iterable[Binary],
    builder: str,
    profile: Iterable[tuple[str, float]] = (),
) -> Manifest:
    """The manifest of a build, yet without the files beside its binaries; `profile` has the seconds
    that each phase took."""
    components = {component.name: component for component in plan.components}
    rows = []
    for binary in sorted(binaries, key=lambda binary: binary.name):
        component = components[binary.name]
        rows.append(
            {
                "name": binary.name,
                "version": component.version,
                "build": component.build,
                "package": f"{binary.name}-nokmem-{rpm_version(component.version)}",
                "payload": payload(binary.name, component.version),
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
            "node": {"machine": plan.target.machine_name, "glibc": plan.target.glibc},
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
            "files": {},
            "logs": [LOG],
            "packages": [],
        }
    )


def _file(path: Path) -> dict[str, str | int]:
    return {"sha256": sha256_of(path), "size": path.stat().st_size}


def with_files(manifest: Manifest, folder: Path, names: Iterable[str] = BUILT) -> Manifest:
    """The same manifest with more files of the folder."""
    files = {name: _file(folder / name) for name in names}
    return Manifest({**manifest.data, "files": {**manifest.data["files"], **files}})


def with_packages(manifest: Manifest, packages: Iterable[Package]) -> Manifest:
    """The manifest of the same build with these packages, and no others."""
    rows = [{**dataclasses.asdict(package), "file": package.path.name} for package in packages]
    for row in rows:
        del row["path"]
    files = {name: manifest.data["files"][name] for name in BUILT}
    rows.sort(key=lambda row: str(row["file"]))
    return Manifest({**manifest.data, "files": files, "packages": rows})


def copy(manifest: Manifest, place: Path, folder: Path) -> None:
    """Put what the build itself left in a dist folder into a staged one."""
    binaries = [row["name"] for row in manifest.data["binaries"]]
    for name in (*binaries, *BUILT, *manifest.data["logs"]):
        shutil.copy2(place / name, folder / name)


def put_in_place(
    folder: Path,
    place: Path,
    manifest: Manifest,
    sign: Callable[[Path], object] = lambda _: None,
) -> Path:
    """Finish a staged folder and put it in its place beside it; returns that place. `sign` may
    write SHA256SUMS.asc beside SHA256SUMS."""
    (folder / MANIFEST).write_text(manifest.to_json())
    names = sorted(path.name for path in folder.iterdir())
    (folder / SUMS).write_text("".join(f"{sha256_of(folder / n)}  {n}\n" for n in names))
    sign(folder / SUMS)
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    folder.chmod(0o755)
    if not os.path.lexists(place):
        folder.rename(place)
        return place
    if place.is_symlink() or not place.is_dir():
        raise MachineError(
            "what stands in the place of the result is not a folder",
            place=str(place),
            next_step="move it away, then build again",
        )
    exchange(folder, place)
    shutil.rmtree(folder)
    return place


def write_script(folder: Path, text: str) -> None:
    (folder / SCRIPT).write_text(text, encoding="utf-8")
    (folder / SCRIPT).chmod(0o755)


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
    packages = {row["file"]: row for row in manifest.data["packages"]}
    files: Mapping[str, Any] = {**manifest.data["files"], **packages}
    declared = set(binaries) | logs | set(files) | {MANIFEST, SUMS}
    present = {path.name for path in folder.iterdir()}
    if any(row["signed_by"] for row in packages.values()):
        declared.add(SIGNATURE)
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
    _refuse(
        _sums_differences(folder, declared - {SUMS, SIGNATURE}, binaries),
        f"not as {SUMS} says",
        folder,
    )
    return manifest


def plan(folder: Path) -> BuildPlan:
    """The plan that lies in a dist folder; ProofError where it is none."""
    path = folder / PLAN
    try:
        return BuildPlan.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ProofError(
            f"the plan cannot be read: {error}",
            place=str(path),
            next_step="build this version again",
        ) from error


def check(manifest: Manifest, plan: BuildPlan, binaries: Iterable[Binary], folder: Path) -> Check:
    """Whether a manifest says of a build what its plan and what lies in its folder say."""
    said, packages = dict(manifest.data), manifest.data["packages"]
    profile = [(row["phase"], row["seconds"]) for row in said["profile"]]
    described = describe(plan, binaries, said["builder"], profile)
    built = dict(with_files(described, folder).data)
    if packages:
        built["files"] = {
            **built["files"],
            PACKAGES_PROVENANCE: said["files"].get(PACKAGES_PROVENANCE),
        }
    built |= {name: said[name] for name in ("nokmem", "packages")}
    others = list(differences(said, built))
    return Check(
        MANIFEST,
        "content",
        not others,
        f"not what the plan says: {', '.join(others[:3])}" if others else "as plan and files are",
        "build this version again",
    )


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
