"""The node script as it is rendered: clean to shellcheck, and deaf to what values may hold."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from rollout.script import PARTS, script
from tests.conftest import leave_out
from tests.rollout import MANIFEST, manifest


def test_shellcheck_finds_nothing_in_it(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        leave_out(request, "shellcheck", "it is not installed")
    path = tmp_path / "nokmem-rollout"
    path.write_text(script(MANIFEST))
    done = subprocess.run([shellcheck, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    path.write_text(script(MANIFEST) + "echo $UNQUOTED\n")
    assert subprocess.run([shellcheck, path], capture_output=True, check=False).returncode == 1


def test_every_part_is_in_it_once() -> None:
    folder = Path(__file__).parents[2] / "rollout/node"
    assert sorted(PARTS) == sorted(path.name for path in folder.glob("*.sh"))
    text = script(MANIFEST)
    assert text.count("\nmain() {\n") == text.count("\nwrite() {") == 1
    assert text == script(manifest())


def test_no_value_gets_out_of_its_quotes(tmp_path: Path) -> None:
    hostile = 'v1\'; touch "$HOME/oops"; `touch oops`; $(touch oops)\n}}{%'
    path = tmp_path / "nokmem-rollout"
    path.write_text(script(manifest(kubernetes=hostile, variant=hostile)))
    argv = ["bash", str(path), "help"]
    done = subprocess.run(
        argv, cwd=tmp_path, env={"HOME": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "nokmem-rollout COMMAND" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_a_value_that_is_not_there_is_an_error() -> None:
    rows = [{k: v for k, v in row.items() if k != "payload"} for row in MANIFEST.data["binaries"]]
    with pytest.raises(Exception, match="payload"):
        script(manifest(binaries=rows))
