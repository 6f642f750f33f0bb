"""What a swap costs on a real node: `python -m benchmarks.swap IMAGE dist/v1.20.2
dist/v1.20.2-stock`.

How long kubelet is down, beside systemd's own stop and start, and what `verify` takes where there
are as many cgroups as 250 pods have. On the node of the tests, with their pods; the image is the
one that they made, nokmem/test-node.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

from benchmarks.measure import in_turns, run, table
from tests.e2e.swap import SCRIPT, Swap
from tests.node import Node

ROUNDS = 5
#: Those of 250 pods, by names that kubelet does not take for its own pods' and removes.
CROWD = "/sys/fs/cgroup/memory/kubepods/crowd{0..249}"
#: Microseconds since boot at which kubelet ended, and at which it began again.
ENDED, BEGAN = "InactiveEnterTimestampMonotonic", "ExecMainStartTimestampMonotonic"


def down(lab: Swap) -> float:
    """Seconds that kubelet was down the last time."""
    ended, began = (
        int(lab.node.run("systemctl", "show", "-P", name, "kubelet")) for name in (ENDED, BEGAN)
    )
    return (began - ended) / 1e6


def restarted(lab: Swap) -> float:
    lab.node.run("sh", "-c", "systemctl stop kubelet && systemctl start kubelet")
    return down(lab)


def swapped(lab: Swap) -> float:
    lab.forget()
    lab.swap("old")
    done = lab.script("apply", "--settle", "0")
    assert done.code == 0, done
    return down(lab)


def fill(lab: Swap, word: str) -> None:
    """`mkdir` or `rmdir` the crowd."""
    parents, children = CROWD, f"{CROWD}/{{0..2}}"
    order = (parents, children) if word == "mkdir" else (children, parents)
    lab.node.run("bash", "-c", " && ".join(f"{word} {names}" for names in order))


def main(image: str, dist: str, control: str) -> None:
    kubelets = {"new": Path(dist, "kubelet"), "old": Path(control, "kubelet")}
    with closing(Node(image)) as node:
        lab = Swap(node, kubelets, Path(dist), Path(control, "runc"))
        lab.reset("old")
        pairs = [(swapped(lab), restarted(lab)) for _ in range(ROUNDS)]
        asked = partial(run, ("docker", "exec", str(node.container.id), "bash", SCRIPT, "help"))
        verified = partial(run, (*asked.args[0][:-1], "verify"))
        fill(lab, "mkdir")
        start, full = in_turns(ROUNDS, asked, verified)
        fill(lab, "rmdir")
    swap, plain = (statistics.median(each) for each in zip(*pairs, strict=True))
    more = full.seconds - start.seconds
    table(
        [
            ("kubelet down in a swap", f"{swap - plain:.2f} s over stop and start", "2 s",
             f"{swap:.2f} s down in a swap, {plain:.2f} s between stop and start"),
            ("`verify`, beside 1000 cgroups more", f"{more:.2f} s over `help`", "2 s",
             f"{full.seconds:.2f} s; `help` {start.seconds:.2f} s, both by `docker exec`"),
        ]
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
