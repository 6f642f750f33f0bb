"""Two commands in turns, and what the one costs beside the other: ratios hold on any machine,
seconds do not."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What a run took: wall seconds, and the most memory of any one of its processes, in bytes.
    Of several runs the median and the most, and the seconds of each."""

    seconds: float
    peak: int
    each: tuple[float, ...] = ()


def run(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end; CalledProcessError with its output where it fails."""
    began = time.monotonic()
    process = subprocess.Popen(
        argv,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(argv), output)
    return Cost(time.monotonic() - began, usage.ru_maxrss * 1024)


def in_turns(rounds: int, *works: Callable[[], Cost]) -> list[Cost]:
    """The median cost of each, run one after the other, `rounds` times over."""
    return medians([work() for work in works] for _ in range(rounds))


def medians(rounds: Iterable[Sequence[Cost]]) -> list[Cost]:
    """Of rounds of the same works, the median cost of each work."""
    return [
        Cost(
            statistics.median(cost.seconds for cost in costs),
            max(cost.peak for cost in costs),
            tuple(cost.seconds for cost in costs),
        )
        for costs in zip(*rounds, strict=True)
    ]


def table(rows: Iterable[tuple[str, str, str, str]]) -> None:
    """A markdown table: what was measured, the figure, the bound, how it was taken."""
    print("| what | measured | bound | seconds and peak memory |\n| --- | --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def said(cost: Cost) -> str:
    return f"{cost.seconds:.2f} s, {cost.peak / 1e6:.0f} MB"


def ratio(one: Cost, other: Cost) -> str:
    """The median of the ratios of each round, and their range."""
    if not one.each:
        return f"{one.seconds / other.seconds:.2f}"
    each = sorted(a / b for a, b in zip(one.each, other.each, strict=True))
    return f"{statistics.median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"
