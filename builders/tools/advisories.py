"""Known vulnerabilities of pinned Python packages, by pip-audit, which asks OSV about each.

pip-audit ends with 1 where it found something and where nobody answered: only its report tells
them apart.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.errors import UnavailableError
from builders.tools import process
from builders.tools.download import scrubbed

#: The way out and whom to believe; with PIP_AUDIT_OSV_URL, a service of one's own.
INHERITED = (
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_AUDIT_OSV_URL"),
)
SECONDS = 600
SILENT = "the advisory service does not answer"


@dataclass(frozen=True)
class Advisory:
    """A known vulnerability of a pinned package, and the versions without it, if there are any."""

    package: str
    version: str
    id: str
    fixed: tuple[str, ...]


def known(
    program: str, requirements: Path, environment: Mapping[str, str]
) -> tuple[int, tuple[Advisory, ...]]:
    """How many packages were asked about, and what is known of them.

    `requirements` has a hash for each, so that nothing is resolved or installed. UnavailableError
    where the service does not answer for every one of them.
    """
    with tempfile.TemporaryDirectory(prefix="nokmem-audit-") as folder:
        report = Path(folder, "report.json")
        result = process.run(
            [
                *(program, "--requirement", str(requirements), "--require-hashes", "--disable-pip"),
                *("--vulnerability-service", "osv", "--progress-spinner", "off"),
                *("--cache-dir", folder, "--format", "json", "--output", str(report)),
            ],
            environment={k: environment[k] for k in INHERITED if environment.get(k)},
            timeout=SECONDS,
        )
        text = report.read_text(encoding="utf-8") if report.is_file() else ""
    try:
        rows = [row for row in json.loads(text)["dependencies"] if row.get("version")]
        skipped = [r for r in json.loads(text)["dependencies"] if "skip_reason" in r]
        found = tuple(_advisory(row, vuln) for row in rows for vuln in row["vulns"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _silent(tuple(scrubbed(line) for line in result.tail[-1:])) from error
    if not found and (skipped or not rows):
        raise _silent(tuple(str(row["skip_reason"]) for row in skipped[:1]))
    return len(rows), found


def _advisory(row: Mapping[str, Any], vuln: Mapping[str, Any]) -> Advisory:
    return Advisory(
        str(row["name"]), str(row["version"]), str(vuln["id"]), tuple(vuln["fix_versions"])
    )


def _silent(detail: tuple[str, ...]) -> UnavailableError:
    return UnavailableError(
        SILENT,
        place="PIP_AUDIT_OSV_URL, else https://api.osv.dev",
        next_step="check the network and the proxy variables, then run again; nothing is known of "
        "the packages until then",
        detail=detail,
    )
