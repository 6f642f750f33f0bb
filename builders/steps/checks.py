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
from builders.model.components import IMPORT_PATHS
from builders.model.modules import attributed
from builders.model.toolchains import Target
from builders.tools import confined, elf
from builders.tools.cache import sha256_of
from builders.tools.elf import Elf

#: What only a build with accounting has: the file it writes, and the function that does it.
#: Measured on stripped runc rc6 to rc93 and on kubelets: in every default build, in no nokmem
#: build. `memory.kmem.tcp.limit_in_bytes` and `setKernelMemory` are in both and say nothing.
ACCOUNTING = (b"memory.kmem.limit_in_bytes", b"cgroups/fs.EnableKernelMemoryAccounting")
#: What every libcontainer has. Without it, absence of the above would prove nothing: a packed
#: or foreign file has neither.
LIBCONTAINER = (b"memory.limit_in_bytes", b"libcontainer/cgroups/fs.")
#: What a kubelet that adopts containers has beside the id of its build: a metric's name.
ADOPTION = b"nokmem_adoption_build_info"
RUN_TIMEOUT = 30


@dataclass(frozen=True)
class Expected:
    """What a binary must be. `prints` are lines of its `--version`, in order, from the first;
    with `accounting` it is a control, in which kernel-memory accounting must be found; `build` is
    the id of a kubelet that adopts containers, or ""."""

    name: str
    linking: str
    accounting: bool
    prints: tuple[str, ...]
    sha256: str
    build: str = ""


def prove(items: Iterable[tuple[Binary, Expected]], target: Target) -> CheckReport:
    """Ask every binary everything; nothing raises, every failure is a failed Check."""
    checks: list[Check] = []
    for binary, expected in items:
        checks += _prove(binary, expected, target)
    return CheckReport(tuple(checks))


def _prove(binary: Binary, expected: Expected, target: Target) -> list[Check]:
    name, path = expected.name, binary.path
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
        _modules(binary),
    ]
    if expected.build:
        checks.append(_adoption(path, expected))
    trusted = all(check.passed for check in checks)
    return [*checks, _version(binary, expected, target, trusted)]


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
    """Any name that is not a plain version, such as GLIBC_ABI_DT_RELR, is newer than EL7."""
    asked = [version for version in file.versions if version.startswith("GLIBC_")]
    known = [version for version in asked if re.fullmatch(r"GLIBC_\d+(\.\d+)+", version)]
    newer = [version for version in known if _numbers(version) > _numbers(target.glibc)]
    refused = newer + [version for version in asked if version not in known]
    highest = max(known, key=_numbers, default="")
    return Check(
        name,
        "glibc",
        not refused,
        f"needs {', '.join(refused)}, {target.name} has {target.glibc}" if refused
        else f"needs {highest}, {target.name} has {target.glibc}" if highest
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
    elif expected.accounting:
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


def _modules(binary: Binary) -> Check:
    """Whether the source's list of modules has all that is in the binary; what it has beyond, for
    tests and other programs, does no harm."""
    linked, strange = attributed(binary.packages, binary.modules, IMPORT_PATHS[binary.name])
    some = ", ".join(strange[:3]) + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")
    return Check(
        binary.name, "modules", not strange,
        f"no module is named of {some}" if strange
        else f"{len(linked)} in it, of {len(binary.modules)} that its source vendors",
        "compare sbom.cdx.json with the list in the source's vendor folder",
    )  # fmt: skip


def _adoption(path: Path, expected: Expected) -> Check:
    identity = expected.build.encode()
    found = elf.contains(path, (ADOPTION, identity))
    if not found[ADOPTION]:
        saw = "it would restart the containers of another build: no adoption is in it"
    elif not found[identity]:
        saw = f"adoption is in it, the id {expected.build} is not"
    else:
        saw = f"adopts running containers as {expected.build}"
    return Check(
        expected.name, "adoption", all(found.values()), saw,
        "the patches did not reach the compiler: compare plan.json with build.log",
    )  # fmt: skip


def _version(binary: Binary, expected: Expected, target: Target, trusted: bool) -> Check:
    """What `--version` prints: as its own builder saw it, else by asking now, confined, and
    only a binary that passed everything else."""
    advice = "the stamp did not reach the linker: look at the version file in plan.json"
    says = binary.says
    if says is None and not trusted:
        found = "not run: an earlier check failed"
        return Check(expected.name, "version", False, found, "mend what the other checks found")
    if says is None and platform.machine() != target.machine_name:
        found = f"cannot run on this {platform.machine()} machine"
        return Check(expected.name, "version", False, found, f"verify on {target.machine_name}")
    if says is None and not os.access(binary.path, os.X_OK):
        return Check(expected.name, "version", False, "not executable", f"chmod 755 {binary.path}")
    if says is None:
        result, text = confined.run(binary.path, ["--version"], timeout=RUN_TIMEOUT)
        says = tuple(text.splitlines())
        if not result.ok:
            found = f"exit code {result.exit_code}, printed {' / '.join(says[:3]) or 'nothing'}"
            return Check(expected.name, "version", False, found, confined.ADVICE)
    lines = says[: len(expected.prints)]
    found = f"--version prints {' / '.join(lines) or 'nothing'}"
    if lines != expected.prints:
        found += f", expected {' / '.join(expected.prints)}"
    return Check(expected.name, "version", lines == expected.prints, found, advice)


def _numbers(version: str) -> tuple[int, ...]:
    """2.17 or GLIBC_2.17 as numbers."""
    return tuple(int(part) for part in version.removeprefix("GLIBC_").split("."))
