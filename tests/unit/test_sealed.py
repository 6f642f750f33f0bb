"""The seal itself is seen to hold."""

from __future__ import annotations

import pytest

from builders.tools import process
from builders.tools.download import Downloader
from tests.unit.conftest import UnplannedError


def test_no_program_can_be_started() -> None:
    with pytest.raises(UnplannedError):
        process.run(["true"])


def test_no_connection_can_be_made() -> None:
    with pytest.raises(UnplannedError):
        Downloader().read("http://127.0.0.1:9/", 1)
