"""Proven binaries -> RPMs, by rpmbuild in the builder's room, and what EL7 would refuse in them."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from builders.errors import PackageError
from builders.model.artifact import Package
from builders.model.packages import PackagePlan, Platform
from builders.model.plan import TMP
from builders.tools.builder import WORK, Session
from builders.tools.cache import CHUNK, sha256_of
from builders.tools.gpg import Signer
from builders.tools.render import render

TEMPLATES = Path(__file__).parents[1] / "templates"
TOP = f"{WORK}/rpm"
#: What the header says, a line each: how it was packed, and what rpm must know to read it.
QUERY = (
    "payload %{PAYLOADFORMAT} %{PAYLOADCOMPRESSOR}\\ndigest %{FILEDIGESTALGO}\\n"
    "host %{BUILDHOST}\\ntime %{BUILDTIME}\\n[needs %{REQUIRENAME}\\n]"
)
RPMLIB = re.compile(r"needs rpmlib\((\w+)\)")


def make(
    plan: PackagePlan,
    platform: Platform,
    dist: Path,
    session: Session,
    folder: Path,
    on_line: Callable[[str], None],
) -> Package:
    """One package of a dist folder, written to `folder`.

    PackageError where rpmbuild fails, or where a node of the platform could not read the result.
    """
    texts: Mapping[str, Path | bytes] = {
        f"SPECS/{plan.name}.spec": render(TEMPLATES / "package.spec.j2", **plan.values).encode(),
        **{
            f"SOURCES/{name}": TEMPLATES / name if (TEMPLATES / name).exists() else dist / name
            for name in plan.sources
        },
    }
    for path, content in texts.items():
        session.put(content, f"{TOP}/{plan.binary}/{path}")
    top = f"{TOP}/{plan.binary}"
    environment = {"SOURCE_DATE_EPOCH": str(plan.epoch), "HOME": top, "LC_ALL": "C.UTF-8"}
    session.run(["install", "-d", TMP], environment=environment, on_line=on_line)
    argv = [
        *("rpmbuild", "-bb", "--quiet", "--target", plan.machine, "--define", f"_tmppath {TMP}"),
        *("--define", f"_topdir {top}", "--define", f"_dbpath {top}/db"),
        f"{top}/SPECS/{plan.name}.spec",
    ]
    result = session.run(argv, environment=environment, folder=WORK, on_line=on_line)
    if not result.ok:
        raise PackageError(
            f"rpmbuild made no {plan.name}",
            place=" ".join(argv),
            next_step="its last lines follow; the spec is builders/templates/package.spec.j2",
            detail=result.tail,
        )
    inside = f"{top}/RPMS/{plan.machine}/{plan.file}"
    seen: list[str] = []
    query = ["rpm", "--dbpath", f"{top}/db", "--query", "--package", "--queryformat", QUERY, inside]
    asked = session.run(query, environment=environment, folder=WORK, on_line=seen.append)
    problems = refused(seen, plan, platform) if asked.ok else asked.tail
    if problems:
        raise PackageError(
            f"{plan.file} is not what a node can read or what a second build would repeat",
            place=inside,
            next_step="look at builders/templates/package.spec.j2",
            detail=tuple(problems),
        )
    made = folder / plan.file
    session.get(inside, made)
    size, sha256 = made.stat().st_size, sha256_of(made)
    return Package(plan.name, plan.version, plan.release, made, size, sha256)


def signed(packages: Sequence[Package], signer: Signer) -> list[Package]:
    """The same packages with their headers signed in place."""
    signer.sign_rpms([package.path for package in packages])
    return [
        dataclasses.replace(
            package,
            size=package.path.stat().st_size,
            sha256=sha256_of(package.path),
            signed_by=signer.key.fingerprint,
        )
        for package in packages
    ]


def unsigned_sha256(path: Path) -> str:
    """The hex sha256 of a file; of an RPM, of what comes after its signatures.

    It begins with a lead of 96 bytes and a header of its own for them: 16 bytes with the number of
    entries and the size of their data, 16 for each entry, the data, and zeros to a multiple of 8.
    """
    if path.suffix != ".rpm":
        return sha256_of(path)
    with path.open("rb") as file:
        entries, size = struct.unpack(">96x8xII", file.read(112))
        file.seek(112 + entries * 16 + (size + 7) // 8 * 8)
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def refused(header: list[str], plan: PackagePlan, platform: Platform) -> list[str]:
    """What is wrong with a package by the lines of its header, each as a sentence."""
    expected = {
        "payload cpio gzip": "the payload must be cpio packed by gzip",
        "digest 8": "the files' digests must be sha256 (8)",
        f"host {plan.values['host']}": "the header must name no host",
        f"time {plan.epoch}": "the header must have the time of the source",
    }
    found = [
        f"{why}; it says: {' | '.join(line for line in header if line.startswith(key.split()[0]))}"
        for key, why in expected.items()
        if key not in header
    ]
    needs = {match[1] for match in map(RPMLIB.fullmatch, header) if match}
    return found + [
        f"rpm there does not know rpmlib({name})" for name in sorted(needs - platform.rpmlib)
    ]
