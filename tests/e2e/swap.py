"""A node whose kubelet and runc are swapped by the node script, with a folder of manifests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.e2e.lab import Lab
from tests.node import Node
from tests.rollout import TOOLS, Done, understood

DIST, STATE = "/opt/dist", "/var/lib/nokmem"
SCRIPT = f"{DIST}/nokmem-rollout"
KUBELET, RUNC = "/usr/bin/kubelet", "/usr/sbin/runc"


class Swap(Lab):
    """The lab with files where a node has them: a kubelet in /usr/bin, a runc that leaks in
    /usr/sbin, the dist folder in /opt; and with the programs of another age, if there are any."""

    def __init__(self, node: Node, kubelets: dict[str, Path], dist: Path, leaking: Path) -> None:
        super().__init__(node, kubelets)
        for name in ("kubelet", "runc", "nokmem-rollout"):
            node.put(dist / name, f"{DIST}/{name}", 0o755)
        node.put(leaking, "/opt/leaking/runc", 0o755)
        for program in Path(TOOLS).iterdir() if TOOLS else ():
            node.put(program, f"/usr/bin/{program.name}", 0o755)

    def place(self, build: str) -> None:
        self.node.run("rm", "-f", KUBELET)
        self.node.run("cp", f"/opt/{build}/kubelet", KUBELET)

    def reset(self, build: str) -> None:
        """Also as if nothing had ever been swapped here."""
        self.forget()
        super().reset(build)

    def forget(self) -> None:
        script = (
            "systemctl stop 'nokmem-rollout*'; systemctl reset-failed;"
            f"chattr -f -i {KUBELET}; umount -q {STATE};"
            f"rm -rf {STATE} /usr/bin/.*.nokmem-* /usr/sbin/.*.nokmem-*;"
            "rm -f /etc/systemd/system/nokmem-rollout-boot.service"
            " /etc/systemd/system/multi-user.target.wants/nokmem-rollout-boot.service;"
            f"cp /opt/leaking/runc {RUNC}.new && mv {RUNC}.new {RUNC}"
        )
        self.node.run("sh", "-c", script)

    def script(self, *words: str, path: str = SCRIPT, **environment: str) -> Done:
        """The script's word, by its JSON."""
        given = [
            word for name, value in environment.items() for word in ("--env", f"{name}={value}")
        ]
        argv = (
            "docker",
            "exec",
            *given,
            str(self.node.container.id),
            "bash",
            path,
            *words,
            "--json",
        )
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        try:
            said = understood(done.stdout)
        except ValueError as error:
            raise AssertionError(
                f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
            ) from error
        return Done(done.returncode, said, done.stderr)

    def hashes(self) -> tuple[str, ...]:
        """Of kubelet's file, of the kubelet that runs (left out while none does), of runc's file."""
        running = "sha256sum < /proc/$(systemctl show -P MainPID kubelet)/exe"
        text = self.node.run("sh", "-c", f"sha256sum <{KUBELET}; {running}; sha256sum <{RUNC}")
        return tuple(line.split()[0] for line in text.splitlines())
