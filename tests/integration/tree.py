"""A node's /proc and /sys as files, with what Linux 3.10 says there."""

from __future__ import annotations

import os
from pathlib import Path

from tests.rollout import BUILD

EL7 = "3.10.0-514.el7.x86_64"
MEMORY = "sys/fs/cgroup/memory"
HEADER = "slabinfo - version: 2.1\n# name            <active_objs> <num_objs> <objsize>\n"
BOOT = "12345678-1234-1234-1234-123456789abc"


class Tree:
    """What --root may name."""

    def __init__(self, root: Path, kernel: str = EL7, options: str = "") -> None:
        self.root = root
        self.write("proc/sys/kernel/osrelease", f"{kernel}\n")
        self.write("proc/sys/kernel/hostname", "node-1\n")
        self.write("proc/sys/kernel/random/boot_id", f"{BOOT}\n")
        self.write("proc/1/stat", f"1 (systemd) S {' '.join(str(n) for n in range(50))}\n")
        self.write("proc/cmdline", f"BOOT_IMAGE=/vmlinuz-{kernel} ro quiet {options}\n")
        self.write("proc/meminfo", "MemTotal:  8009216 kB\nSlab:       204800 kB\n")
        self.write("proc/mounts", "cgroup /sys/fs/cgroup/memory cgroup rw,nosuid,memory 0 0\n")
        self.write(
            "proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t8\t65535\t1\n"
        )
        (root / "sys/kernel/slab/kmalloc-64").mkdir(parents=True)
        (root / MEMORY).mkdir(parents=True)

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.fsencode(text))
        return file

    def cgroup(self, path: str, accounted: bool = False, usage: str = "0") -> Path:
        """One that is not accounted gives a true input/output error for its slabs."""
        folder = self.root / MEMORY / path
        folder.mkdir()
        (folder / "memory.kmem.usage_in_bytes").write_text(f"{usage}\n")
        slabs = folder / "memory.kmem.slabinfo"
        if accounted:
            slabs.write_text(f"{HEADER}kmalloc-64 (deleted) 64 64 64\n")
        else:
            slabs.symlink_to("/proc/self/mem")
        return folder

    def cgroups(self, *paths: str, accounted: bool = False, usage: str = "0") -> None:
        for path in paths:
            self.cgroup(path, accounted, usage)

    def cache(self, cache: str, number: int, cgroup: str) -> None:
        """The cache of one memory cgroup, there or gone."""
        (self.root / f"sys/kernel/slab/{cache}({number}:{cgroup})").mkdir()

    def swapped(self, boot: str = BOOT) -> None:
        """A swap, to which all stands before that is there now."""
        memory = self.root / MEMORY
        lines = [
            f"{path.stat().st_ino} /{path.relative_to(self.root)}\n"
            for path in sorted(memory.rglob("*"))
            if path.is_dir() and "kubepods" in str(path.relative_to(memory))
        ]
        state = "var/lib/nokmem"
        self.write(f"{state}/runs/0001/forward.cgroups", "".join(lines))
        plan = ("schema 1", f"build {BUILD}", "mode in-place", f"boot {boot}.18", "")
        self.write(f"{state}/runs/0001/plan", "\n".join(plan))
        (self.root / state / "current").symlink_to("runs/0001")

    def __fspath__(self) -> str:
        return os.fspath(self.root)
