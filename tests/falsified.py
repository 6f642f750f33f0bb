"""A dist folder that somebody changed and made to look whole."""

from __future__ import annotations

import json
from pathlib import Path

from builders.model.artifact import MANIFEST, SUMS, Manifest
from builders.steps import manifest
from builders.tools.cache import sha256_of


def fit(place: Path) -> None:
    """Make every hash and size in its manifest and its sums that of the file."""
    data = json.loads((place / MANIFEST).read_text())
    rows = {
        **data["files"],
        **{row["name"]: row for row in data["binaries"]},
        **{row["file"]: row for row in data["packages"]},
    }
    for name, row in rows.items():
        row.update(sha256=sha256_of(place / name), size=(place / name).stat().st_size)
    (place / MANIFEST).write_text(Manifest(data).to_json())
    names = sorted(path.name for path in place.iterdir() if not path.name.startswith(SUMS))
    (place / SUMS).write_text("".join(f"{sha256_of(place / n)}  {n}\n" for n in names))
    manifest.read(place)  # whole, as far as the folder itself can tell
