"""The command line. Arguments, environment and clock come in, text and an exit code go out.

Everything heavy is imported inside a task, so that listing the tasks costs nothing.

Exit codes: 0 done, 1 unforeseen, 2 usage, 3 unknown release, 4 machine lacks something,
5 source unavailable, 6 integrity, 7 toolchain, 8 compile, 9 proof, 10 busy, 11 facts,
130 interrupted.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

if TYPE_CHECKING:
    from builders.steps.contents import Row
    from builders.tools.cache import Cache
    from builders.tools.terminal import Terminal

ROOT = Path(__file__).parent
DIST = "dist"
#: Bytes; no engine starts a container with less than 6 MB, no compiler lives in less than this.
LEAST_MEMORY = 64 << 20
#: What to build: the options that `plan` and `build` share.
WHAT = {
    "k8s": "Kubernetes release, such as v1.20.2",
    "variant": "nokmem, or stock: the control, built the same but with accounting",
    "target": "the nodes to build for",
    "runc": "runc release, such as 1.0.0-rc10, instead of the one that goes with --k8s",
    "runc_source": "auto, debian, git, or a folder with runc's repository",
}

#: Options have one spelling, the long one: a script should read like a sentence.
command = functools.partial(task, auto_shortflags=False)


@command(
    help={
        **WHAT,
        "format": "text or json",
    }
)
def plan(
    _: Context,
    k8s: str,
    variant: str = "nokmem",
    target: str = "el7",
    runc: str = "",
    runc_source: str = "auto",
    format: str = "text",  # noqa: A002 -- the option's name
) -> None:
    """Print what a build would do: every source, hash, flag and deviation. Contacts nobody.

    Exit codes: 2 usage, 3 unknown release, 5 no source known.
    """
    with _terminal() as terminal:
        from builders import pipeline
        from builders.errors import UsageError
        from builders.model.plan import BuildRequest

        if format not in ("text", "json"):
            raise UsageError(
                f"{format!r} is not a format", place="--format", next_step="use text or json"
            )
        provider, _folders = _source(runc_source)
        decided = pipeline.plan(BuildRequest(k8s, variant, target, runc, provider))
        if format == "json":
            terminal.text(decided.to_json().rstrip("\n"))
            return
        pairs = {
            "kubernetes": f"{decided.kubernetes} ({decided.kubernetes_commit})",
            "variant": f"{decided.variant}, by: {decided.mechanism}",
            "target": f"{decided.target.name}: glibc {decided.target.glibc}",
            "toolchain": f"{decided.toolchain.name}, Go {decided.toolchain.go}, "
            f"{len(decided.toolchain.packages)} packages, key {decided.toolchain.key[:16]}",
            "epoch": str(decided.epoch),
        }
        for component in decided.components:
            pairs[component.name] = (
                f"{component.version}, {component.linking}, tags {' '.join(component.tags)}; from "
                f"{component.source.provider} {component.source.revision}"
            )
        for number, deviation in enumerate(decided.deviations):
            pairs[f"deviates {number + 1}"] = deviation
        terminal.facts(pairs)


@command(help={"format": "text, markdown or json"})
def matrix(
    _: Context,
    format: str = "text",  # noqa: A002 -- the option's name
) -> None:
    """Print every known release: its Go, its runc, how nokmem gets in, and what was proven.

    Exit codes: 2 usage.
    """
    with _terminal() as terminal:
        import dataclasses
        import json

        from builders import pipeline
        from builders.errors import UsageError

        rows = [dataclasses.asdict(row) for row in pipeline.matrix()]
        names = {
            "kubernetes": "Kubernetes", "go": "Go", "vendored_runc": "vendored runc",
            "nokmem": "nokmem by", "runc": "runc beside", "sources": "source here",
            "proven": "proven", "runc_proven": "runc proven",
        }  # fmt: skip
        cells = [[row[name] or "-" for name in names] for row in rows]
        if format == "json":
            terminal.text(json.dumps(rows, indent=2))
        elif format == "markdown":
            for line in (list(names.values()), ["---"] * len(names), *cells):
                terminal.text(f"| {' | '.join(line)} |")
        elif format == "text":
            terminal.table(tuple(names.values()), cells)
        else:
            raise UsageError(
                f"{format!r} is not a format",
                place="--format",
                next_step="use text, markdown or json",
            )


@command(
    help={
        **WHAT,
        "builder": "auto, container or rootfs",
        "dist": "folder that receives <release>/",
        "memory": "limit of the build container, such as 4g",
        "cpus": "cores that the build may use, such as 2",
        "keep": "keep the build room to look into; its entry is printed",
    }
)
def build(
    _: Context,
    k8s: str,
    variant: str = "nokmem",
    target: str = "el7",
    runc: str = "",
    runc_source: str = "auto",
    builder: str = "auto",
    dist: str = DIST,
    memory: str = "",
    cpus: str = "",
    keep: bool = False,
) -> None:
    """Compile kubelet and runc without kernel-memory accounting, prove it, fill dist/<release>/.

    Exit codes: 2 usage, 3 unknown release, 4 machine, 5 unavailable, 6 integrity,
    7 toolchain, 8 compile, 9 proof, 10 busy.
    """
    with _terminal() as terminal:
        from builders import pipeline
        from builders.model.plan import BuildRequest
        from builders.tools.builder import Limits

        limits = Limits(_bytes(memory), _cores(cpus))
        provider, folders = _source(runc_source)
        place, report = pipeline.build(
            BuildRequest(k8s, variant, target, runc, provider),
            pipeline.Options(builder, limits, keep, folders),
            Path(dist),
            _cache(),
            os.environ,
            terminal,
        )
        names = sorted({check.binary for check in report.checks})
        terminal.text(f"{place}: {', '.join(names)}; {len(report.checks)} checks passed")


@command(help={"dist": "a folder that a build has made, such as dist/v1.20.2"})
def verify(_: Context, dist: str) -> None:
    """Prove a dist folder again: files, hashes, architecture, libraries, version, nokmem.

    Exit codes: 2 usage, 3 unknown release, 9 proof.
    """
    with _terminal() as terminal:
        from builders import pipeline

        _manifest, report = pipeline.verify(Path(dist))
        terminal.table(
            ("", "binary", "check", "found"),
            (
                ("pass" if check.passed else "FAIL", check.binary, check.name, check.found)
                for check in report.checks
            ),
        )
        if not report.passed:
            raise pipeline.proof_error(report, dist)


@command(help={"dist": "folder that would receive <release>/"})
def doctor(_: Context, dist: str = DIST) -> None:
    """Say what this machine can do, and why not: builders, sources, disk, memory.

    Exit codes: 4 this machine cannot build.
    """
    with _terminal() as terminal:
        from builders import pipeline
        from builders.errors import MachineError
        from builders.steps import examine

        findings = pipeline.doctor(_cache(), Path(dist), os.environ)
        terminal.table(
            ("", "what", "found"),
            (("ok" if row.ok else "no", row.name, row.found) for row in findings),
        )
        missing = [row for row in findings if not row.ok]
        if missing:
            terminal.text("")
            terminal.table(("what", "next step"), ((row.name, row.next_step) for row in missing))
        terminal.text("")
        if not examine.can_build(findings):
            raise MachineError(
                "this machine cannot build yet",
                place=", ".join(row.name for row in missing),
                next_step="mend what is listed above, then run doctor again",
            )
        terminal.text("this machine can build")


@command(default=True, help={"files": "name every file instead of their sum"})
def show(_: Context, files: bool = False) -> None:
    """Say what the cache keeps, how large it is, and whether it is still needed."""
    with _terminal() as terminal:
        from builders import pipeline

        cache = _cache()
        rows = _rows(pipeline.cache_rows(cache), files)
        terminal.text(f"{cache.root}")
        terminal.table(("kind", "name", "size", "needed"), rows)


@command(
    help={
        "everything": "remove what is still needed too",
        "dry_run": "only say what would go",
    }
)
def prune(_: Context, everything: bool = False, dry_run: bool = False) -> None:
    """Remove from cache and engine what no known release needs any more.

    Exit codes: 10 a build is running.
    """
    with _terminal() as terminal:
        from builders import pipeline
        from builders.tools.terminal import size

        gone = pipeline.prune(_cache(), everything=everything, dry_run=dry_run)
        terminal.table(("kind", "name", "size", "needed"), _rows(gone, False))
        total = size(sum(row.size for row in gone))
        terminal.text(f"{'would remove' if dry_run else 'removed'} {len(gone)} things, {total}")


@command(help={"write": "write the lock instead of only comparing"})
def pins(_: Context, write: bool = False) -> None:
    """Resolve toolchain and distribution sources anew and print the difference to the lock.

    Exit codes: 1 they differ, 4 no apt, 5 unavailable, 6 integrity.
    """
    with _terminal() as terminal:
        import difflib

        from builders import pipeline

        path, text = pipeline.relock(os.environ)
        old = path.read_text() if path.exists() else ""
        name = str(path.relative_to(ROOT))
        difference = difflib.unified_diff(
            old.splitlines(),
            text.splitlines(),
            f"{name} (written)",
            f"{name} (archive)",
            lineterm="",
        )
        for line in difference:
            terminal.text(line)
        if write:
            path.write_text(text)
        terminal.say(f"{name}: {'as the archive' if old == text else 'differs from the archive'}")
        if old != text and not write:
            raise Exit(code=1)


@command(
    help={
        "everything": "all levels, and what cannot run is a failure",
        "level": "only one level: unit, integration or e2e",
        "select": "only tests whose names match (pytest -k)",
    }
)
def test(_: Context, everything: bool = False, level: str = "", select: str = "") -> None:
    """Run the tests: unit and integration, or with --everything the real builds too.

    Exit codes: pytest's own, 2 usage.
    """
    from builders.tools import process

    levels = ("unit", "integration", "e2e")
    if level and level not in levels:
        raise Exit(f"usage: {level!r} is not a level: use one of {', '.join(levels)}", code=2)
    chosen = (level,) if level else levels if everything else levels[:2]
    words = [_tool("pytest"), *(f"tests/{name}" for name in chosen)]
    words += ["--everything"] if everything else []
    words += ["-k", select] if select else []
    raise Exit(code=process.attached(words, cwd=ROOT))


@command()
def lint(_: Context) -> None:
    """Check style, types, import contracts, shell scripts and the lowest Python.

    Exit codes: 1 a check failed, 4 shellcheck is not installed.
    """
    from builders.tools import process

    shellcheck = process.find("shellcheck")
    if shellcheck is None:
        raise Exit(f"shellcheck is missing: {process.install_hint('shellcheck')}", code=4)
    scripts = ["run", ".ci/run", *(str(p.relative_to(ROOT)) for p in ROOT.glob("[!.]*/**/*.sh"))]
    commands = (
        [_tool("ruff"), "check", "."],
        [_tool("ruff"), "format", "--check", "."],
        [_tool("mypy")],
        [_tool("lint-imports")],
        [_tool("vermin"), "--no-tips", "--target=3.10-", "--violations", "tasks.py", "builders"],
        [shellcheck, *scripts],
    )  # fmt: skip
    failed = [
        Path(command[0]).name for command in commands if process.attached(command, cwd=ROOT) != 0
    ]
    if failed:
        raise Exit(f"lint: {', '.join(failed)} found something", code=1)


def _tool(name: str) -> str:
    """A program of the environment that runs this, or a word on how to get it."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise Exit(f"{name} is not in {path.parent}: ./run test and ./run lint bring it", code=4)
    return str(path)


