"""A node on which something happens in the middle of a run of the node script.

The units of a run find a dd before the real one. It is called for each line of the journal, and does at
that line what a test asked for: once, before the line is on the disk or after it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e import zoo
from tests.e2e.swap import KUBELET, RUNC, SCRIPT, STATE, Swap
from tests.node import MINUTE, Node, until

POINTS, CUT = "/opt/fault/points", "/opt/fault/cut"
DD = rf"""#!/bin/bash
[[ " $* " == *" oflag=append "* ]] || exec /bin/dd "$@"
line=$(cat && echo .)
line=${{line%.}}
strike() {{
    local number=0 moment words command
    while IFS='|' read -r moment words command; do
        number=$((number + 1))
        [[ $moment == "$1" && $line == *" $words"* ]] || continue
        sed -i "${{number}}d" {POINTS}
        eval "$command"
        return
    done <{POINTS}
}}
[ ! -s {POINTS} ] || strike before
printf '%s' "$line" | /bin/dd "$@"
code=$?
[ ! -s {POINTS} ] || strike after
exit $code
"""
CONF = "[Service]\nEnvironment=PATH=/opt/fault:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
#: The dd's parent is the script; systemd ends the rest of its unit.
KILL = "kill -9 $PPID; sleep 60"
#: The node stays as it is in this moment, until the test takes its power.
POWER = f"touch {CUT}; sleep 600"
FEW = ("one", "several", "host")
SICK = "/run/systemd/system/kubelet.service.d/99-sick.conf"
UNIT = "/etc/systemd/system/kubelet.service.d/10-another.conf"
#: Where kubelet is while it has a disk of its own.
SMALL = "/opt/small"
QUICK = ("--settle", "1", "--stable", "0", "--timeout", "20")


class Struck(Swap):
    """A swap's node with three pods, which are enough to be lost."""

    def __init__(self, node: Node, kubelets: dict[str, Path], dist: Path, leaking: Path) -> None:
        super().__init__(node, kubelets, dist, leaking)
        node.put(DD.encode(), "/opt/fault/dd", 0o755)
        node.put(CONF.encode(), "/etc/systemd/system/nokmem-rollout-.service.d/fault.conf")

    def wanted(self) -> dict[str, zoo.Manifest]:
        return {name: one for name, one in super().wanted().items() if name in FEW}

    def forget(self) -> None:
        self.node.run("rm", "-rf", POINTS, CUT, SICK)
        super().forget()

    def strike(self, moment: str, line: str, command: str) -> None:
        """Have a shell's command done before or after a line of the journal that has these words."""
        self.node.run("sh", "-c", f'printf "%s\\n" "$0" >>{POINTS}', f"{moment}|{line}|{command}")

    def sicken(self, *lines: str, since: str = "forward start_kubelet begin") -> None:
        """Give kubelet's unit other lines, until the way back begins."""
        self.node.put("\n".join(("[Service]", *lines, "")).encode(), "/opt/fault/sick")
        self.strike(
            "before", since, f"mkdir -p {SICK.rpartition('/')[0]} && cp /opt/fault/sick {SICK}"
        )
        self.strike("before", "back begun", f"rm -f {SICK}; systemctl daemon-reload")

    @contextmanager
    def begun(self, *lines: str) -> Iterator[None]:
        """Kubelet is begun by a unit with other lines meanwhile."""
        self.stop()
        self.node.put("\n".join(("[Service]", *lines, "")).encode(), UNIT)
        self.node.run("systemctl", "daemon-reload")
        self.node.run("systemctl", "start", "kubelet")
        try:
            yield
        finally:
            self.stop()
            self.node.run("rm", UNIT)
            self.node.run("systemctl", "daemon-reload")
            self.node.run("systemctl", "start", "kubelet")

    @contextmanager
    def small(self) -> Iterator[None]:
        """Kubelet is on a disk of its own meanwhile, which can be full or read-only."""
        self.node.run("mkdir", "-p", SMALL)
        self.node.run("mount", "-t", "tmpfs", "-o", "size=400m", "none", SMALL)
        try:
            self.node.run("cp", KUBELET, f"{SMALL}/kubelet")
            with self.begun("ExecStart=", f"ExecStart={SMALL}/kubelet $KUBELET_ARGS"):
                yield
        finally:
            self.node.run("umount", "-l", SMALL)

    def struck(self) -> bool:
        """Whether all that was asked for has happened."""
        return not self.node.run("cat", POINTS, check=False).strip()

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """The script, as of somebody who does not wait for it."""
        argv = ("docker", "exec", str(self.node.container.id), "bash", SCRIPT, *words)
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def cut_power(self, *words: str) -> None:
        """Begin that, take the node's power where it waits for it, and start the node anew."""
        terminal = self.begin(*words)
        self.lose_power()
        terminal.wait()

    def lose_power(self, boots: int = 1) -> None:
        """Where the node waits for it, in this boot or after `boots` - 1 more, and start it anew."""
        for _ in range(boots - 1):
            self.node.reboot()
        until(lambda: self.node.run("ls", CUT, check=False), "it has come so far", MINUTE)
        self.node.reboot()
        self.node.run("rm", CUT)

    def at_rest(self) -> str:
        """Wait until no unit of a run is at work; the state that the run is in."""

        def rests() -> bool:
            units = self.node.run("systemctl", "list-units", "--no-legend", "nokmem-rollout*")
            return not any(word in units for word in (".service loaded activ", "start"))

        until(rests, "the run rests", 2 * MINUTE)
        return str(self.status()["state"])

    def status(self) -> Any:
        return self.script("status").said["facts"]

    def leftovers(self) -> str:
        """What is beside the targets, half written, or waits for a boot or a confirmation."""
        places = f"{Path(KUBELET).parent}/.*nokmem-* {Path(RUNC).parent}/.*nokmem-*"
        units = "/etc/systemd/system/nokmem-rollout-boot.service"
        parts = f"{STATE}/*.part.* {STATE}/runs/*/*.part* {STATE}/staged/.part.*"
        words = f"ls -d {places} {units} {parts} /run/nokmem.* 2>/dev/null; systemctl list-timers --no-legend 'nokmem*'"
        return self.node.run("sh", "-c", words, check=False)
