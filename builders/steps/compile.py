"""Plan and source tree -> binary, in a session of whichever builder."""

from __future__ import annotations

import os
import re
import secrets
import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from builders.errors import CompileError, IntegrityError, MachineError, ToolchainError
from builders.model.artifact import Binary, SourceTree
from builders.model.plan import GENERATED, TMP, WORK, ComponentPlan, GoPlan
from builders.tools import elf
from builders.tools.builder import Session
from builders.tools.cache import sha256_of

#: A line of `go build -v`: the import path of a package that has just begun to compile.
PACKAGE = re.compile(r"(_/)?[a-z0-9][\w.~-]*(/[\w.~+-]+)*")

#: What compilers, linkers and make say of a full disk, and of one of them being killed.
FULL = re.compile(r"no space left on device|disk quota exceeded", re.I)
KILLED_WORDS = re.compile(r"signal: killed|\bKilled\b|\bError 137\b")
KILLED = 137
#: Bytes; kubelet's linker peaks at 1.6 GB.
LINK_MEMORY = 2 << 30
#: After so many days Go, too, takes what nobody used out of its cache.
UNUSED_DAYS = 5

OnOutput = Callable[[str], None]
OnPackage = Callable[[str], None]


def put_go(go: GoPlan, archive: Path, session: Session, on_line: OnOutput) -> None:
    """Unpack a Go archive beside the toolchain; ToolchainError where that Go is another or none."""
    packed, root = f"{WORK}/go.tar", os.path.dirname(go.root)
    session.put(archive, packed)
    for argv in (
        ["install", "-d", root, TMP],
        ["tar", "-xf", packed, "-C", root, "--no-same-owner"],
        ["rm", packed],
        [f"{go.root}/bin/go", "version"],
    ):
        result = session.run(argv, environment={"HOME": TMP}, on_line=on_line)
        if not result.ok:
            raise ToolchainError(
                f"{go.archive['name']} is not a Go that runs: {argv[0]} failed with exit code "
                f"{result.exit_code}",
                place=go.root,
                next_step="look at free disk space; compare the archive with upstream's",
                detail=result.tail,
            )
    if not any(line.startswith(f"go version go{go.version} ") for line in result.tail):
        raise ToolchainError(
            f"{go.archive['name']} is not Go {go.version}",
            place=go.root,
            next_step="name an archive of that version, or its own version with --go",
            detail=result.tail,
        )


def compile_component(
    component: ComponentPlan,
    source: SourceTree,
    patched: Mapping[str, bytes | None],
    session: Session,
    folder: Path,
    on_line: OnOutput,
    on_package: OnPackage,
) -> Binary:
    """Unpack, have upstream's files generated, lay the `patched` ones over it (None removes one)
    as the newest, compile, and fetch one binary into `folder`.

    Every line of output goes to `on_line`, every compiled package's path to `on_package`.
    Raises CompileError with the last lines and the command.
    """
    root = component.folder
    _lay(component, source, session, on_line)
    if component.generate:
        try:
            _generate(component, patched, session, on_line)
        except CompileError as error:  # a patch may be what it lacks: as upstream does it then
            on_line(f"nothing is generated before the patches: {error.fact}")
            _run(session, component, ["rm", "-rf", root], WORK, on_line)
            _lay(component, source, session, on_line)
    _lay_over(component, patched, session, on_line)

    def take(line: str) -> None:
        on_line(line)
        if PACKAGE.fullmatch(line):
            on_package(line)

    _run(session, component, list(component.command), component.folder, take)
    path = folder / component.name
    session.get(component.output, path)
    path.chmod(0o755)
    sha256 = sha256_of(path)
    inside = session.run(["sha256sum", component.output], environment=component.environment)
    if inside.tail[-1:] != (f"{sha256}  {component.output}",):
        raise IntegrityError(
            f"{component.name} arrived with sha256 {sha256}, it was sent as {inside.tail[-1:]}",
            place=str(path),
            next_step="look at the disk that holds dist/, then build again",
        )
    asked = session.run([component.output, "--version"], environment=component.environment)
    says = asked.tail if asked.ok else (f"exit code {asked.exit_code}", *asked.tail)
    size, packages = path.stat().st_size, elf.go_packages(path)
    return Binary(component.name, path, size, sha256, says, packages)


def lay(
    component: ComponentPlan,
    source: SourceTree,
    patched: Mapping[str, bytes | None],
    session: Session,
    on_line: OnOutput,
) -> None:
    """Unpack the source, and lay the `patched` files over it (None removes one)."""
    _lay(component, source, session, on_line)
    _lay_over(component, patched, session, on_line)


