"""Each signal in each phase of a build, by both builders: nothing stays that runs, is mounted or is
half-written; after a kill, the next run cleans up and just works."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builders.model.plan import BuildPlan
from builders.tools.cache import Cache
from tests.conftest import VERSION
from tests.integration import small
from tests.integration.test_bad_days import (
    ENGINE,
    SIGNALS,
    SLEEP,
    Run,
    Wire,
    engine,
    kind,
    left_behind,
    sleeping,
    until,
)

__all__ = ["kind"]  # a fixture
MAIL = """\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: A <a@b>
Date: Wed, 1 Jan 2020 00:00:00 +0000
Subject: [PATCH] a file

---
diff --git a/added b/added
new file mode 100644
index 0000000..e69de29
--- /dev/null
+++ b/added
@@ -0,0 +1 @@
+text
"""
SERIES = f"""\
[[patches]]
file = "0001-a.patch"
from = "{VERSION}"
until = "{VERSION}"
reason = "a test"
evidence = "a test"
"""
GO = "1.15.15"
ENDLESS = """
import runpy
from pathlib import Path
from builders import pipeline
from builders.steps import toolchain
from builders.tools import container
container.ContainerBuilder.has = lambda *_: False
toolchain.write_seed = lambda plan, cache, recipe, seed: seed.write_bytes(bytes(10240))
pipeline.RECIPES = Path({recipes!r})
runpy.run_path("tasks.py", run_name="__main__")
"""


class Silent(threading.Thread):
    """A server that answers each client with some bytes, and then says nothing more."""

    def __init__(self, says: bytes = b"") -> None:
        super().__init__(daemon=True)
        self._listens = socket.create_server(("127.0.0.1", 0))
        self._says = says
        self._clients: list[socket.socket] = []
        self.place = f"127.0.0.1:{self._listens.getsockname()[1]}"
        self.asked = 0

    def run(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listens.accept()
                client.recv(1 << 16)
                client.sendall(self._says)
                self._clients.append(client)
                self.asked += 1

    def close(self) -> None:
        # Closing alone wakes no thread that waits there, and another socket gets its number.
        self._listens.shutdown(socket.SHUT_RDWR)
        self.join()
        for one in (self._listens, *self._clients):
            one.close()


@dataclass
class World:
    """A cache of its own, with the toolchain in it; `words` build something small, `more` hold or
    strike a build in the phase that is meant, and `held` is until it is there."""

    folder: Path
    kind: str
    cache: Cache
    words: tuple[str, ...]
    more: tuple[str, ...] = ()
    strike: tuple[str, ...] = ()
    held: Callable[[Run], object] = lambda _: None
    variables: dict[str, str] = field(default_factory=dict)
    servers: list[Silent] = field(default_factory=list)

    @property
    def dist(self) -> Path:
        return self.folder / "dist"

    def build(
        self, *words: str, strike: tuple[str, ...] = (), front: str = "", **variables: str
    ) -> Run:
        environment = {"NOKMEM_CACHE": str(self.cache.root), **variables}
        words = (
            "build",
            "--k8s",
            VERSION,
            "--builder",
            self.kind,
            "--dist",
            str(self.dist),
            *words,
        )
        return Run(*words, environment=environment, strike=strike, front=front)

    def begin(self, number: int) -> Run:
        """A build that has been struck."""
        strike = (str(number), *self.strike) if self.strike else ()
        run = self.build(*self.more, strike=strike, **self.variables)
        if not strike:
            self.held(run)
            run.send(number)
        return run

    def serve(self, says: bytes = b"") -> Silent:
        server = Silent(says)
        server.start()
        self.servers.append(server)
        return server

    def left(self) -> list[str]:
        found = left_behind(self.dist, self.kind, self.cache) + sleeping()
        found += [str(path) for path in (self.cache.root / "files").glob(".part-*")]
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                here = str((entry / "cwd").readlink()), (entry / "cmdline").read_text()
                found += [text for text in here if str(self.cache.root) in text]
        return found


@pytest.fixture
def world(kind: str, cache: Cache, tmp_path: Path) -> Iterator[World]:
    own = Cache(tmp_path / "cache")
    for name in ("trees", "go"):
        (own.root / name).symlink_to(cache.root / name)
    one = World(tmp_path, kind, own, small.make(tmp_path).words)
    one.more = one.words
    yield one
    for server in one.servers:
        server.close()


def changed(words: tuple[str, ...], **change: str) -> tuple[str, ...]:
    """Options, some of them with other values."""
    found = list(words)
    for option, value in change.items():
        found[found.index(f"--{option.replace('_', '-')}") + 1] = value
    return tuple(found)


@pytest.fixture(autouse=True)
def _nothing_sleeps_on() -> Iterator[None]:
    """What one test leaves is not another one's fault."""
    yield
    for process in sleeping():
        with suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)


