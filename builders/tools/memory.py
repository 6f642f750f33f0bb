"""How much memory a program started here may still take: the kernel's own files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")


def available(root: Path = ROOT) -> int | None:
    """Bytes: what the machine has to spare, or what a limit on this process' cgroups leaves, where
    that is less. None where the machine does not say. Page cache counts as free: it is given back.
    """
    found = []
    with suppress(OSError, LookupError, ValueError):
        text = (root / "proc/meminfo").read_text()
        found.append(int(text.split("MemAvailable:")[1].split()[0]) << 10)
        found += _left(root)
    return min(found, default=None)


def _left(root: Path) -> Iterator[int]:
    """What each limit leaves; of a cgroup v1, the least of those above it stands for them all."""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        path = top / own.lstrip("/")
        while True:  # a container without a cgroup namespace is told a path of its host's
            with suppress(OSError, LookupError, ValueError):
                stat = dict(row.split() for row in (path / "memory.stat").read_text().splitlines())
                if controllers:
                    yield int(stat["hierarchical_memory_limit"]) - int(stat["total_rss"])
                    break
                yield int((path / "memory.max").read_text()) - int(stat["anon"])
            if path == top:
                break
            path = path.parent
