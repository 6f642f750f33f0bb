"""What goes wrong around a build, provoked for real on the real command line: one clear message,
an exit code of its own kind, nothing left behind, and the next run just works."""

from __future__ import annotations

import contextlib
import copy
import grp
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import docker
import pytest

import tasks
from builders.errors import ToolchainError
from builders.model.artifact import MANIFEST, REPORT, SBOM, Manifest
from builders.model.plan import BuildPlan
from builders.tools import container, process, rootfs
from builders.tools.builder import BUILDER_ID, Recipe
from builders.tools.cache import Cache, sha256_of
from builders.tools.front import Front
from tests import falsified
from tests.conftest import ROOT, VERSION, as_root
from tests.integration import small

#: No other process sleeps just so long.
SLEEP = f"sleep 3600.{os.getpid()}"
ENGINE = os.environ.get("DOCKER_HOST") or container.SOCKET
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Run:
    """A command of ours under way, its stderr read line by line."""

    def __init__(
        self,
        *words: str,
        environment: dict[str, str] | None = None,
        nohup: bool = False,
        strike: tuple[str, ...] = (),
        front: str = "",
    ) -> None:
        self.lines: list[str] = []
        program = ["-c", front] if front else [str(ROOT / "tasks.py")]
        program = ["-m", "tests.integration.struck", *strike] if strike else program

        def as_in_a_terminal() -> None:  # whatever these tests run under
            for number in SIGNALS:
                ignored = nohup and number == signal.SIGHUP
                signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)

        self._process = subprocess.Popen(
            [sys.executable, *program, *words],
            cwd=ROOT if strike or front else None,
            env={**os.environ, "CI": "true", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=as_in_a_terminal,
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


def build(dist: Path, one: small.Small, builder: str, *more: str, front: str = "") -> Run:
    words = ("build", "--k8s", VERSION, *one.words, "--builder", builder, "--dist", str(dist))
    return Run(*words, *more, front=front)


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


@pytest.fixture(autouse=True)
def _nothing_sleeps_on() -> Iterator[None]:
    """What one test leaves is not another one's fault."""
    yield
    for number in sleeping():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(int(number), signal.SIGKILL)


@pytest.fixture(params=["rootfs", "container"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each builder in turn, with its toolchain made."""
    request.getfixturevalue(f"{request.param}_builder")
    return str(request.param)


@pytest.mark.calm
def test_a_small_build_goes_the_whole_way(kind: str, cache: Cache, tmp_path: Path) -> None:
    run = build(tmp_path / "dist", small.make(tmp_path), kind)
    assert run.end() == 0, run.text
    assert left_behind(tmp_path / "dist", kind, cache) == []


@pytest.mark.calm
def test_nohup_means_that_a_hangup_is_no_matter(kind: str, cache: Cache, tmp_path: Path) -> None:
    one = small.make(tmp_path, kubelet="sleep 3")
    words = ("build", "--k8s", VERSION, *one.words, "--builder", kind)
    run = Run(*words, "--dist", str(tmp_path / "dist"), nohup=True)
    run.wait_for("compile kubelet")
    run.send(signal.SIGHUP)
    assert run.end() == 0, run.text


def test_two_builds_of_one_release_do_not_meet(kind: str, tmp_path: Path) -> None:
    first = build(tmp_path / "dist", small.make(tmp_path, kubelet="sleep 5"), kind)
    first.wait_for("compile kubelet")
    second = build(tmp_path / "dist", small.make(tmp_path / "b"), kind)
    assert second.end() == 10, second.text
    assert "busy: another run is working on" in second.text
    prune = Run("cache.prune", "--dry-run")
    assert prune.end() == 10, prune.text
    assert first.end() == 0, first.text


@pytest.mark.calm
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


def test_a_kept_room_is_there_to_be_entered_and_the_command_fails_again_in_it(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Both compile at once where there is memory: the first that fails ends the other."""
    broken = small.make(tmp_path, kubelet="echo the reason; exit 3", runc=SLEEP)
    run = build(tmp_path / "dist", broken, kind, "--keep")
    assert run.end() == 8, run.text
    entry = re.search("this room is kept: (.*)", run.text)
    replay = re.search("^ *where +(env -C .*)$", run.text, re.M)
    assert entry and replay, run.text
    inside = entry[1].replace(" -it ", " -i ")
    try:
        again = subprocess.run(
            ["sh", "-c", inside], input=f"{replay[1]}; echo ended with $?\n", capture_output=True,
            text=True,
        )  # fmt: skip
        assert "the reason" in again.stdout and "ended with 2" in again.stdout, again
    finally:
        request.getfixturevalue(f"{kind}_builder").sweep()


def test_one_that_fails_ends_the_other(kind: str, tmp_path: Path) -> None:
    run = build(tmp_path / "dist", small.make(tmp_path, kubelet=SLEEP, runc="sleep 1; false"), kind)
    assert run.end(60) == 8, run.text
    assert "runc 1.0.0-rc10: make failed" in run.text and sleeping() == []


def _accounts(place: Path) -> None:
    with (place / "kubelet").open("ab") as file:
        file.write(b"memory.kmem.limit_in_bytes cgroups/fs.EnableKernelMemoryAccounting")


def _says_less(place: Path) -> None:
    (place / REPORT).write_text('{"checks": [], "passed": true}\n')


def _claims_more(place: Path) -> None:
    data = json.loads((place / MANIFEST).read_text())
    data["deviations"] = []
    data["toolchain"]["name"] = "el7"
    (place / MANIFEST).write_text(Manifest(data).to_json())


def _names_another_kubelet(place: Path) -> None:
    text = (place / SBOM).read_text()
    (place / SBOM).write_text(text.replace(sha256_of(place / "kubelet"), "0" * 64))


DOCTORS = (_accounts, _says_less, _claims_more, _names_another_kubelet)


@pytest.mark.parametrize("doctor", DOCTORS)
def test_a_result_that_was_doctored_is_built_anew(
    doctor: Callable[[Path], None], rootfs_builder: object, tmp_path: Path
) -> None:
    """Every hash in the folder is made to fit; what is believed is what is seen."""
    dist, one = tmp_path / "dist", small.make(tmp_path)
    place = dist / VERSION
    run = build(dist, one, "rootfs")
    assert run.end() == 0, run.text
    whole = {path.name: path.read_bytes() for path in place.iterdir()}
    assert Run("verify", "--dist", str(place)).end() == 0
    doctor(place)
    falsified.fit(place)
    verified = Run("verify", "--dist", str(place))
    assert verified.end() == 9 and "checks failed" in verified.text, verified.text
    again = build(dist, one, "rootfs")
    assert again.end() == 0 and "compile kubelet" in again.text, again.text
    assert (place / REPORT).read_bytes() == whole[REPORT]
    assert (place / "kubelet").read_bytes() == whole["kubelet"]
    third = build(dist, one, "rootfs")
    assert third.end() == 0 and "this very build stands there" in third.text, third.text


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A disk with room for two megabytes."""
    as_root(request)
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_dist_is_named(kind: str, disk: Path, tmp_path: Path) -> None:
    run = build(disk, small.make(tmp_path), kind)
    assert run.end() == 4, run.text
    assert "machine: the disk is full" in run.text and str(disk) in run.text
    assert [path.name for path in disk.iterdir()] == [f".{VERSION}.lock"]


def test_a_full_cache_is_named(provider: object, disk: Path, tmp_path: Path) -> None:
    environment = {"NOKMEM_CACHE": str(disk / "cache")}
    words = ("--k8s", VERSION, "--toolchain", "debian", "--go", "distribution")
    run = Run("fetch", *words, environment=environment)
    assert run.end() == 4, run.text
    assert "cannot be kept: No space left on device" in run.text and "NOKMEM_CACHE" in run.text
    assert list((disk / "cache/files").iterdir()) == []


def test_a_full_room_is_named(
    rootfs_builder: object, cache: Cache, disk: Path, tmp_path: Path
) -> None:
    """The same toolchain in another cache, whose rooms are on the small disk."""
    other = tmp_path / "other"
    (other / "runs").mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(disk), str(other / "runs")], check=True)
    try:
        for name in ("trees", "go"):
            (other / name).symlink_to(cache.root / name)
        one = small.make(tmp_path, kubelet="head -c 4m /dev/zero > large")
        words = ("build", "--k8s", VERSION, *one.words, "--builder", "rootfs")
        run = Run(*words, "--dist", str(tmp_path / "d"), environment={"NOKMEM_CACHE": str(other)})
        assert run.end() == 4, run.text
    finally:
        subprocess.run(["umount", str(other / "runs")], check=True)
    assert "the disk of the build is full" in run.text and str(other / "runs") in run.text


def test_a_full_volume_of_the_engine_is_named(
    container_builder: object, plan: BuildPlan, cache: Cache, tmp_path: Path
) -> None:
    """Go's cache has room for eight megabytes, and another name here, for other builds are using it.
    Go itself does without; what is kept beside it is more than that."""
    prefix = f"nokmem-test-{os.getpid()}-"
    front = "import runpy; from builders.tools import container; "
    front += f"container.VOLUME = {prefix!r}; runpy.run_path('tasks.py', run_name='__main__')"
    options = {"type": "tmpfs", "device": "tmpfs", "o": f"size=8m,uid={BUILDER_ID}"}
    with engine() as client:
        volume = client.volumes.create(prefix + plan.toolchain.key[:16], driver_opts=options)
        try:
            one = small.make(tmp_path, generate="head -c 9m /dev/urandom > pkg/api/large")
            run = build(tmp_path / "d", one, "container", front=front)
            assert run.end() == 4, run.text
        finally:
            volume.remove()
    assert "machine: kubelet v1.20.2: the disk of the build is full" in run.text, run.text
    assert volume.name in run.text and "free some room there" in run.text
    assert left_behind(tmp_path / "d", "container", cache) == []


def test_a_compiler_killed_for_memory_is_called_that(
    container_builder: object, tmp_path: Path
) -> None:
    hungry = small.make(tmp_path, kubelet="head -c 300m /dev/zero | tail >/dev/null")
    run = build(tmp_path / "dist", hungry, "container", "--memory", "128m")
    assert run.end() == 4, run.text
    assert "most likely for want of memory" in run.text and "2048m" in run.text
    assert "docker exec" not in run.text, "that room is gone"


def test_a_make_that_is_killed_itself_is_called_that(kind: str, tmp_path: Path) -> None:
    """As the kernel does it: from outside, and the first of all in there, too."""
    run = build(tmp_path / "dist", small.make(tmp_path, kubelet=SLEEP), kind)
    until(lambda: len(sleeping()) == 1, 60)
    status = Path("/proc", sleeping()[0], "status").read_text()
    os.kill(int(status.partition("PPid:")[2].split()[0]), signal.SIGKILL)
    assert run.end() == 4, run.text
    assert "the system killed a compiler" in run.text and "2048m" in run.text


@pytest.mark.calm
def test_a_build_reaches_nothing(kind: str, tmp_path: Path) -> None:
    """A Makefile that looks for a network finds none, where outside there is one."""
    with socket.create_server(("0.0.0.0", 0)) as service:
        port = service.getsockname()[1]
        reach = f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' 2>/dev/null"
        outside = subprocess.run(["sh", "-c", reach])
        assert outside.returncode == 0, "it does not answer outside either"
        looks = f"if {reach}; then echo REACHED; exit 3; else echo alone; fi"
        run = build(tmp_path / "dist", small.make(tmp_path, kubelet=looks, runc=looks), kind)
        assert run.end() == 0, run.text
    log = (tmp_path / "dist" / VERSION / "build.log").read_text()
    assert log.count("alone") == 2 and "REACHED" not in log


def test_a_hostile_archive_is_refused_by_the_name_of_its_member(tmp_path: Path) -> None:
    words = list(small.make(tmp_path).words)
    at = words.index("--k8s-source") + 1
    with tarfile.open(words[at], "w") as tar:
        tar.addfile(tarfile.TarInfo("top/Makefile"))
        tar.addfile(tarfile.TarInfo("top/../../evil"))
    words[words.index("--k8s-sha256") + 1] = small.sha256(Path(words[at]))
    run = build(tmp_path / "dist", small.Small(tuple(words)), "auto")
    assert run.end() == 6, run.text
    assert "'top/../../evil' is a path that leads out of its folder" in run.text
    assert words[at] in run.text and "nothing of it was unpacked" in run.text
    assert "compile" not in run.text


def test_a_missing_keyring_is_named_with_the_package_that_has_it(tmp_path: Path) -> None:
    environment = {"NOKMEM_DEBIAN_KEYRING": "/no/keyring.gpg", "NOKMEM_CACHE": str(tmp_path / "c")}
    run = Run("fetch", "--k8s", VERSION, "--toolchain", "debian", environment=environment)
    assert run.end() == 4, run.text
    assert "keyring that signs Debian's archives is not here" in run.text, run.text
    assert "/no/keyring.gpg" in run.text and "apt-get install debian-archive-keyring" in run.text


@pytest.mark.calm
def test_each_phase_is_set_beside_the_build_before(rootfs_builder: object, tmp_path: Path) -> None:
    words = ("build", "--k8s", VERSION, *small.make(tmp_path).words, "--builder", "rootfs")
    words = (*words, "--dist", str(tmp_path / "dist"), "--profile", "--rebuild")

    def took() -> dict[str, list[str]]:
        """Of each phase, what it took and what it took before."""
        asked = subprocess.run(
            [sys.executable, str(ROOT / "tasks.py"), *words], capture_output=True, text=True
        )
        assert asked.returncode == 0, asked.stderr
        rows = [re.split(" {2,}", line.strip()) for line in asked.stdout.splitlines()]
        return {row[0]: row[1:] for row in rows if len(row) == 3}

    first = took()
    phase = f"compile kubelet {VERSION}"
    kept = json.loads((tmp_path / "dist" / VERSION / MANIFEST).read_text())["profile"]
    assert first.pop("phase") == ["took", "before"]
    assert {row["phase"] for row in kept} == set(first) and phase in first
    assert first[phase][1] == "-"
    assert took()[phase][1] == first[phase][0]


def test_a_limit_that_cannot_be_kept_is_refused_before_anything_is_fetched(
    rootfs_builder: object, tmp_path: Path
) -> None:
    run = build(tmp_path / "dist", small.make(tmp_path), "rootfs", "--memory", "4g")
    assert run.end() == 2 and "cannot limit memory" in run.text, run.text
    assert "begins" not in run.text


def test_a_release_that_is_none_is_refused_before_another_is_fetched(provider: object) -> None:
    run = Run("fetch", "--k8s", f"{VERSION},", "--toolchain", "debian", "--go", "distribution")
    assert run.end() == 2 and "no release is named" in run.text, run.text
    assert "begins" not in run.text


@pytest.mark.parametrize("place", ["file/dist", "/proc/dist"])
def test_a_dist_that_cannot_be_written_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = build(tmp_path / place, small.make(tmp_path), "auto")
    assert run.end() == 4, run.text
    assert "dist cannot be written" in run.text and "--dist" in run.text


@pytest.mark.parametrize("name", ["", "git", "locks"])
def test_a_cache_of_somebody_elses_is_named(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """To root, who could write it: what others wrote there would be run."""
    as_root(request)
    place = tmp_path / "cache" / name
    place.mkdir(parents=True)
    os.chown(place, 65534, 65534)
    words = ("build", "--k8s", VERSION, "--dist", str(tmp_path / "dist"))
    run = Run(*words, environment={"NOKMEM_CACHE": str(tmp_path / "cache")})
    assert run.end() == 4, run.text
    assert "machine: the cache is somebody else's: uid 65534 owns this, not 0" in run.text
    assert str(place) in run.text and "NOKMEM_CACHE" in run.text
    assert not list((tmp_path / "cache").rglob("*.lock"))


def test_a_cache_that_cannot_be_written_is_named(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    as_root(request)
    (tmp_path / "cache").mkdir(0o755)
    asked = by_nobody("cache.show", NOKMEM_CACHE=str(tmp_path / "cache"))
    assert asked.returncode == 4, asked.stderr
    said = " ".join(asked.stderr.split())
    assert "machine: the cache is somebody else's: uid 0 owns this, not 65534" in said, said
    assert str(tmp_path / "cache") in said and "NOKMEM_CACHE" in said


def by_nobody(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of ours, run by the user whom nobody knows: it may read whatever Python is made of,
    and writes nothing of others'."""
    rights = [f"--{kind}-caps=-all,+dac_read_search" for kind in ("inh", "ambient")]
    return subprocess.run(
        [
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *rights),
            *(sys.executable, str(ROOT / "tasks.py"), *words),
        ],
        env={**os.environ, "CI": "true", "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
    )


BROKEN_SETTINGS = {
    "no TOML": ("[build\n", "this is not TOML"),
    "an unknown key": ("[build]\nbuildr = 'x'\n", "build.buildr: unknown key 'buildr'"),
    "a wrong value": ("\n[build]\nbuilder = 'podman'\n", "use one of: auto, container, rootfs"),
}


@pytest.mark.parametrize("name", BROKEN_SETTINGS)
def test_broken_settings_are_named(name: str, tmp_path: Path) -> None:
    text, words = BROKEN_SETTINGS[name]
    (tmp_path / "nokmem.toml").write_text(text)
    run = Run(
        "build", "--k8s", VERSION, environment={"NOKMEM_CONFIG": str(tmp_path / "nokmem.toml")}
    )
    assert run.end() == 2, run.text
    assert words in run.text and str(tmp_path / "nokmem.toml") in run.text


#: Shells, paths, options of other programs, addresses that run something, texts that turn a line.
HOSTILE = [
    *("$(touch {ran})", "`touch {ran}`", "; touch {ran}", "|touch {ran}", "x\n;touch {ran}"),
    *("--upload-pack=touch {ran}", "ext::sh -c touch% {ran}", "-h", "../../escaped", "~root"),
    *("\u202e\x1b[2J", "%s{{0}}", "x" * 5000),
]
#: What makes a task go as far with a word as it can without a network.
SO_FAR = {
    "plan": (f"--k8s={VERSION}",),
    "build": (f"--k8s={VERSION}", "--dist=dist", "--offline"),
    "fetch": (f"--k8s={VERSION}", "--offline"),
    "patches": ("--check", f"--k8s={VERSION}", "--offline"),
    "test": ("--level=unit",),
}
NOWHERE = "http://127.0.0.1:9"
PLACES = ("DEBIAN_MIRROR", "DEBIAN_SECURITY_MIRROR", "KUBERNETES_REPOSITORY", "RUNC_REPOSITORY")
OPTIONS = [
    (name, argument.name.replace("_", "-"))
    for name in tasks.namespace.task_names
    # a copy: invoke takes each help text out of a task when it is asked for its arguments
    for argument in copy.deepcopy(tasks.namespace[name]).get_arguments()
    if argument.kind is str
]


@pytest.mark.parametrize("word", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_no_option_takes_a_hostile_word(
    name: str,
    option: str,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Of no task; in this very process, for hundreds of starts would take minutes."""
    ran, here = tmp_path / "ran", tmp_path / "a/b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("NOKMEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    monkeypatch.setenv("CI", "true")
    for place in PLACES:
        monkeypatch.setenv(f"NOKMEM_{place}", NOWHERE)
    monkeypatch.setenv("NOKMEM_GO_MIRROR", NOWHERE)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    asked: list[list[str]] = []

    def attached(argv: list[str], **_: object) -> int:
        asked.append(argv)
        return 5

    monkeypatch.setattr(process, "attached", attached)
    word = word.format(ran=ran)
    others = [one for one in SO_FAR.get(name, ()) if not one.startswith(f"--{option}=")]
    code: object = 0
    try:
        Front(namespace=tasks.namespace, name="nokmem", binary="./run").run(
            ["./run", name, *others, f"--{option}={word}"]
        )
    except SystemExit as ended:
        code = ended.code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    said = "".join(capfd.readouterr())
    assert code in (0, 2, 3, 4, 5, 9, 11), said
    assert "Traceback" not in said and not set(said) & {"\u202e", "\x1b"}, said
    assert not ran.exists()
    assert [argv[-2:] for argv in asked] == ([["-k", word]] if option == "select" else [])
    if option != "dist":  # that one is a place to write
        assert {path.name for path in tmp_path.iterdir()} <= {"a", "cache"}
        assert not list(here.glob("*/[!.]*")) and not list(here.glob("[!.d]*")), "a file"


class Wire(threading.Thread):
    """Between a client and the engine: passes everything on until it is cut."""

    def __init__(self, path: Path, engine_path: str) -> None:
        super().__init__(daemon=True)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(64)
        self._engine = engine_path
        self._open: list[socket.socket] = []
        self._cut = False

    def run(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self._cut:
                client.close()
                continue
            upstream = socket.socket(socket.AF_UNIX)
            upstream.connect(self._engine)
            self._open += [client, upstream]
            for one, other in ((client, upstream), (upstream, client)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    @staticmethod
    def _pass(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        self._cut = True
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        self._server.shutdown(socket.SHUT_RDWR)  # closing alone wakes no thread that waits there
        self.join()
        self._server.close()
        for one in self._open:
            one.close()


def test_an_engine_that_dies_in_the_middle_is_named(
    container_builder: object, cache: Cache, tmp_path: Path
) -> None:
    if not ENGINE.startswith("unix://"):
        pytest.skip("the engine is not on this machine")
    wire = Wire(tmp_path / "s", ENGINE.removeprefix("unix://"))
    wire.start()
    environment = {"DOCKER_HOST": f"unix://{tmp_path / 's'}"}
    one = small.make(tmp_path, kubelet=SLEEP)
    words = ("build", "--k8s", VERSION, *one.words, "--builder", "container")
    run = Run(*words, "--dist", str(tmp_path / "d"), environment=environment)
    try:
        until(lambda: len(sleeping()) == 1, 60)
        wire.cut()
        assert run.end(60) == 4, run.text
    finally:
        wire.close()
    assert "machine: the engine" in run.text, run.text
    again = build(tmp_path / "d", small.make(tmp_path), "container")
    assert again.end() == 0, again.text
    assert sleeping() == [] and left_behind(tmp_path / "d", "container", cache) == []


class OldEngine(BaseHTTPRequestHandler):
    """An engine of 2016: a real one cannot be had."""

    def do_GET(self) -> None:
        body = b'{"ApiVersion": "1.24", "Version": "1.12.6"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_an_engine_that_is_too_old_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), OldEngine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {"DOCKER_HOST": f"tcp://127.0.0.1:{server.server_port}"}
    try:
        run = Run("build", "--k8s", VERSION, "--builder", "container", "--dist", str(tmp_path),
                  environment=environment)  # fmt: skip
        assert run.end() == 4, run.text
    finally:
        server.shutdown()
        server.server_close()
    assert "speaks API 1.24; 1.40 is the oldest usable" in run.text and "19.03" in run.text


def test_an_engine_that_is_not_there_is_named(tmp_path: Path) -> None:
    environment = {"DOCKER_HOST": f"unix://{tmp_path}/no.sock"}
    words = ("build", "--k8s", VERSION, "--builder", "container", "--dist", str(tmp_path))
    run = Run(*words, environment=environment)
    assert run.end() == 4 and "no engine answers" in run.text, run.text


@pytest.mark.parametrize(
    ("mode", "step"), [(0o660, "usermod --append --groups {} nobody"), (0o600, "run as root")]
)
def test_an_engine_that_does_not_let_this_user_in_is_named(
    mode: int, step: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The real engine behind a socket with the rights of an engine's."""
    as_root(request)
    request.getfixturevalue("container_builder")
    if not ENGINE.startswith("unix://"):
        pytest.skip("the engine is not on this machine")
    wire, group = Wire(tmp_path / "s", ENGINE.removeprefix("unix://")), grp.getgrgid(6)
    os.chown(tmp_path / "s", 0, group.gr_gid)
    (tmp_path / "s").chmod(mode)
    wire.start()
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 65534, 65534)
    words = ("build", "--k8s", VERSION, "--builder", "container")
    try:
        asked = by_nobody(
            *words, "--dist", str(tmp_path / "cache/dist"), DOCKER_HOST=f"unix://{tmp_path / 's'}",
            NOKMEM_CACHE=str(tmp_path / "cache"),
        )  # fmt: skip
    finally:
        wire.close()
    assert asked.returncode == 4, asked.stderr
    said = " ".join(asked.stderr.split())
    assert "machine: the engine does not let this user, nobody, in" in said, said
    assert f"group {group.gr_name}: permission denied" in said and str(tmp_path / "s") in said
    assert step.format(group.gr_name) in said, said


def test_a_tree_whose_second_stage_fails_is_named_and_does_not_stay(
    rootfs_builder: rootfs.Rootfs, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "seed.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("nothing-that-runs"))
    recipe = Recipe(tmp_path / "Dockerfile", {"seed.tar": tmp_path / "seed.tar"}, seed="seed.tar")
    with pytest.raises(ToolchainError, match="second stage failed") as caught:
        rootfs_builder.make("f" * 64, recipe, lambda _: None)
    assert "bootstrap.sh" in caught.value.place and "doctor" in caught.value.next_step
    assert not rootfs_builder.has("f" * 64) and rootfs_builder.sweep() == 0


def test_an_image_that_cannot_be_built_is_named(
    container_builder: container.ContainerBuilder, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(
        'FROM scratch\nLABEL io.nokmem.stage=tree\nADD seed.tar /\nRUN ["/bin/no-such"]\n'
    )
    (tmp_path / "seed.tar").write_bytes(bytes(10240))
    recipe = Recipe(tmp_path / "Dockerfile", {"seed.tar": tmp_path / "seed.tar"})
    with pytest.raises(ToolchainError, match="could not be built") as caught:
        container_builder.make("f" * 64, recipe, lambda _: None)
    assert "no-such" in "\n".join(caught.value.detail)
    assert not container_builder.has("f" * 64)
