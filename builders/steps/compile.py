"""Plan and source tree -> binary, in a session of whichever builder."""

from __future__ import annotations

import io
import os
import re
import secrets
import shlex
import tarfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from builders.errors import CompileError, IntegrityError, MachineError, ToolchainError
from builders.model.artifact import Binary, SourceTree
from builders.model.plan import GENERATED, TMP, WORK, ComponentPlan, GoPlan
from builders.model.toolchains import go_name
from builders.tools import elf
from builders.tools.builder import Session
from builders.tools.cache import sha256_of
from builders.tools.files import Program

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

#: Each file of an archive over the one of its name below /, which keeps its mode but for the right
#: to execute it.
LAY_OVER = r"""
mkdir "$0"
tar -xf "$0.tar" -C "$0" --no-same-owner
cd "$0"
find . -type f -exec sh -ec '
    cd /
    for name; do
        mkdir -p "${name%/*}"
        cat "$0/$name" >"$name"
        if [ -x "$0/$name" ]; then
            chmod +x "$name"
        elif [ -x "$name" ]; then
            chmod -x "$name"
        fi
    done' "$0" {} +
rm -rf "$0" "$0.tar"
"""
LINK = 'mkdir -p "${0%/*}" "$1"; ln -s "$1" "$0"'
#: What nobody used for $1 days goes.
FORGET = 'mkdir -p "$0"; find "$0" -type f -mtime "+$1" -delete'
#: Unpack what is kept, if it is; both files are used then.
ABSENT = 3
UNPACK = f'test -e "$0" || exit {ABSENT}; tar -xzf "$0"; touch -c "$0" "$1"'
#: Keep at once, because another build may be reading the one before.
KEEP_NEW = (
    'find . -newermt @0 ! -type d -print0 | tar -c -I "gzip -1" --null -T - >"$1"; mv "$1" "$0"'
)
KEEP_TEXT = 'gzip -n "$1"; mv "$1.gz" "$0"'

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
    if not any(line.startswith(f"go version go{go_name(go.version)} ") for line in result.tail):
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
    command = list(component.command)
    _lay(component, source, session, on_line)
    if component.generate:
        try:
            if _generate(component, source, patched, session, on_line):
                command[1:1] = ["-o", component.generate[-1]]  # there is nothing to do in it
        except CompileError as error:  # a patch may be what it lacks: as upstream does it then
            on_line(f"nothing is generated before the patches: {error.fact}")
            _lay_anew(component, source, session, on_line)
    _lay_patched(component, patched, session, on_line)

    def take(line: str) -> None:
        on_line(line)
        if PACKAGE.fullmatch(line):
            on_package(line)

    _run(session, component, command, component.folder, take)
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
    _lay_patched(component, patched, session, on_line)


def _lay_patched(
    component: ComponentPlan,
    patched: Mapping[str, bytes | None],
    session: Session,
    on_line: OnOutput,
) -> None:
    """The files that patches left, as the newest of all; None removes one."""
    there = {f"{component.folder}/{name}": content for name, content in patched.items()}
    left = {path: content for path, content in there.items() if content is not None}
    _lay_over(component, left, session, on_line)
    if there.keys() > left.keys():
        _run(session, component, ["rm", "-f", *(there.keys() - left.keys())], WORK, on_line)


def _lay_over(
    component: ComponentPlan, files: Mapping[str, bytes], session: Session, on_line: OnOutput
) -> None:
    """Write files, by their paths in the room, all in one journey."""
    if not files:
        return
    with io.BytesIO() as packed:
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for path, content in files.items():
                entry = tarfile.TarInfo(path.lstrip("/"))
                entry.size, entry.mode = len(content), 0o644 | isinstance(content, Program) * 0o111
                tar.addfile(entry, io.BytesIO(content))
        place = f"{WORK}/{component.name}/over"
        session.put(packed.getvalue(), f"{place}.tar")
    _run(session, component, ["sh", "-ec", LAY_OVER, place], WORK, on_line)


def _lay(component: ComponentPlan, source: SourceTree, session: Session, on_line: OnOutput) -> None:
    """Unpack the source, and put beside it what the plan says."""
    archive, root = f"{WORK}/{component.name}/source.tar", component.folder
    session.put(source.archive, archive)
    strip = f"--strip-components={source.strip}"
    for argv in (
        ["install", "-d", root, TMP],
        ["tar", "-xf", archive, "-C", root, "--no-same-owner", strip],
    ):
        _run(session, component, argv, WORK, on_line)
    files = {place: text.encode() for place, text in component.files.items()}
    _lay_over(component, files, session, on_line)
    for place, link_target in component.links.items():
        _run(session, component, ["sh", "-ec", LINK, place, link_target], WORK, on_line)


def _lay_anew(
    component: ComponentPlan, source: SourceTree, session: Session, on_line: OnOutput
) -> None:
    _run(session, component, ["rm", "-rf", component.folder], WORK, on_line)
    _lay(component, source, session, on_line)


def _generate(
    component: ComponentPlan,
    source: SourceTree,
    patched: Mapping[str, bytes | None],
    session: Session,
    on_line: OnOutput,
) -> bool:
    """Leave in the untouched tree what upstream generates in it: as an earlier room kept it, or
    made here and kept. All is of one age then: upstream's own rules would find nothing to do.

    False where the patches touch what is read for it, and nothing is done: a rule looks no
    further than to the imports of a package, and would leave some of it as it was. What is read
    is kept, too.
    """
    root, kept = component.folder, component.generated
    known, part = f"{kept}.reads.gz", f"{kept}.{secrets.token_hex(8)}"

    def run(*argv: str, to: OnOutput = on_line) -> None:
        _run(session, component, list(argv), root, to)

    def code(*argv: str, to: OnOutput | None = None) -> int:
        environment = component.environment
        return session.run(argv, environment=environment, folder=root, on_line=to).exit_code

    def age() -> None:
        run("find", ".", "-exec", "touch", "-h", "-d", "@0", "{}", "+")

    run("sh", "-ec", FORGET, GENERATED, str(UNUSED_DAYS))
    if patched:
        reads: list[str] = []
        if code("gzip", "-cd", known, to=reads.append):
            reads.clear()
            run(*component.reads, to=reads.append)
            session.put("\n".join(reads).encode(), part)
            run("sh", "-ec", KEEP_TEXT, known, part)
        touched = [name for name, content in patched.items() if _is_read(name, content, reads)]
        if touched or not reads:
            on_line(f"what is generated may depend on the patches: {', '.join(touched)}")
            return False
    unpacked = code("sh", "-ec", UNPACK, kept, known)
    if unpacked not in (0, ABSENT):  # it is damaged, and some of it is there
        run("rm", "-f", kept)
        _lay_anew(component, source, session, on_line)
    if unpacked != 0:
        age()
        run(*component.generate)
        run("bash", "-ec", f"set -o pipefail; {KEEP_NEW}", kept, part)
    age()
    return True


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
            next_step=f"linking kubelet takes {LINK_MEMORY >> 20}m: give --memory, or whatever "
            "limits this command, at least that, or stop something else on this machine",
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