def _rows(rows: Iterable[Row], files: bool) -> list[tuple[str, str, str, str]]:
    """Rows as text; files summed up unless asked for one by one."""
    from builders.tools.terminal import size

    shown = [row for row in rows if files or row.kind != "file"]
    found = [(row.kind, row.name, size(row.size), "yes" if row.needed else "no") for row in shown]
    for needed in (True, False):
        group = [row for row in rows if row.kind == "file" and row.needed is needed]
        if group and not files:
            total = size(sum(row.size for row in group))
            found.append(("file", f"{len(group)} files", total, "yes" if needed else "no"))
    return found


def _source(word: str) -> tuple[str, dict[str, Path]]:
    """The provider that --runc-source names, and the folder, where it is one."""
    from builders.model.plan import PROVIDERS

    if word in PROVIDERS and word != "dir":
        return word, {}
    return ("dir", {"runc": Path(word)}) if Path(word).is_dir() else (word, {})


def _bytes(text: str) -> int | None:
    import re

    from builders.errors import UsageError

    if not text:
        return None
    match = re.fullmatch(r"(\d{1,6})([mg])", text.lower())
    size = int(match[1]) << (20 if match[2] == "m" else 30) if match else 0
    if size < LEAST_MEMORY:
        raise UsageError(
            f"{text!r} is not a size of at least {LEAST_MEMORY >> 20}m",
            place="--memory",
            next_step="write 4g or 900m",
        )
    return size


