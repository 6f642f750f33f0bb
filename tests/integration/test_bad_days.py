"""What goes wrong around a build, provoked for real on the real command line: one clear message,
an exit code of its own kind, nothing left behind, and the next run just works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest

from builders.tools import container
from builders.tools.cache import Cache
from tests.conftest import ROOT, VERSION
from tests.integration import small

#: No other process sleeps just so long.
SLEEP = f"sleep 3600.{os.getpid()}"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Run:
    """A command of ours under way, its stderr read line by line."""

    def __init__(self, *words: str, environment: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "invoke", "--search-root", str(ROOT), *words],
            env={**os.environ, "CI": "true", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line.rstrip())

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, words: str, seconds: float = 60) -> None:
        """Until a line has these words."""
        end = time.monotonic() + seconds
        while words not in self.text:
            assert time.monotonic() < end, f"{words!r} never came:\n{self.text}"
            assert self._process.poll() is None, f"ended before {words!r}:\n{self.text}"
            time.sleep(0.02)

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self, seconds: float = 120) -> int:
        code = self._process.wait(seconds)
        self._reader.join(10)
        assert self._process.stderr is not None
        self._process.stderr.close()
        return code


def build(dist: Path, one: small.Small, builder: str, *more: str) -> Run:
    words = ("build", "--k8s", VERSION, *one.words, "--builder", builder, "--dist", str(dist))
    return Run(*words, *more)


def sleeping() -> list[str]:
    """The processes, in whatever container or namespace, that sleep our sleep."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").replace("\0", " ").strip()
        except OSError:
            continue
        if words == SLEEP:
            found.append(path.parent.name)
    return found


def until(condition: object, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it never came to be so"
        time.sleep(0.05)


def left_behind(dist: Path, kind: str, cache: Cache) -> list[str]:
    """Half-written results, run folders, mounts of theirs, containers; other runs' do not count."""
    found = [str(path) for path in dist.glob(".*") if not path.name.endswith(".lock")]
    runs = [path.name for path in (cache.root / "runs").glob("*") if path.is_dir()]
    found += [name for name in runs if not cache.is_running(name)]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [line for line in mounts if str(cache.root / "runs") in line]
    if kind == "container":
        with engine() as client:
            mine: dict[str, str | list[str] | bool] | None = {
                "label": f"{container.LABEL}.cache={cache.identity}"
            }
            for one in client.containers.list(all=True, filters=mine):
                run = one.labels[f"{container.LABEL}.run"]
                found += [] if cache.is_running(run) else [run]
    return found


@contextmanager
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    try:
        yield client
    finally:
        client.close()


@pytest.fixture(params=["rootfs", "container"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each builder in turn, with its toolchain made."""
    request.getfixturevalue(f"{request.param}_builder")
    return str(request.param)


def test_a_small_build_goes_the_whole_way(kind: str, cache: Cache, tmp_path: Path) -> None:
    run = build(tmp_path / "dist", small.make(tmp_path), kind)
    assert run.end() == 0, run.text
    assert left_behind(tmp_path / "dist", kind, cache) == []


@pytest.mark.parametrize("number", SIGNALS, ids=[s.name for s in SIGNALS])
def test_a_signal_ends_everything_at_once(
    number: int, kind: str, cache: Cache, tmp_path: Path
) -> None:
    """Both compilers are at work when it comes."""
    dist = tmp_path / "dist"
    run = build(dist, small.make(tmp_path, kubelet=SLEEP, runc=SLEEP), kind)
    until(lambda: len(sleeping()) == 2, 60)
    began = time.monotonic()
    run.send(number)
    assert run.end(30) == 130, run.text
    assert time.monotonic() - began < 20
    assert sleeping() == [] and left_behind(dist, kind, cache) == []
    assert f"interrupted: {signal.Signals(number).name}" in run.text
    again = build(dist, small.make(tmp_path), kind)
    assert again.end() == 0, again.text


def test_nohup_means_that_a_hangup_is_no_matter(kind: str, cache: Cache, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = build(tmp_path / "dist", small.make(tmp_path, kubelet="sleep 3"), kind)
    finally:
        signal.signal(signal.SIGHUP, before)
    run.wait_for("compile kubelet")
    run.send(signal.SIGHUP)
    assert run.end() == 0, run.text


@pytest.mark.parametrize("phase", ["fetch kubelet", "compile"])
def test_after_a_kill_the_next_run_cleans_up(
    phase: str, kind: str, cache: Cache, tmp_path: Path
) -> None:
    dist = tmp_path / "dist"
    run = build(dist, small.make(tmp_path, kubelet=SLEEP), kind)
    if phase == "compile":
        until(lambda: len(sleeping()) == 1, 60)
    else:
        run.wait_for(phase)
    run.send(signal.SIGKILL)
    assert run.end() == -signal.SIGKILL
    again = build(dist, small.make(tmp_path), kind)
    assert again.end() == 0, again.text
    assert sleeping() == [] and left_behind(dist, kind, cache) == []
    assert (dist / VERSION / "kubelet").exists()


def test_two_builds_of_one_release_do_not_meet(kind: str, tmp_path: Path) -> None:
    first = build(tmp_path / "dist", small.make(tmp_path, kubelet="sleep 5"), kind)
    first.wait_for("compile kubelet")
    second = build(tmp_path / "dist", small.make(tmp_path / "b"), kind)
    assert second.end() == 10, second.text
    assert "busy: another run is working on" in second.text
    prune = Run("cache.prune", "--dry-run")
    assert prune.end() == 10, prune.text
    assert first.end() == 0, first.text


def test_two_releases_are_built_at_once(kind: str, tmp_path: Path) -> None:
    one = small.make(tmp_path, kubelet="sleep 2")
    runs = [
        Run("build", "--k8s", version, *one.words, "--builder", kind, "--dist", str(tmp_path / "d"))
        for version in (VERSION, "v1.20.4")
    ]
    for run in runs:
        assert run.end() == 0, run.text


def test_a_compile_error_shows_its_last_lines_and_the_way_back(kind: str, tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    broken = small.make(tmp_path, kubelet="echo the reason; exit 3")
    run = build(dist, broken, kind)
    assert run.end() == 8, run.text
    assert "the reason" in run.text and "compile: kubelet v1.20.2: make failed" in run.text
    assert "env -C /build/kubelet/src" in run.text and "--keep" in run.text
    assert "the reason" in (dist / f"{VERSION}.failed.log").read_text()


def test_one_that_fails_ends_the_other(kind: str, tmp_path: Path) -> None:
    run = build(tmp_path / "dist", small.make(tmp_path, kubelet=SLEEP, runc="sleep 1; false"), kind)
    assert run.end(60) == 8, run.text
    assert "runc 1.0.0-rc10: make failed" in run.text and sleeping() == []
