"""What tests of the node script share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema

from builders.model.artifact import Manifest
from rollout.script import NODE, script

BUILD = "v1.20.2+nokmem.1"
SCHEMA = json.loads((NODE.with_name("result.schema.json")).read_text())
#: A folder whose programs come before the machine's: a bash and an awk of another age.
TOOLS = os.environ.get("NOKMEM_TEST_TOOLS")
PATH = os.pathsep.join([*([TOOLS] if TOOLS else []), os.environ["PATH"]])


def manifest(**changes: Any) -> Manifest:
    """As much of a manifest as the script is made of; no binary has these hashes."""
    rows = [
        {
            "name": name,
            "version": version,
            "build": BUILD if name == "kubelet" else "",
            "sha256": digit * 64,
            "size": 1000,
            "tags": ["seccomp", "nokmem"],
            "package": f"{name}-nokmem-{package}",
            "payload": f"/usr/libexec/nokmem/{package}/{name}",
        }
        for name, version, package, digit in (
            ("kubelet", "v1.20.2", "1.20.2", "a"),
            ("runc", "1.0.0-rc93", "1.0.0~rc93", "b"),
        )
    ]
    node = {"machine": "x86_64", "glibc": "2.17"}
    words = {"kubernetes": "v1.20.2", "variant": "nokmem", "node": node, "binaries": rows}
    return Manifest({**words, **changes})


MANIFEST = manifest()


class Done(NamedTuple):
    """What the script came to: its exit code, its JSON document, what it said on the way."""

    code: int
    said: Any
    progress: str

    def finding(self, name: str) -> str:
        """The facts of the findings by that name, a line each, with their status."""
        rows = (row for row in self.said["findings"] if row["id"] == name)
        return "\n".join(f"{row['status']} {row['fact']}" for row in rows)


def understood(text: str) -> Any:
    """A JSON document of the script's: by its schema, and no key twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        assert len(found) == len(pairs), pairs
        return found

    document = json.loads(text, object_pairs_hook=once)
    jsonschema.validate(document, SCHEMA)
    return document


def place(folder: Path, **changes: Any) -> Path:
    """The script, as a file of that folder."""
    path = folder / "nokmem-rollout"
    path.write_text(script(manifest(**changes)))
    return path


def run(path: Path, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The script's own words, by the bash that is to be tried."""
    bash = shutil.which("bash", path=PATH)
    assert bash
    return subprocess.run(
        [bash, path, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env={**os.environ, "PATH": PATH, **environment},
    )


def ask(path: Path, *words: str | Path, **environment: str) -> Done:
    """The script's word, by its JSON."""
    return answer(words, run(path, *words, "--json", **environment))


def answer(words: object, done: subprocess.CompletedProcess[bytes]) -> Done:
    """Its code and its document say the same."""
    try:
        said = understood(done.stdout.decode())
    except (ValueError, jsonschema.ValidationError) as error:
        text = f"{words}: {done.returncode}\n{done.stdout!r}\n{done.stderr!r}"
        raise AssertionError(text) from error
    assert said["code"] == done.returncode
    return Done(done.returncode, said, done.stderr.decode(errors="replace"))
