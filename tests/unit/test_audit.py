"""What pip-audit reports becomes one of three ends; what it could not ask is never "none"."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

import tasks
from builders.tools import process
from builders.tools.process import Result

CLEAN = {"name": "jinja2", "version": "3.1.6", "vulns": []}
BAD = {
    "name": "jinja2",
    "version": "2.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.10.1"], "aliases": [], "description": ""}],
}
SKIPPED = {"name": "rich", "skip_reason": "Dependency not found"}
REPORTS: dict[str, tuple[str, int]] = {
    "none known": (json.dumps({"dependencies": [CLEAN], "fixes": []}), 0),
    "one found": (json.dumps({"dependencies": [CLEAN, BAD], "fixes": []}), 1),
    "one found, one not asked": (json.dumps({"dependencies": [BAD, SKIPPED], "fixes": []}), 1),
    "one not asked": (json.dumps({"dependencies": [CLEAN, SKIPPED], "fixes": []}), 5),
    "no package": (json.dumps({"dependencies": [], "fixes": []}), 5),
    "no report": ("", 5),
    "half a report": ('{"dependencies": [', 5),
    "another report": ('{"dependencies": ["x"]}', 5),
}


@pytest.mark.parametrize("case", REPORTS.values(), ids=REPORTS.keys())
def test_a_report_becomes_an_exit_code(
    case: tuple[str, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report, code = case

    def run(argv: Sequence[str], *, environment: Mapping[str, str], **_: Any) -> Result:
        assert argv[argv.index("--requirement") + 1].endswith("requirements/dev.txt")
        assert "SECRET" not in environment
        if report:
            Path(argv[argv.index("--output") + 1]).write_text(report)
        return Result(tuple(argv), 1 if code else 0, ("Name or service not known",))

    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(tasks, "_tool", lambda name: name)
    got = 0
    try:
        tasks.audit.body(Context())
    except Exit as end:
        got = end.code
    out, err = capsys.readouterr()
    assert got == code
    assert ("PYSEC-1" in out and "2.10.1" in out) is (code == 1)
    assert ("no vulnerability is known" in out) is (code == 0)
    assert ("the advisory service does not answer" in err) is (code == 5)
