"""A manifest -> the script that swaps kubelet and runc on a node: one file of bash, which needs
nothing of the machine that built it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builders.model.artifact import Manifest
from builders.tools.render import render

NODE = Path(__file__).with_name("node")
TEMPLATE = NODE / "nokmem-rollout.j2"
#: In the order that a reader wants; bash wants none.
PARTS = (
    "say.sh", "state.sh", "node.sh", "kmem.sh", "preflight.sh", "stage.sh", "adoption.sh",
    "swap.sh", "verify.sh", "run.sh", "main.sh",
)  # fmt: skip
NAME = "nokmem-rollout"


def script(manifest: Manifest) -> str:
    """The text for the build of a manifest."""
    data = manifest.data
    rows: dict[str, dict[str, Any]] = {row["name"]: row for row in data["binaries"]}
    kubelet, runc = rows["kubelet"], rows["runc"]
    return render(
        TEMPLATE,
        build=kubelet["build"] or data["kubernetes"],
        kubernetes=data["kubernetes"],
        variant=data["variant"],
        node=data["node"],
        adopts="yes" if kubelet["build"] else "",
        kubelet=kubelet,
        runc={**runc, "tags": " ".join(runc["tags"])},
        parts=[_body(NODE / name) for name in PARTS],
    )


def _body(part: Path) -> str:
    """A part without the lines that only tell shellcheck what it is."""
    lines = part.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("# shellcheck shell=")) + "\n"
