"""Archives -> lock: which package, which version, which hash a distribution gives us."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from builders.errors import UnavailableError
from builders.tools import apt

HEAD = """\
# Written by `invoke pins`; not by hand. Versions, sizes and hashes as the signed archives list
# them; the suites were pinned together.
"""


def lock_text(archive: apt.Archive, facts: Mapping[str, Any], keyring: Path) -> str:
    """The lock for data/debian/<release>.toml, resolved by apt against the signed archives.

    `facts` is that file's content. The rows come in the order of package names.
    """
    suites = facts["suites"]
    wanted_sources = [
        (component, version, fact["packages"])
        for component, versions in sorted(facts["sources"].items())
        for version, fact in sorted(versions.items())
    ]
    essential = ["?essential"]
    with tempfile.TemporaryDirectory(prefix="nokmem-pins-") as folder:
        required, toolchain, *sources = apt.solve(
            Path(folder),
            {suite: archive.url(suite, "") for suite in suites},
            keyring,
            [essential, essential + sorted(facts["packages"])]
            + [names for _, _, names in wanted_sources],
        )
    lines = [HEAD]
    lines += [f"# {suite}: Release of {archive.release_date(suite)}\n" for suite in suites]
    debootstrap = facts["debootstrap"]
    lines.append(f"\nrequired = {json.dumps(sorted(name for name, _, _ in required))}\n")
    row = _row(archive, [debootstrap["suite"]], debootstrap["package"], None)
    lines.append(f"debootstrap = {row}\n\ntoolchain = [\n")
    lines += _rows(archive, suites, toolchain)
    lines.append("]\n")
    for (component, version, _), solution in zip(wanted_sources, sources, strict=True):
        go_packages = [
            row for row in solution if row[0].startswith("golang-") and row[0].endswith("-dev")
        ]
        lines.append(f'\n[sources.{component}]\n"{version}" = [\n')
        lines += _rows(archive, suites, go_packages)
        lines.append("]\n")
    return "".join(lines)


def _rows(
    archive: apt.Archive, suites: Iterable[str], solution: Iterable[tuple[str, str, str]]
) -> list[str]:
    return [f"  {_row(archive, suites, name, version)},\n" for name, version, _ in sorted(solution)]


def _row(archive: apt.Archive, suites: Iterable[str], name: str, version: str | None) -> str:
    for suite in suites:
        stanza = apt.find(archive.index(suite, "main/binary-amd64/Packages"), name, version)
        if stanza is not None:
            return _inline(suite, stanza)
    raise UnavailableError(
        f"{name} {version or ''} is in none of {', '.join(suites)}",
        place="the archive's index of packages",
        next_step="wait until the archive's suites fit each other, or name another mirror",
    )


def _inline(suite: str, stanza: Mapping[str, str]) -> str:
    fields = {
        "package": stanza["Package"],
        "version": stanza["Version"],
        "architecture": stanza["Architecture"],
        "suite": suite,
        "path": stanza["Filename"],
        "size": int(stanza["Size"]),
        "sha256": stanza["SHA256"],
    }
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in fields.items()) + " }"