def fetch(world: World) -> None:
    """An archive stops coming in the middle."""
    body = os.urandom(300_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 600000\r\n\r\n"
    server = world.serve(head + body)
    place = f"http://{server.place}/{secrets.token_hex(4)}.tar"
    world.more = changed(world.words, k8s_source=place, k8s_sha256="1" * 64)
    files = world.cache.root / "files"

    def arrives(_: Run) -> None:
        until(lambda: any(path.stat().st_size for path in files.glob(".part-*")))

    world.held = arrives


def git(world: World) -> None:
    """A repository does not answer."""
    server = world.serve()
    at = world.words.index("--runc-source")
    world.more = (*world.words[:at], "--runc-source", "git", *world.words[at + 4 :])
    world.variables = {"NOKMEM_RUNC_REPOSITORY": f"git://{server.place}/runc"}
    before = [server.asked]

    def asked(_: Run) -> None:
        until(lambda: server.asked > before[0])
        before[0] = server.asked

    world.held = asked


def patch(world: World) -> None:
    """git am is at work."""
    series = world.folder / "series/kubernetes"
    series.mkdir(parents=True)
    (series / "series.toml").write_text(SERIES)
    (series / "0001-a.patch").write_text(MAIL)
    world.more = world.words = (*world.words, "--patches", str(series.parent))
    world.strike = ("subprocess.Popen", "'am'", "1", "0.02")


def unpack_go(world: World) -> None:
    """The Go that was just unpacked is asked for its version."""
    script = world.folder / "go"
    script.write_text(f"#!/bin/sh\nexec {SLEEP}\n")
    script.chmod(0o755)
    with tarfile.open(world.folder / "go.tar", "w") as tar:
        tar.add(script, "go/bin/go")
    settings = world.folder / "nokmem.toml"
    sha256 = small.sha256(world.folder / "go.tar")
    settings.write_text(f'[archives.go."{GO}"]\nplace = "go.tar"\nsha256 = "{sha256}"\n')
    world.more = changed(world.words, go=GO)
    world.variables = {"NOKMEM_CONFIG": str(settings)}
    world.held = lambda _: until(lambda: len(sleeping()) == 1)


def create(world: World) -> None:
    """The engine has been asked for the container."""
    world.strike = ("http.client.send", "/containers/create", "1", "0.02")


def lay(world: World) -> None:
    """The source is on its way in."""
    world.strike = (
        ("subprocess.Popen", "source.tar", "1", "0")
        if world.kind == "rootfs"
        else ("http.client.send", "PUT .*/archive", "2", "0.005")
    )


def take_out(world: World) -> None:
    """A binary is on its way out."""
    world.strike = (
        ("subprocess.Popen", "'cat', '/build", "1", "0")
        if world.kind == "rootfs"
        else ("http.client.send", "GET .*/archive", "1", "0.005")
    )


def compile_both(world: World) -> None:
    """Both compilers are at work."""
    world.more = small.make(world.folder / "b", kubelet=SLEEP, runc=SLEEP).words
    world.held = lambda _: until(lambda: len(sleeping()) == 2)


def prove(world: World) -> None:
    """kubelet is read, for the second time since it arrived."""
    world.strike = ("open", "/kubelet', 'r", "2", "0")


def put_in_place(world: World) -> None:
    world.strike = ("os.rename", ".partial", "1", "0")


def replace(world: World) -> None:
    """The new result stands in its place, the earlier one is not yet gone."""
    run = world.build(*world.words)
    assert run.end() == 0, run.text
    world.more = (*world.words, "--rebuild")
    world.strike = ("shutil.rmtree", ".partial", "1", "0")


PHASES = (
    *(fetch, git, patch, unpack_go, lay, compile_both, take_out, prove),
    *(put_in_place, replace),
)
#: A container is there in these alone.
STRUCK = [
    *(("rootfs", phase) for phase in PHASES),
    *(("container", phase) for phase in (create, unpack_go, lay, compile_both, take_out)),
]


@pytest.mark.parametrize(("kind", "phase"), STRUCK, indirect=["kind"])
def test_nothing_stays_of_a_build_that_is_struck(
    phase: Callable[[World], None], world: World
) -> None:
    phase(world)
    for number in SIGNALS:
        run = world.begin(number)
        assert run.end(30) == 130, run.text
        assert f"interrupted: {signal.Signals(number).name}" in run.text
        assert world.left() == []
    run = world.begin(signal.SIGKILL)
    assert run.end(30) == -signal.SIGKILL, run.text
    again = world.build(*world.words)
    assert again.end() == 0, again.text
    assert world.left() == []
    assert (world.dist / VERSION / "kubelet").exists()


def test_a_second_signal_leaves_the_cleaning_alone(world: World) -> None:
    compile_both(world)
    run = world.begin(signal.SIGINT)
    run.send(signal.SIGTERM)
    assert run.end(30) == 130, run.text
    # of two at once, each thread of a process may be given one
    assert run.text.count("interrupted: SIG") == 1, run.text
    assert world.left() == []


def at_work(words: str) -> bool:
    """Whether some process has these words among its own."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if words in path.read_text(errors="replace"):
                return True
    return False


@pytest.mark.parametrize("kind", ["rootfs"], indirect=True)
def test_nothing_stays_of_a_tree_whose_making_is_struck(world: World, cache: Cache) -> None:
    (world.cache.root / "trees").unlink()
    (world.cache.root / "files").mkdir()
    for file in cache.files():
        (world.cache.root / "files" / file.name).symlink_to(file)
    room = f"{world.cache.root}/runs/"
    points: dict[int, Callable[[Run], object]] = {
        signal.SIGINT: lambda run: run.wait_for("toolchain debian-bullseye: begins"),
        signal.SIGTERM: lambda _: until(lambda: at_work(f"-C\0{room}"), 120),
        signal.SIGHUP: lambda _: until(lambda: at_work(f"rootfs-enter.sh\0{room}"), 120),
        signal.SIGKILL: lambda _: until(lambda: at_work(f"rootfs-enter.sh\0{room}"), 120),
    }
    for number, held in points.items():
        world.held = held
        assert world.begin(number).end(60) == (-9 if number == signal.SIGKILL else 130)
        assert number == signal.SIGKILL or world.left() == []
    shutil.rmtree(world.cache.root / "trees")
    (world.cache.root / "trees").symlink_to(cache.root / "trees")
    again = world.build(*world.words)
    assert again.end() == 0, again.text
    assert world.left() == []


@pytest.fixture
def endless(world: World, cache: Cache, plan: BuildPlan) -> str:
    """A front door to which the toolchain is a Dockerfile that never comes to its end."""
    (world.cache.root / "files").mkdir()
    for file in cache.files():
        (world.cache.root / "files" / file.name).symlink_to(file)
    recipe = world.folder / "recipes" / plan.toolchain.recipe
    recipe.mkdir(parents=True)
    base = f"nokmem/toolchain:{plan.toolchain.key[:16]}"
    (recipe / "Dockerfile").write_text(f"FROM {base}\nRUN {SLEEP}\n")
    return ENDLESS.format(recipes=str(recipe.parent))


@pytest.mark.parametrize("kind", ["container"], indirect=True)
def test_nothing_stays_of_an_image_whose_making_is_struck(world: World, endless: str) -> None:
    with engine() as client:

        def made() -> list[str]:
            every = client.containers.list(all=True, ignore_removed=True)
            return [str(one.id) for one in every if SLEEP in str(one.attrs["Config"]["Cmd"])]

        for number in (*SIGNALS, signal.SIGKILL):
            run = world.build(*world.words, front=endless)
            until(sleeping, 60)
            assert made()
            run.send(number)
            assert run.end(30) == (-9 if number == signal.SIGKILL else 130), run.text
            until(lambda: not sleeping() and not made())
            assert number == signal.SIGKILL or world.left() == []
    again = world.build(*world.words)
    assert again.end() == 0, again.text
    assert world.left() == []


@pytest.mark.parametrize("kind", ["container"], indirect=True)
def test_an_engine_that_dies_while_it_makes_an_image_is_named(world: World, endless: str) -> None:
    if not ENGINE.startswith("unix://"):
        pytest.skip("the engine is not on this machine")
    wire = Wire(world.folder / "s", ENGINE.removeprefix("unix://"))
    wire.start()
    try:
        here = f"unix://{world.folder / 's'}"
        run = world.build(*world.words, front=endless, DOCKER_HOST=here)
        until(sleeping, 60)
        wire.cut()
        assert run.end(60) == 4, run.text
    finally:
        wire.close()
    assert "machine: the engine went away" in run.text, run.text
    assert "building the toolchain image" in run.text and "start it" in run.text
    until(lambda: not sleeping())
    assert world.left() == []
