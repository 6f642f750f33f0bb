"""How long kubelet is down during a swap, beside systemd's own stop and start: `python -m
benchmarks.downtime IMAGE dist/v1.20.2 dist/v1.20.2-stock`.

On the node of the tests, with their pods; the image is the one that they made, nokmem/test-node.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import closing
from pathlib import Path

from benchmarks.measure import table
from tests.e2e.swap import Swap
from tests.node import Node

ROUNDS = 5
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


def main(image: str, dist: str, control: str) -> None:
    kubelets = {"new": Path(dist, "kubelet"), "old": Path(control, "kubelet")}
    with closing(Node(image)) as node:
        lab = Swap(node, kubelets, Path(dist), Path(control, "runc"))
        lab.reset("old")
        pairs = [(swapped(lab), restarted(lab)) for _ in range(ROUNDS)]
    swap, plain = (statistics.median(each) for each in zip(*pairs, strict=True))
    said = f"{swap:.2f} s down in a swap, {plain:.2f} s between stop and start"
    table([("kubelet down in a swap", f"{swap - plain:.2f} s over stop and start", "2 s", said)])


if __name__ == "__main__":
    main(*sys.argv[1:])
