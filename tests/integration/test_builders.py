"""Both builders keep the same promises: files travel, nothing leaks in or out, nothing stays."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from builders.errors import UsageError
from builders.model.plan import BuildPlan
from builders.tools import container, process, rootfs
from builders.tools.builder import BUILDER_ID, Background, Builder, Limits, Session
from builders.tools.cache import Cache
from tests.conftest import ROOT

NOTHING: dict[str, str] = {}


def output(session: Session, *argv: str, environment: dict[str, str] = NOTHING) -> list[str]:
    lines: list[str] = []
    session.run(argv, environment=environment, on_line=lines.append)
    return lines


@pytest.fixture
def key(plan: BuildPlan) -> str:
    return plan.toolchain.key


def test_a_large_file_travels_both_ways_unchanged(
    builder: Builder, key: str, tmp_path: Path
) -> None:
    content = os.urandom(5 << 20) + b"tail"
    (tmp_path / "in").write_bytes(content)
    with builder.start(key, Limits()) as session:
        session.put(tmp_path / "in", "/build/deep/down/file")
        session.put(b"", "/build/empty")
        assert output(session, "sha256sum", "/build/deep/down/file") == [
            f"{hashlib.sha256(content).hexdigest()}  /build/deep/down/file"
        ]
        session.get("/build/deep/down/file", tmp_path / "out")
        session.get("/build/empty", tmp_path / "empty")
    assert (tmp_path / "out").read_bytes() == content
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_command_has_its_environment_folder_and_exit_code(builder: Builder, key: str) -> None:
    with builder.start(key, Limits()) as session:
        lines = output(session, "sh", "-c", "pwd; echo $X >&2", environment={"X": "a b"})
        assert sorted(lines) == ["/build", "a b"]
        result = session.run(["sh", "-c", "printf unfinished; exit 7"], environment=NOTHING)
        assert (result.exit_code, result.tail) == (7, ("unfinished",))
        missing = session.run(["no-such-program"], environment=NOTHING)
        assert missing.exit_code in (126, 127)


def test_what_runs_behind_yields_and_is_the_same_otherwise(builder: Builder, key: str) -> None:
    with builder.start(key, Limits()) as session:
        behind = Background(session)
        behind.put(b"text", "/build/file")
        lines: list[str] = []
        result = behind.run(
            ["sh", "-c", 'nice; cat "$0" - /proc/self/autogroup; echo $X; exit 7', "/build/file"],
            environment={"X": "a  b"}, on_line=lines.append,
        )  # fmt: skip
        assert result.exit_code == 7 and lines[0] == "19" and lines[-1] == "a b", lines
        assert lines[1].startswith("text") and (len(lines) == 3 or "nice 19" in "".join(lines))
        assert output(session, "nice") == ["0"]


def test_a_command_has_no_rights_and_no_network(builder: Builder, key: str) -> None:
    with builder.start(key, Limits()) as session:
        assert output(session, "id", "-u") == [str(BUILDER_ID)]
        status = dict(line.split(":\t", 1) for line in output(session, "cat", "/proc/self/status"))
        for capabilities in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[capabilities], 16) == 0, capabilities
        assert status["NoNewPrivs"] == "1"
        devices = output(session, "cat", "/proc/net/dev")[2:]
        assert [line.split(":")[0].strip() for line in devices] == ["lo"]
        for path in ("/etc/x", "/proc/sys/kernel/core_pattern"):
            assert not session.run(["sh", "-c", f"echo x >{path}"], environment=NOTHING).ok


#: What a hostile source would try; perl is in every toolchain. Prints "in" where it got through.
REACH = r"""
use Socket; $SIG{ALRM} = sub { exit 1 }; alarm 5; my ($how, $where, $port) = @ARGV;
if ($how eq "name") { gethostbyname($where) and print "in"; exit }
my $to = $how eq "unix" ? pack("S a*", AF_UNIX, $where eq "@" ? "\0$port" : $where)
                        : sockaddr_in($port, inet_aton($where));