def _lay_over(
    component: ComponentPlan,
    patched: Mapping[str, bytes | None],
    session: Session,
    on_line: OnOutput,
) -> None:
    """The files that patches left, as the newest of all; None removes one."""
    root = component.folder
    for name, content in patched.items():
        if content is not None:
            session.put(content, f"{root}/{name}")
    for argv, gone in ((["touch"], False), (["rm"], True)):
        names = [f"{root}/{name}" for name, content in patched.items() if (content is None) == gone]
        if names:
            _run(session, component, [*argv, *names], WORK, on_line)


def _lay(component: ComponentPlan, source: SourceTree, session: Session, on_line: OnOutput) -> None:
    """Unpack the source, and put beside it what the plan says."""
    archive, root = f"{WORK}/{component.name}/source.tar", component.folder
    session.put(source.archive, archive)
    strip = f"--strip-components={source.strip}"
    for argv in (
        ["install", "-d", root, TMP],
        ["tar", "-xf", archive, "-C", root, "--no-same-owner", strip],
        ["rm", archive],
    ):
        _run(session, component, argv, WORK, on_line)
    for place, text in component.files.items():
        session.put(text.encode(), place)
    for place, link_target in component.links.items():
        folders = ["install", "-d", os.path.dirname(place), link_target]
        for argv in (folders, ["ln", "-s", link_target, place]):
            _run(session, component, argv, WORK, on_line)


def _generate(
    component: ComponentPlan,
    patched: Mapping[str, bytes | None],
    session: Session,
    on_line: OnOutput,
) -> None:
    """Leave in the untouched tree what upstream generates in it: as an earlier room kept it, or
    made here and kept. All is of one age then, and upstream's own rules find nothing to do.

    Nothing is done where the patches touch what is read for it: a rule looks no further than to
    the imports of a package, and would leave some of it as it was.
    """
    root, kept = component.folder, component.generated
    part = f"{kept}.{secrets.token_hex(8)}"

    def run(*argv: str, to: OnOutput = on_line) -> None:
        _run(session, component, list(argv), root, to)

    def age() -> None:
        run("find", ".", "-exec", "touch", "-h", "-d", "@0", "{}", "+")

    if patched:
        reads: list[str] = []
        run(*component.reads, to=reads.append)
        touched = [name for name, content in patched.items() if _is_read(name, content, reads)]
        if touched or not reads:
            on_line(f"what is generated may depend on the patches: {', '.join(touched)}")
            return
    run("install", "-d", GENERATED)
    run("find", GENERATED, "-type", "f", "-mtime", f"+{UNUSED_DAYS}", "-delete")
    if session.run(["gzip", "-t", kept], environment=component.environment).ok:
        run("touch", kept)
        run("tar", "-xzf", kept)
    else:
        age()
        run(*component.generate)
        run("find", ".", "-newermt", "@0", "!", "-type", "d", "-fprint0", f"{root}.new")
        run("tar", "-cf", part, "--null", "-T", f"{root}.new")
        run("gzip", "-1", part)
        run("mv", f"{part}.gz", kept)  # at once: another build may be reading the one before
    age()


def _is_read(name: str, content: bytes | None, reads: Collection[str]) -> bool:
    """Whether what is generated may depend on a file that a patch leaves with that content."""
    folder = os.path.dirname(name).replace("staging/src/", "vendor/", 1)
    return not name.endswith(".go") or folder in reads or b"+k8s:" in (content or b"")


def _run(
    session: Session, component: ComponentPlan, argv: list[str], folder: str, on_line: OnOutput
) -> None:
    result = session.run(argv, environment=component.environment, folder=folder, on_line=on_line)
    if result.ok:
        return
    said = "\n".join(result.tail)
    if FULL.search(said):
        raise MachineError(
            f"{component.name} {component.version}: the disk of the build is full",
            place=session.disk,
            next_step="free some room there, then run the same command again",
            detail=result.tail,
        )
    if result.exit_code == KILLED or KILLED_WORDS.search(said):
        raise MachineError(
            f"{component.name} {component.version}: the system killed a compiler, most likely for "
            "want of memory",
            place=shlex.join(argv),
            next_step=f"linking kubelet takes {LINK_MEMORY >> 20}m: give --memory at least that, "
            "or stop something else on this machine",
            detail=result.tail,
        )
    replay = shlex.join(
        ["env", "-C", folder, *(f"{k}={v}" for k, v in component.environment.items()), *argv]
    )
    raise CompileError(
        f"{component.name} {component.version}: {argv[0]} failed with exit code {result.exit_code}",
        place=replay,
        next_step="build again with --keep to get into the room and replay that command",
        detail=result.tail,
    )
