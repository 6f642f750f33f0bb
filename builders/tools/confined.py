"""Running a file that is not trusted: no rights, no network, no sight of files or processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from builders.tools import process
from builders.tools.process import Result

SCRIPT = Path(__file__).with_name("confined.sh")
NOBODY = 65534
ADVICE = (
    "if namespaces are refused here, verify as root or where user namespaces are allowed; "
    "otherwise the binary itself failed"
)


def run(file: Path, arguments: Sequence[str], *, timeout: float) -> tuple[Result, str]:
    """Run a file with an empty environment; whatever it starts ends with it."""
    root = os.geteuid() == 0
    words = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--net", "--fork", "--kill-child"]
    words += [] if root else ["--user", "--map-root-user"]
    with tempfile.TemporaryDirectory(prefix="nokmem-confined-") as folder:
        shell = process.require("sh", "to confine a program")
        words += [shell, str(SCRIPT), folder, str(file.absolute()), str(NOBODY) if root else ""]
        return process.capture([*words, *arguments], timeout=timeout)
