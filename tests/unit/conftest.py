"""Unit tests touch neither network nor programs: whoever tries, fails."""

from __future__ import annotations

import socket
import subprocess
from typing import NoReturn

import pytest


class UnplannedError(BaseException):
    """Not an Exception, so that nothing catches it on the way."""


@pytest.fixture(autouse=True)
def _sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object, **_: object) -> NoReturn:
        raise UnplannedError(f"a unit test may not do this: {words[1:]}")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(subprocess.Popen, "__del__", lambda _: None)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
