"""The command line. Arguments, environment and clock come in, text and an exit code go out.

Everything heavy is imported inside a task, so that listing the tasks costs nothing.

Exit codes: 0 done, 1 unforeseen, 2 usage, 3 unknown release, 4 machine lacks something,
5 source unavailable, 6 integrity, 7 toolchain, 8 compile, 9 proof, 10 busy, 11 facts,
130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

if TYPE_CHECKING:
    from builders.tools.cache import Cache
    from builders.tools.terminal import Terminal

ROOT = Path(__file__).parent
DIST = "dist"


@task(
    help={
        "k8s": "Kubernetes release, such as v1.20.2",
        "variant": "nokmem, or stock: the control, built the same but with accounting",
        "target": "the nodes to build for",
        "format": "text or json",
    }
)
def plan(
    _: Context, k8s: str, variant: str = "nokmem", target: str = "el7", format: str = "text"
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
        decided = pipeline.plan(BuildRequest(k8s, variant, target))
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
                f"{component.source.provider} {component.source.revision}, "
                f"{len(component.source.files)} files"
            )
        for number, deviation in enumerate(decided.deviations):
            pairs[f"deviates {number + 1}"] = deviation
        terminal.facts(pairs)


@task(
    help={
        "k8s": "Kubernetes release, such as v1.20.2",
        "variant": "nokmem, or stock: the control, built the same but with accounting",
        "target": "the nodes to build for",
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
        place, report = pipeline.build(
            BuildRequest(k8s, variant, target),
            pipeline.Options(builder, limits, keep),
            Path(dist),
            _cache(),
            os.environ,
            terminal,
        )
        names = sorted({check.binary for check in report.checks})
        terminal.text(f"{place}: {', '.join(names)}; {len(report.checks)} checks passed")


@task(help={"dist": "a folder that a build has made, such as dist/v1.20.2"})
def verify(_: Context, dist: str) -> None:
    """Prove a dist folder again: files, hashes, architecture, libraries, version, nokmem.

    Exit codes: 2 usage, 9 proof.
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


def _bytes(text: str) -> int | None:
    import re

    from builders.errors import UsageError

    if not text:
        return None
    match = re.fullmatch(r"(\d+)([mg])", text.lower())
    if match is None:
        raise UsageError(f"{text!r} is not a size", place="--memory", next_step="write 4g or 900m")
    return int(match[1]) << (20 if match[2] == "m" else 30)


def _cores(text: str) -> float | None:
    from builders.errors import UsageError

    if not text:
        return None
    try:
        count = float(text)
    except ValueError:
        count = 0
    if not 0 < count <= 1024:
        raise UsageError(f"{text!r} is not a count of cores", place="--cpus", next_step="write 2")
    return count


def _cache() -> Cache:
    from builders.tools.cache import Cache

    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Cache(Path(os.environ.get("NOKMEM_CACHE") or Path(base, "nokmem")).absolute())


@contextmanager
def _terminal() -> Iterator[Terminal]:
    """A terminal, and the way from errors and signals to exit codes."""
    from builders.errors import INTERRUPTED_EXIT_CODE, NokmemError
    from builders.tools.terminal import Terminal

    terminal = Terminal(ci=bool(os.environ.get("CI")))

    def interrupt(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        yield terminal
    except NokmemError as error:
        terminal.error(error.kind, error.fact, error.place, error.next_step, error.detail)
        raise Exit(code=error.exit_code) from error
    except KeyboardInterrupt as error:
        terminal.error("interrupted", str(error) or "SIGINT", "", "run the same command again", ())
        raise Exit(code=INTERRUPTED_EXIT_CODE) from error
    finally:
        sys.stdout.flush()