def _cores(text: str) -> float | None:
    from builders.errors import UsageError

    if not text:
        return None
    try:
        count = float(text)
    except ValueError:
        count = 0
    if not 0.1 <= count <= 1024:
        raise UsageError(
            f"{text!r} is not a count of cores from 0.1 to 1024",
            place="--cpus",
            next_step="write 2",
        )
    return count


def _cache() -> Cache:
    from builders.tools.cache import Cache

    return Cache.default(os.environ)


@contextmanager
def _terminal() -> Iterator[Terminal]:
    """A terminal, and the way from errors and signals to exit codes."""
    from builders.errors import INTERRUPTED_EXIT_CODE, MachineError, NokmemError
    from builders.tools.terminal import Terminal

    terminal = Terminal(ci=bool(os.environ.get("CI")))

    def interrupt(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
            signal.signal(number, interrupt)
    try:
        yield terminal
    except NokmemError as error:
        terminal.error(error.kind, error.fact, error.place, error.next_step, error.detail)
        raise Exit(code=error.exit_code) from error
    except OSError as error:
        place = str(error.filename or error.strerror)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some room" if full else "look at the owner and the rights of that place"
        terminal.error("machine", error.strerror or str(error), place, advice, ())
        raise Exit(code=MachineError.exit_code) from error
    except KeyboardInterrupt as error:
        terminal.error("interrupted", str(error) or "SIGINT", "", "run the same command again", ())
        raise Exit(code=INTERRUPTED_EXIT_CODE) from error
    finally:
        sys.stdout.flush()


namespace = Collection(plan, matrix, build, verify, doctor, pins, test, lint)
namespace.add_collection(Collection("cache", show, prune))