socket(my $s, $how eq "unix" ? AF_UNIX : AF_INET, $how eq "udp" ? SOCK_DGRAM : SOCK_STREAM, 0);
connect($s, $to) and ($how ne "udp" or send($s, "x", 0)) and print "in";
"""


def test_nothing_of_the_machine_answers_inside(builder: Builder, key: str) -> None:
    """Neither a service at loopback or at the machine's own address, nor one without any file (an
    abstract socket), nor a name server; each of them does answer outside."""
    name = f"nokmem-test-{os.getpid()}"
    with (
        socket.create_server(("0.0.0.0", 0)) as service,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        abstract.bind(f"\0{name}")
        abstract.listen()
        port = str(service.getsockname()[1])
        hosts = ["127.0.0.1", *addresses()]
        outside = [("tcp", host, port) for host in hosts] + [("unix", "@", name)]
        outside += [("udp", host, port) for host in addresses()]
        for words in outside:
            got = process.capture(["perl", "-e", REACH, *words])[1]
            assert got == "in", f"{words} does not answer outside either: the check sees nothing"
        inside = [*outside, ("name", "example.org", ""), ("name", socket.gethostname(), "")]
        inside += [("unix", "/var/run/docker.sock", ""), ("udp", "1.1.1.1", "53")]
        with builder.start(key, Limits()) as session:
            assert output(session, "perl", "-e", 'print "in"') == ["in"], "perl does not run"
            for words in inside:
                assert output(session, "perl", "-e", REACH, *words) == [], words


def addresses() -> list[str]:
    """The machine's own addresses, beside loopback."""
    _, text = process.capture(["hostname", "-I"])
    return [word for word in text.split() if re.fullmatch(r"[0-9.]+", word)]


def test_sessions_are_empty_at_the_start_and_gone_at_the_end(
    builder: Builder, key: str, cache: Cache
) -> None:
    before = everything_there_is(cache)
    for _ in range(2):
        with builder.start(key, Limits()) as session:
            assert output(session, "ls", "-A", "/build") == []
            session.put(b"x", "/build/x")
            assert everything_there_is(cache) != before, "what lies about would not be seen"
    assert everything_there_is(cache) == before


def test_an_error_inside_a_session_cleans_up_too(builder: Builder, key: str, cache: Cache) -> None:
    before = everything_there_is(cache)
    with pytest.raises(ZeroDivisionError), builder.start(key, Limits()) as session:
        session.put(b"x", "/build/x")
        raise ZeroDivisionError
    assert everything_there_is(cache) == before


