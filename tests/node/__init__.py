"""A node of its own: systemd, an engine and what files/ holds, in a container of this engine.

Its sysctls, mounts, cgroups, network and containers are its own; this machine's stay as they are,
and nothing of it is left after `close`.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import docker
from docker.models.containers import Container
from docker.types import Mount

PACKAGES = (
    "busybox-static",
    "containernetworking-plugins",
    "docker.io",
    "etcd-server",
    "iproute2",
    "iptables",
    "kubernetes-client",
    "openssl",
    "systemd-sysv",
)
FILES = Path(__file__).with_name("files")
#: What a kubelet wants of the kernel; it finds that already there, in files of its own.
SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
#: cgroups can be written by systemd and by the engine, the network's sysctls by the plugins; a
#: kubelet that finds no kernel messages to read does not start.
ENTRY = """
set -e
awk '$3 == "cgroup" { print $2 }' /proc/mounts | while read -r place; do
    mount -o remount,bind,rw "$place"
done
ln -sf null /dev/kmsg
mkdir -p /run/proc
mount -t proc proc /run/proc
mount --bind /run/proc/sys/net /proc/sys/net
while [ $# -gt 0 ]; do
    mkdir -p "/run/sysctl/${1%/*}"
    echo "$2" >"/run/sysctl/$1"
    mount --bind "/run/sysctl/$1" "/proc/sys/$1"
    shift 2
done
exec /sbin/init
"""
MINUTE = 60


class Node:
    """A running node; `close` it."""

    def __init__(self, image: str, name: str = "node") -> None:
        self._engine = docker.from_env(timeout=10 * MINUTE)
        self._container: Container | None = None
        try:
            self._container = self._engine.containers.create(
                image,
                [word for name, value in SYSCTLS.items() for word in (name, str(value))],
                entrypoint=["/bin/sh", "-c", ENTRY, "entry"],
                hostname=name,
                cap_add=["ALL"],
                cap_drop=["SYS_RESOURCE"],
                security_opt=["seccomp=unconfined", "apparmor=unconfined"],
                cgroupns="private",
                tmpfs={"/run": "exec", "/run/lock": ""},
                mounts=[Mount("/var/lib/docker", None, type="volume")],
                environment={"container": "docker"},
                labels={"io.nokmem.test": "node"},
            )
            for path in sorted(FILES.rglob("*")):
                if path.is_file():
                    mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
                    self.put(path, f"/{path.relative_to(FILES)}", mode)
            self._container.start()
            self._await_engine()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._container is not None:
            self._container.remove(force=True, v=True)
        self._engine.close()

    @property
    def container(self) -> Container:
        assert self._container is not None
        return self._container

    def run(self, *argv: str, check: bool = True) -> str:
        """What a program prints to stdout; AssertionError with all of it where it fails."""
        words = ("docker", "exec", str(self.container.id), *argv)
        result = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        ok = result.returncode == 0 or not check
        assert ok, f"{argv}: {result.returncode}\n{result.stdout}{result.stderr}"
        return result.stdout

    def put(self, source: Path | bytes, path: str, mode: int = 0o644) -> None:
        """A file of root's, in folders that are made where they miss."""
        data = source.read_bytes() if isinstance(source, Path) else source
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for folder in reversed(PurePosixPath(path).parents[:-1]):
                member = tarfile.TarInfo(str(folder))
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), mode
            tar.addfile(member, io.BytesIO(data))
        assert self.container.put_archive("/", stream.getvalue())

    def read(self, path: str) -> str:
        return self.run("cat", path)

    def reboot(self) -> None:
        """Everything in it dies, the disk stays."""
        self.container.restart(timeout=0)
        self._await_engine()

    def _await_engine(self) -> None:
        def answers() -> bool:
            self.container.reload()
            assert self.container.status == "running", self.container.logs().decode()
            return "Server Version" in self.run("docker", "info", check=False)

        until(answers, "the node's engine")


def until(done: Callable[[], object], what: str, seconds: float = 2 * MINUTE) -> None:
    """Ask until it is so; AssertionError that says what was waited for."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)
