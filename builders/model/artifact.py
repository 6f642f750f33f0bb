"""What the steps hand to each other, and the manifest that a dist folder is read by."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.errors import ProofError
from builders.model.modules import Module
from builders.model.plan import BuildRequest, OwnArchive

MANIFEST_SCHEMA = 5
MANIFEST = "manifest.json"
PLAN = "plan.json"
SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.asc"
LOG = "build.log"
REPORT = "report.json"
SCRIPT = "nokmem-rollout"
#: A name by which CycloneDX's tools know such a file, and the one that BuildKit gives to such a
#: statement; `.intoto.jsonl` would promise an envelope with a signature.
SBOM = "sbom.cdx.json"
PROVENANCE = "provenance.json"
#: What says of the packages where they come from; it is made with them.
PACKAGES_PROVENANCE = "packages.provenance.json"


@dataclass(frozen=True)
class SourceTree:
    """A component's verified source as one tar file; `strip` leading folders are cut. Where it was
    put together of a distribution's packages, `parts` are these, as they stand in the plan, and the
    folders that each has Go code in."""

    component: str
    archive: Path
    strip: int
    parts: tuple[tuple[Mapping[str, Any], frozenset[str]], ...] = ()


@dataclass(frozen=True)
class Binary:
    """A binary as it came out of a builder. `size` is in bytes; `says` are the lines of its
    `--version`, if it was asked where it was built; `packages` the import paths of the Go packages
    that are in it, but for Go's own; `modules` those that its source vendors."""

    name: str
    path: Path
    size: int
    sha256: str
    says: tuple[str, ...] | None = None
    packages: frozenset[str] = frozenset()
    modules: tuple[Module, ...] = ()


@dataclass(frozen=True)
class Check:
    """One question asked of one binary. `found` is what was seen, `next_step` what would help
    if it failed."""

    binary: str
    name: str
    passed: bool
    found: str
    next_step: str = ""


@dataclass(frozen=True)
class CheckReport:
    """All checks of a build, in the order they were asked."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def to_json(self) -> str:
        """Sorted JSON; a next step stands only beside a failure."""
        rows = [dataclasses.asdict(check) for check in self.checks]
        for row in rows:
            if row["passed"]:
                del row["next_step"]
        return _json({"passed": self.passed, "checks": rows})


@dataclass(frozen=True)
class Package:
    """An RPM. `size` is in bytes; `signed_by` is the fingerprint of the key, "" for none."""

    name: str
    version: str
    release: str
    path: Path
    size: int
    sha256: str
    signed_by: str = ""


@dataclass(frozen=True)
class Manifest:
    """The contract of a dist folder: what is in it, and how it was made."""

    data: Mapping[str, Any]

    def to_json(self) -> str:
        return _json(self.data)

    @property
    def kubernetes(self) -> str:
        return str(self.data["kubernetes"])

    @property
    def profile(self) -> tuple[tuple[str, float], ...]:
        """Each phase of the build, and the seconds that it took."""
        return tuple((row["phase"], row["seconds"]) for row in self.data["profile"])

    @property
    def request(self) -> BuildRequest:
        """What was asked for, with nothing left open."""
        row: dict[str, Any] = dict(self.data["request"])
        own = tuple(OwnArchive(**archive) for archive in row.pop("own"))
        tags: dict[str, Any] = {n: tuple(row.pop(n)) for n in ("kubelet_tags", "runc_tags")}
        return BuildRequest(**row, **tags, own=own)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a dist folder; ProofError where there is none or it is broken."""
        path = folder / MANIFEST
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ProofError(
                "this is not a dist folder: it has no manifest",
                place=str(path),
                next_step="give the folder that a build has made, such as dist/v1.20.2",
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise ProofError(
                f"the manifest cannot be read: {error}",
                place=str(path),
                next_step="build this version again",
            ) from error
        if not isinstance(data, dict) or data.get("schema") != MANIFEST_SCHEMA:
            schema = data.get("schema") if isinstance(data, dict) else None
            raise ProofError(
                f"manifest schema {schema!r} is not {MANIFEST_SCHEMA}, the one this version reads",
                place=str(path),
                next_step="verify it with the nokmem version that built it, or build it again",
            )
        return cls(data)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"