def test_a_command_that_begins_while_its_room_closes_ends(
    rootfs_builder: rootfs.Rootfs, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when one of two that compile fails while the other is between two commands."""
    with rootfs_builder.start(key, Limits()) as session:
        begin = process.run

        def late(*words: Any, **more: Any) -> process.Result:
            session.stop()
            return begin(*words, **more)

        monkeypatch.setattr(process, "run", late)
        began = time.monotonic()
        assert not session.run(["sleep", "60"], environment=NOTHING).ok
        assert time.monotonic() - began < 50
        monkeypatch.undo()


def test_an_interrupted_command_leaves_nothing_running(
    builder: Builder, key: str, cache: Cache
) -> None:
    before = everything_there_is(cache)
    mark = f"3600.{os.getpid()}"
    with pytest.raises(KeyboardInterrupt), builder.start(key, Limits()) as session:

        def interrupt(_: str) -> None:
            raise KeyboardInterrupt

        session.run(
            ["sh", "-c", f"echo begun; sleep {mark}"], environment=NOTHING, on_line=interrupt
        )
    assert running(mark) == []
    assert everything_there_is(cache) == before


def test_what_a_killed_run_left_is_swept(builder: Builder, key: str, cache: Cache) -> None:
    before = everything_there_is(cache)
    mark = f"3601.{os.getpid()}"
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from builders.tools import container, rootfs\n"
        "from builders.tools.builder import Limits\n"
        "from builders.tools.cache import Cache\n"
        "kind, folder, key, mark = sys.argv[1:]\n"
        "make = {'rootfs': rootfs.Rootfs, 'container': container.ContainerBuilder}[kind]\n"
        "with make(Cache(Path(folder))).start(key, Limits()) as session:\n"
        "    session.run(['sleep', mark], environment={})\n"
    )
    import subprocess

    argv = [sys.executable, "-c", program, builder.name, str(cache.root), key, mark]
    child = subprocess.Popen(argv, cwd=ROOT)
    wait_until(lambda: running(mark))
    assert builder.sweep() == 0, "a living run must not be swept"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert builder.sweep() == 1
    wait_until(lambda: not running(mark))
    assert everything_there_is(cache) == before


def test_go_keeps_its_cache_from_session_to_session(builder: Builder, key: str) -> None:
    with builder.start(key, Limits()) as session:
        session.run(["touch", "/cache/go/mark"], environment=NOTHING)
    with builder.start(key, Limits()) as session:
        assert "mark" in output(session, "ls", "/cache/go")
        session.run(["rm", "/cache/go/mark"], environment=NOTHING)


def test_a_kept_room_can_be_entered(rootfs_builder: Builder, key: str, cache: Cache) -> None:
    with rootfs_builder.start(key, Limits(), keep=True) as session:
        session.put(b"found me\n", "/build/note")
        entry = session.entry
    result, text = process.capture(["sh", "-c", f"{entry} -c 'cat note'"])
    assert (result.exit_code, text) == (0, "found me")
    assert rootfs_builder.sweep() == 1


def test_a_container_keeps_to_its_limits(container_builder: Builder, key: str) -> None:
    with container_builder.start(key, Limits(memory=64 << 20, cpus=1)) as session:
        eat = session.run(["perl", "-e", "$x = 'x' x (1 << 30)"], environment=NOTHING)
        assert eat.exit_code == 137


def test_the_embedded_builder_refuses_a_limit_it_cannot_keep(
    rootfs_builder: Builder, key: str
) -> None:
    with (
        pytest.raises(UsageError, match="cannot limit memory"),
        rootfs_builder.start(key, Limits(memory=1 << 30)),
    ):
        pass
    with pytest.raises(UsageError, match="cores"), rootfs_builder.start(key, Limits(cpus=0.5)):
        pass
    assert rootfs_builder.sweep() == 0, "a refusal left a room behind"
    with rootfs_builder.start(key, Limits(cpus=1)) as session:
        assert output(session, "nproc") == ["1"]


def test_a_container_mounts_nothing_of_the_host(container_builder: Builder, key: str) -> None:
    assert isinstance(container_builder, container.ContainerBuilder)
    with container_builder.start(key, Limits()) as session:
        assert isinstance(session, container.ContainerSession)
        facts = session._container.attrs
        session._container.reload()
        facts = session._container.attrs
        assert facts["HostConfig"]["Privileged"] is False
        assert facts["HostConfig"]["NetworkMode"] == "none"
        assert {mount["Type"] for mount in facts["Mounts"]} == {"volume"}


def test_the_toolchain_holds_no_mirror(builder: Builder, key: str, tmp_path: Path) -> None:
    """Neither a file of the tree nor the image's history names where packages came from."""
    from builders.tools import apt

    hosts = {uri.split("/")[2] for uris in apt.mirrors(os.environ).values() for uri in uris}
    assert hosts, "without a mirror there is nothing to look for"
    with builder.start(key, Limits()) as session:
        session.put("\n".join(hosts).encode(), "/build/hosts")
        planted = "/build/planted"
        session.put(b"deb http://" + next(iter(hosts)).encode(), planted)
        places = ["/etc", "/var", "/usr", "/root", "/home", "/opt", "/srv", planted]
        found = output(session, "grep", "-rslF", "-f", "/build/hosts", *places)
        assert [path for path in found if not owned(session, path)] == [planted]
    if isinstance(builder, container.ContainerBuilder):
        history = builder._client.images.get(f"nokmem/toolchain:{key[:16]}").history()
        assert not [row for row in history if any(host in str(row) for host in hosts)]


def owned(session: Session, path: str) -> bool:
    """Whether a package brought the file: then what it says is upstream's own text."""
    return session.run(["dpkg", "-S", path], environment=NOTHING).ok


def everything_there_is(cache: Cache) -> tuple[set[str], list[str], list[str]]:
    """Run folders, mounts, containers and volumes: what sessions of this cache could leave. The
    folder of a run that lives in another process is not left."""
    held = {os.path.realpath(one) for one in Path("/proc/self/fd").iterdir()}
    runs = {
        path.name
        for path in (cache.root / "runs").glob("*")
        if str(path.with_suffix(".lock").resolve()) in held
        or (not cache.is_running(path.stem) and path.exists())
    }
    mounts = sorted(
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(cache.root / "runs") in line
    )
    containers = []
    if container.why_not() is None:
        builder = container.ContainerBuilder(cache)
        mine = f"{container.LABEL}.cache={cache.identity}"
        listed = builder._client.containers.list(all=True, filters={"label": mine})
        containers = sorted(str(row.id) for row in listed)
        unused = builder._client.volumes.list(filters={"dangling": True})
        containers += sorted(str(row.id) for row in unused)
        builder.close()
    return runs, mounts, containers


def running(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", mark.encode()]:
            found.append(path.parent.name)
    return found


def wait_until(ready: object, seconds: float = 30) -> None:
    assert callable(ready)
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_rootfs_says_why_not_without_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootfs, "PROGRAMS", ("unshare", "no-such-program"))
    problem = rootfs.why_not()
    assert problem is not None and "no-such-program" in problem.fact
