"""What it costs to ask: `python -m benchmarks.startup DIST`, where DIST/v1.20.2 stands."""

from __future__ import annotations

import sys
from functools import partial

from benchmarks.measure import in_turns, run, said, table

ROUNDS = 9
FRONT = (sys.executable, "tasks.py")


def main(dist: str) -> None:
    k8s = ("--k8s", "v1.20.2")
    bare, listed, planned, again = in_turns(
        ROUNDS,
        partial(run, (sys.executable, "-c", "pass")),
        partial(run, (*FRONT, "--list")),
        partial(run, (*FRONT, "plan", *k8s, "--format", "json")),
        partial(run, (*FRONT, "build", *k8s, "--dist", dist)),
    )
    over = f"{planned.seconds - bare.seconds:.2f} s over the interpreter's start"
    table(
        [
            ("`plan`", over, "0.3 s", f"{said(planned)}; interpreter {said(bare)}"),
            (
                "`build`, nothing changed",
                f"{again.seconds - listed.seconds:.2f} s over starting the tool",
                "1 s",
                f"{said(again)}; `--list` {said(listed)}",
            ),
        ]
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
