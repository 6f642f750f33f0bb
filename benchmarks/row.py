"""What each release costs in a row with one cache, empty at the start: `python -m benchmarks.row
v1.20.14 v1.20.15 --kubelet-tags providerless`. What follows the releases is given to each build.

Sources, toolchain and Go must be at hand. A few minutes for each release.
"""

from __future__ import annotations

import os
import sys
import tempfile
from itertools import takewhile

from benchmarks.builds import empty
from benchmarks.measure import Cost, ratio, run, said, table
from builders.tools.cache import Cache, size_of

BUILD = (sys.executable, "tasks.py", "build", "--builder", "rootfs")


def main(*words: str) -> None:
    releases = list(takewhile(lambda word: not word.startswith("-"), words))
    costs: list[Cost] = []
    sizes = [0]
    with empty(Cache.default(os.environ)) as own, tempfile.TemporaryDirectory() as dist:
        for release in releases:
            more = (*words[len(releases) :], "--dist", dist)
            environment = {"NOKMEM_CACHE": str(own.root)}
            costs.append(run((*BUILD, "--k8s", release, *more), environment))
            sizes.append(size_of(own.root / "go"))
            print(release, said(costs[-1]), file=sys.stderr)
    table(
        (
            release,
            f"{ratio(cost, costs[0])} of the first; Go's cache grew {(size - before) / 1e6:.0f} MB",
            "-",
            said(cost),
        )
        for release, cost, before, size in zip(releases, costs, sizes, sizes[1:], strict=False)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
