"""What memory is left, on machines as trees of files: the kernel's words are real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.tools.memory import available

PLENTY = {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    4194304 kB\n"}
GROUP_1 = "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n"
STAT_1 = "rss 1\nhierarchical_memory_limit {}\ntotal_rss 1048576\n"
TREES = {
    "no limit": (PLENTY, 4 << 30),
    "no word of it": ({}, None),
    "v1, no limit": (
        PLENTY | {"proc/self/cgroup": GROUP_1,
                  "sys/fs/cgroup/memory/a/b/memory.stat": STAT_1.format(0x7FFFFFFFFFFFF000)},
        4 << 30,
    ),
    "v1": (
        PLENTY | {"proc/self/cgroup": GROUP_1,
                  "sys/fs/cgroup/memory/a/b/memory.stat": STAT_1.format(2 << 30)},
        (2 << 30) - 1048576,
    ),
    "v1, told a path of the host's": (
        PLENTY | {"proc/self/cgroup": GROUP_1,
                  "sys/fs/cgroup/memory/memory.stat": STAT_1.format(2 << 30)},
        (2 << 30) - 1048576,
    ),
    "v2, the limit is on a group above": (
        PLENTY | {"proc/self/cgroup": "0::/a/b\n",
                  "sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.stat": "anon 1\n",
                  "sys/fs/cgroup/a/memory.max": "2147483648\n",
                  "sys/fs/cgroup/a/memory.stat": "anon 1048576\nfile 9\n"},
        (2 << 30) - 1048576,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_the_least_of_all_bounds_counts(name: str, tmp_path: Path) -> None:
    files, expected = TREES[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert available(tmp_path) == expected
