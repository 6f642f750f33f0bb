"""A place on this machine where the node script may write: its own /var/lib and /run, in namespaces
of its own, where nobody else's engine, systemd or kubelet answers."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import leave_out
from tests.rollout import MANIFEST, PATH, Done, answer, place

#: Of binaries that the script finds, each with its hash.
BINARIES = {"kubelet": b"a kubelet", "runc": b"a runc"}
ENTER = (
    'lib=$1 run=$2; shift 2; mount --bind "$lib" /var/lib && mount --bind "$run" /run && exec "$@"'
)


class Room:
    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self.lib, self.run, self.home = folder / "lib", folder / "run", folder / "home"
        for one in (self.lib, self.run, self.home):
            one.mkdir()
        self.state = self.lib / "nokmem"
        rows = [
            {**row, "sha256": hashlib.sha256(text).hexdigest(), "size": len(text)}
            for row, text in zip(MANIFEST.data["binaries"], BINARIES.values(), strict=True)
        ]
        self.script = place(self.home, binaries=rows)
        #: of programs that come before all others
        self.bin = folder / "bin"
        if subprocess.run([*self._words(), "true"], check=False).returncode:
            leave_out(request, "root", "this user may not mount in a namespace of its own")

    def _words(self) -> list[str]:
        mapped = [] if os.geteuid() == 0 else ["--map-root-user"]
        enter = ["unshare", "--mount", *mapped, "sh", "-c", ENTER, "enter"]
        return [*enter, str(self.lib), str(self.run)]

    def bring(self, folder: Path | None = None) -> None:
        """The binaries, beside the script or elsewhere."""
        for name, text in BINARIES.items():
            file = (folder or self.home) / name
            file.parent.mkdir(exist_ok=True, parents=True)
            file.write_bytes(text)

    def program(self, name: str, text: str) -> None:
        """One that stands in for another, where a fault cannot be had otherwise."""
        self.bin.mkdir(exist_ok=True)
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)

    def begin(self, *words: str | Path, **environment: str) -> subprocess.Popen[bytes]:
        path = f"{self.bin}:{PATH}"
        bash = shutil.which("bash", path=path)
        assert bash
        return subprocess.Popen(
            [*self._words(), bash, self.script, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PATH": path, **environment},
            start_new_session=True,
        )

    def ask(self, *words: str | Path, **environment: str) -> Done:
        return self.end(self.begin(*words, "--json", **environment))

    def end(self, process: subprocess.Popen[bytes]) -> Done:
        out, err = process.communicate(timeout=120)
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        return answer(process.args, done)

    def tell(self, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
        """As text, for a person."""
        process = self.begin(*words, **environment)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)
