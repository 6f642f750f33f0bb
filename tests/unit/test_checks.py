"""The verdicts, on files that are nothing real; the real ones are integration tests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from builders.model.artifact import Binary, CheckReport
from builders.model.releases import Facts
from builders.steps import checks
from builders.steps.checks import ACCOUNTING, LIBCONTAINER, Expected

TARGET = Facts().targets["el7"]


def expected(path: Path, variant: str = "nokmem") -> Expected:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Expected("runc", "static", variant == "stock", ("runc version 1",), digest)


@pytest.mark.parametrize(
    ("content", "variant", "passes"),
    [
        (LIBCONTAINER, "nokmem", True),
        (LIBCONTAINER + ACCOUNTING, "nokmem", False),
        (LIBCONTAINER + ACCOUNTING[:1], "nokmem", False),
        (LIBCONTAINER + ACCOUNTING[1:], "nokmem", False),
        ((b"packed beyond recognition",), "nokmem", False),
        ((), "nokmem", False),
        (LIBCONTAINER + ACCOUNTING, "stock", True),
        (LIBCONTAINER + ACCOUNTING[:1], "stock", False),
        (LIBCONTAINER, "stock", False),
        (ACCOUNTING, "stock", False),
        ((*LIBCONTAINER, b"memory.kmem.tcp.limit_in_bytes"), "nokmem", True),
    ],
)
def test_nokmem(content: tuple[bytes, ...], variant: str, passes: bool, tmp_path: Path) -> None:
    path = tmp_path / "runc"
    path.write_bytes(b"\0".join(content))
    assert checks._nokmem(path, expected(path, variant)).passed is passes


@pytest.mark.parametrize(
    ("content", "passes", "says"),
    [
        (b"nokmem_adoption_build_info\0v1.20.2+nokmem.1", True, "adopts running containers"),
        (b"nokmem_adoption_build_info\0v1.20.2+nokmem.2", False, "the id v1.20.2+nokmem.1 is not"),
        (b"v1.20.2+nokmem.1", False, "no adoption is in it"),
        (b"", False, "no adoption is in it"),
    ],
)
def test_adoption(content: bytes, passes: bool, says: str, tmp_path: Path) -> None:
    path = tmp_path / "kubelet"
    path.write_bytes(content)
    check = checks._adoption(path, Expected("kubelet", "", False, (), "", "v1.20.2+nokmem.1"))
    assert check.passed is passes and says in check.found


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\2\1\1" + bytes(99)])
def test_what_is_no_elf_file_fails_and_is_never_run(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "runc"
    path.write_bytes(content)
    binary = Binary("runc", path, len(content), "")
    report = checks.prove([(binary, expected(path))], TARGET)
    assert not report.passed
    assert not any(check.passed for check in report.checks if check.name in ("nokmem", "version"))


def test_a_report_without_checks_has_not_passed() -> None:
    assert not CheckReport(()).passed
