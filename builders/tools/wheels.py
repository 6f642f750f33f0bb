"""Python packages as files, by the pip of the environment that runs this."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from builders.errors import UnavailableError
from builders.tools import process
from builders.tools.download import scrubbed

#: The user's settings of pip, where it finds more of them and its cache, the way out and whom to
#: believe.
INHERITED = ("PIP_", "HOME", "XDG_", "SSL_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
SECONDS = 900


def download(requirements: Path, folder: Path, environment: Mapping[str, str]) -> None:
    """Bring the wheels that are pinned, each by its hash, for the Python that runs this.

    UnavailableError where one is not to be had.
    """
    argv = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--require-hashes", "--only-binary=:all:", "--no-deps"),
        *("--dest", str(folder), "--requirement", str(requirements)),
    ]
    passed = {
        name: value
        for name, value in environment.items()
        if name.startswith(INHERITED) or name.lower().endswith("_proxy")
    }
    result = process.run(argv, environment=passed, timeout=SECONDS)
    if not result.ok:
        raise UnavailableError(
            "the wheels of the requirements could not be had",
            place=f"pip download -r {requirements.name}",
            next_step="check pip's index or mirror, and that this Python's venv has its pip",
            detail=tuple(scrubbed(line) for line in result.tail[-3:]),
        )
