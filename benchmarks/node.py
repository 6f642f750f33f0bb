"""What the node script takes on a full node: `python -m benchmarks.node`. 250 pods of four cgroups
(its own, its sandbox, two containers), in a tree with Linux 3.10's behaviour and, as root where
memory cgroups of version 1 are mounted, in this kernel's own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.measure import in_turns, run, said, table
from tests.integration.tree import MEMORY, Tree
from tests.rollout import place

ROUNDS = 9
PODS = 250
HERE = Path("/sys/fs/cgroup/memory")


def names() -> Iterator[str]:
    yield "kubepods"
    for number in range(PODS):
        pod = f"kubepods/pod{number:032x}"
        yield pod
        yield from (f"{pod}/{number:032x}{one:032x}" for one in range(3))


@contextmanager
def kernels(folder: Path) -> Iterator[Path]:
    """A root whose cgroups are this kernel's, all in one that is removed."""
    own = HERE / f"nokmem-benchmark-{os.getpid()}"
    own.mkdir()
    made = [own]
    try:
        for name in names():
            made.append(own / name)
            made[-1].mkdir()
        (folder / "sys/fs/cgroup").mkdir(parents=True)
        (folder / MEMORY).symlink_to(own)
        (folder / "sys/kernel").symlink_to("/sys/kernel")
        (folder / "proc").symlink_to("/proc")
        yield folder
    finally:
        for one in reversed(made):
            one.rmdir()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        script = place(Path(name))
        tree = Tree(Path(name) / "tree")
        for path in names():
            tree.cgroup(path)
        tree.swapped()
        bash = shutil.which("bash") or "bash"
        asked = partial(run, (bash, str(script), "help"))
        full = partial(run, (bash, str(script), "diagnose", "--root", str(tree.root)))
        start, diagnosed = in_turns(ROUNDS, asked, full)
        rows = [("`diagnose`, a tree with 3.10's behaviour", diagnosed)]
        if os.geteuid() == 0 and HERE.is_dir():
            with kernels(Path(name) / "here") as root:
                words = (bash, str(script), "diagnose", "--root", str(root))
                (here,) = in_turns(ROUNDS, partial(run, words))
                rows.append(("`diagnose`, this kernel's cgroups", here))
    table(
        (
            what,
            f"{cost.seconds - start.seconds:.2f} s over `help`",
            "2 s",
            f"{said(cost)}; `help` {said(start)}",
        )
        for what, cost in rows
    )


if __name__ == "__main__":
    main()
