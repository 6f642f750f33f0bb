"""Binary -> report: is it what nodes can run, and is kernel-memory accounting really out?

The artifact is asked, never the command line that made it: a build whose tag got lost looks
the same in every log.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from builders.model.artifact import Binary, Check, CheckReport
from builders.model.releases import Target
from builders.tools import elf, process
from builders.tools.cache import sha256_of
from builders.tools.elf import Elf

#: What only a build with accounting has: the file it writes, and the function that does it.
#: Measured on stripped runc rc6 to rc93 and on kubelets: in every default build, in no nokmem
#: build. `memory.kmem.tcp.limit_in_bytes` and `setKernelMemory` are in both and say nothing.
ACCOUNTING = (b"memory.kmem.limit_in_bytes", b"cgroups/fs.EnableKernelMemoryAccounting")
#: What every libcontainer has. Without it, absence of the above would prove nothing: a packed
#: or foreign file has neither.
LIBCONTAINER = (b"memory.limit_in_bytes", b"libcontainer/cgroups/fs.")
RUN_TIMEOUT = 30
NOBODY = 65534


@dataclass(frozen=True)
class Expected:
    """What a binary must be. `prints` are lines of its `--version`, in order, from the first."""

    name: str
    linking: str
    variant: str
    prints: tuple[str, ...]
    sha256: str


def prove(items: Iterable[tuple[Binary, Expected]], target: Target) -> CheckReport:
    """Ask every binary everything; nothing raises, every failure is a failed Check."""
    checks: list[Check] = []
    for binary, expected in items:
        checks += _prove(binary.path, expected, target)
    return CheckReport(tuple(checks))


def _prove(path: Path, expected: Expected, target: Target) -> list[Check]:
    name = expected.name
    actual = sha256_of(path)
    checks = [
        Check(
            name, "hash", actual == expected.sha256,
            f"sha256 {actual}" if actual == expected.sha256
            else f"sha256 {actual}, the manifest says {expected.sha256}",
            "the file was changed or damaged after the build: build this version again",
        )
    ]  # fmt: skip
    file = elf.read(path)
    if file is None:
        found = "not a readable ELF file"
        return [*checks, Check(name, "architecture", False, found, "build this version again")]
    checks += [
        _architecture(name, file, target),
        _linking(name, file, expected),
        _libraries(name, file, target),
        _glibc(name, file, target),
        _libseccomp(name, file, target),
        _nokmem(path, expected),
    ]
    trusted = all(check.passed for check in checks)
    return [*checks, _version(path, expected, target, trusted)]


def _architecture(name: str, file: Elf, target: Target) -> Check:
    return Check(
        name,
        "architecture",
        file.machine == target.machine,
        f"{file.machine}, {target.name} is {target.machine}",
        f"build it for {target.machine_name}",
    )


def _linking(name: str, file: Elf, expected: Expected) -> Check:
    actual = "dynamic" if file.interpreter or file.needed else "static"
    needs = f" ({', '.join(file.needed)})" if file.needed else ""
    return Check(
        name,
        "linking",
        actual == expected.linking,
        f"{actual}{needs}, planned {expected.linking}",
        "compare plan.json with build.log: the linker got other flags",
    )


def _libraries(name: str, file: Elf, target: Target) -> Check:
    strange = [library for library in file.needed if library not in target.libraries]
    return Check(
        name,
        "libraries",
        not strange,
        f"{target.name} has no {', '.join(strange)}" if strange
        else f"needs {len(file.needed)} shared libraries, all on {target.name}",
        "link it statically",
    )  # fmt: skip


def _glibc(name: str, file: Elf, target: Target) -> Check:
    found = [
        match[1] for version in file.versions if (match := re.fullmatch(r"GLIBC_([\d.]+)", version))
    ]
    highest = max(found, key=_numbers, default="")
    return Check(
        name,
        "glibc",
        not highest or _numbers(highest) <= _numbers(target.glibc),
        f"needs GLIBC_{highest}, {target.name} has {target.glibc}" if highest
        else "needs no glibc symbol",
        "build with a toolchain whose glibc is not newer, or link it statically",
    )  # fmt: skip


def _libseccomp(name: str, file: Elf, target: Target) -> Check:
    """The soname never changed, so neither rpm nor the loader would notice before the crash."""
    newer = sorted(set(file.imports) & set(target.libseccomp_newer_symbols))
    if not any(library.startswith("libseccomp.") for library in file.needed):
        found = "not needed"
    elif newer:
        found = f"imports {', '.join(newer)}, which {target.name}'s {target.libseccomp} lacks"
    else:
        found = f"imports nothing newer than {target.libseccomp}"
    return Check(name, "libseccomp", not newer, found, "link it statically")


def _nokmem(path: Path, expected: Expected) -> Check:
    found = elf.contains(path, ACCOUNTING + LIBCONTAINER)
    present = [text.decode() for text in ACCOUNTING if found[text]]
    known = all(found[text] for text in LIBCONTAINER)
    if not known:
        passed, saw = False, "no libcontainer is in it: nothing can be said of its accounting"
    elif expected.variant == "stock":
        passed = len(present) == len(ACCOUNTING)
        saw = f"control: has {', '.join(present)}" if present else "control without accounting"
    else:
        passed = not present
        saw = (
            f"accounts kernel memory: has {', '.join(present)}" if present
            else "libcontainer is in it, its kernel-memory accounting is not"
        )  # fmt: skip
    return Check(
        expected.name, "nokmem", passed, saw,
        "the build tag did not reach the compiler: compare tags in plan.json with build.log",
    )  # fmt: skip


def _version(path: Path, expected: Expected, target: Target, trusted: bool) -> Check:
    """Run `--version`, only what passed everything else, without rights and network."""
    words = f"--version prints {' / '.join(expected.prints)}"
    help_text = "the stamp did not reach the linker: look at the version file in plan.json"
    if not trusted:
        return Check(expected.name, "version", False, "not run: an earlier check failed", help_text)
    if platform.machine() != target.machine_name:
        return Check(
            expected.name, "version", False,
            f"cannot run on this {platform.machine()} machine",
            f"verify on {target.machine_name}",
        )  # fmt: skip
    with path.open("rb") as file:
        words_to_run = [*_without_rights(), f"/proc/self/fd/{file.fileno()}", "--version"]
        result, text = process.capture(words_to_run, timeout=RUN_TIMEOUT, pass_fds=(file.fileno(),))
    lines = tuple(text.splitlines()[: len(expected.prints)])
    passed = result.ok and lines == expected.prints
    saw = (
        words
        if passed
        else f"exit code {result.exit_code}, printed {' / '.join(lines) or 'nothing'}"
    )
    return Check(expected.name, "version", passed, saw, f"expected: {words}; {help_text}")


def _without_rights() -> list[str]:
    if os.geteuid() != 0:
        return []
    return [
        process.require("setpriv", "to run a binary without root's rights"),
        f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
        "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--",
    ]  # fmt: skip


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
