"""Where sources and Go come from: real repositories, real servers and real archives, some of them
silent, some of them wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import lzma
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest

from builders import pipeline
from builders.errors import (
    CompileError,
    IntegrityError,
    ToolchainError,
    UnavailableError,
    UsageError,
)
from builders.model import settings
from builders.model.artifact import Check, CheckReport, SourceTree
from builders.model.plan import (
    BuildPlan,
    BuildRequest,
    ComponentPlan,
    GoPlan,
    OwnArchive,
    ToolchainPlan,
)
from builders.model.releases import Facts
from builders.model.resolve import resolve
from builders.steps import sources
from builders.steps.compile import compile_component, lay, put_go
from builders.steps.sources import Places
from builders.supply import Options, Supply
from builders.tools import archives, download, gitrepo, process
from builders.tools.builder import Builder, Limits, Recipe
from builders.tools.cache import Cache, sha256_of
from builders.tools.container import ContainerBuilder
from builders.tools.download import Downloader
from builders.tools.files import Program
from builders.tools.terminal import Terminal
from tests.conftest import ROOT, VERSION
from tests.integration.test_gitrepo import TAG, git, names, quiet, server, upstream

__all__ = ["server", "upstream"]  # fixtures

ONE, OTHER = "v1.15.3", "v1.16.0"
GO = "1.12.9"
#: A port where nobody listens.
NOBODY = "http://127.0.0.1:9"
#: What stands for a compiler leaves a program that prints nothing.
MAKEFILE = (
    b"kubelet:\n\tinstall -D /bin/true _output/local/bin/linux/amd64/kubelet\n"
    b"static:\n\tcp /bin/true runc\n"
)


class Asked(SimpleHTTPRequestHandler):
    """Files of a folder; each path that is asked for is kept. Below /dying/ each answer breaks off
    in the middle."""

    def do_GET(self) -> None:
        server = cast(Web, self.server)
        server.asked.append(self.path)
        if self.path.startswith("/dying/"):
            body = (server.folder / self.path.removeprefix("/dying/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


class Web(ThreadingHTTPServer):
    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Asked, directory=str(folder)))
        self.folder = folder
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    (tmp_path / "web").mkdir()
    server = Web(tmp_path / "web")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@dataclasses.dataclass(frozen=True)
class World:
    """Upstream's two repositories, small, and the facts that pin their commits; a cache of its
    own; and a Go that says which it is."""

    facts: Facts
    repositories: dict[str, Path]
    cache: Cache
    go: Path
    folder: Path

    def environment(self, **change: str) -> dict[str, str]:
        found = {
            sources.REPOSITORY_VARIABLES[name]: f"file://{path}"
            for name, path in self.repositories.items()
        }
        return {**found, sources.GO_VARIABLE: shlex.quote(str(self.go.parent)), **change}

    def supply(self, builder: object = None, offline: bool = False, **change: Any) -> Supply:
        places = Places(change.pop("environment", self.environment()), **change)
        options = Options(places, offline=offline)
        terminal = Terminal(ci=True)
        return Supply(self.facts, options, self.cache, terminal, cast(Builder, builder))

    def left(self) -> list[str]:
        """What no failure may leave in the cache."""
        parts = [path for path in self.cache.root.rglob("*") if path.name.startswith(".part-")]
        return [str(path) for path in (*parts, *(self.cache.root / "runs").glob("*"))]

    def commit(self, component: str, tag: str) -> str:
        return git(self.repositories[component], "rev-parse", f"{tag}^{{commit}}")


class Ready:
    """A builder that has every toolchain."""

    name = "ready"

    def has(self, key: str) -> bool:
        return bool(key)

    def close(self) -> None:
        pass

    def sweep(self) -> int:
        return 0

    def admit(self, limits: Limits) -> None:
        pass

    def memory(self) -> None:
        pass


def tar_of(files: dict[str, bytes], *, comment: str = "", mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    headers = {"comment": comment} if comment else {}
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers
    ) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def fake_go(says: str, exit_code: int = 0) -> bytes:
    script = f"#!/bin/sh\necho {says}\nexit {exit_code}\n"
    return gzip.compress(tar_of({"go/bin/go": script.encode()}, mode=0o755))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def world(tmp_path: Path) -> World:
    facts = Facts()
    repositories = {name: tmp_path / "upstream" / name for name in ("kubelet", "runc")}
    commits: dict[str, dict[str, str]] = {name: {} for name in repositories}
    runcs = {facts.release(version).runc() for version in (ONE, OTHER, VERSION)}
    for name, folder in repositories.items():
        folder.mkdir(parents=True)
        git(folder, "init", "--quiet", "--initial-branch=main")
        for release in sorted({ONE, OTHER, VERSION} if name == "kubelet" else runcs):
            (folder / "Makefile").write_bytes(MAKEFILE + f"# {release}\n".encode())
            git(folder, "add", ".")
            git(folder, "commit", "--quiet", "-m", release)
            tag = f"v{release.removeprefix('v')}"
            git(folder, "tag", "-a", tag, "-m", release)
            commits[name][release] = git(folder, "rev-parse", "HEAD")
    for version, commit in commits["kubelet"].items():
        changed = dataclasses.replace(facts.release(version), commit=commit)
        facts._minors[version[1:].rpartition(".")[0]][version] = changed
    facts.__dict__["runcs"] = facts.runcs | {
        version: dataclasses.replace(facts.runc(version), commit=commit)
        for version, commit in commits["runc"].items()
    }
    go = tmp_path / "go mirror" / facts.go_archives[GO].name
    go.parent.mkdir()
    go.write_bytes(fake_go(f"go version go{GO} linux/amd64"))
    facts.__dict__["go_archives"] = facts.go_archives | {
        version: dataclasses.replace(archive, sha256=sha256_of(go))
        for version, archive in facts.go_archives.items()
        if version == GO
    }
    quoted = World(facts, repositories, Cache(tmp_path / "cache"), go, tmp_path)
    assert " " in str(go), "a path with blanks is meant"
    return quoted


REQUEST = BuildRequest(ONE, toolchain="el7")


def own(world: World, place: str, digest: str) -> tuple[BuildRequest, dict[str, str]]:
    """A request with an archive of Kubernetes, and where it is."""
    archive = settings.own_archive("kubernetes", ONE, place, digest)
    return dataclasses.replace(REQUEST, own=(archive,)), {digest: place}


def refuse(*words: object, **_: object) -> NoReturn:
    raise AssertionError(f"nobody may be asked: {words[1:]}")


# auto


@pytest.mark.calm
def test_auto_takes_the_first_that_answers_and_asks_no_other(
    world: World, web: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    content = tar_of({"k/Makefile": MAKEFILE}, comment=world.commit("kubelet", ONE))
    (web.folder / "k.tar").write_bytes(content)
    request, places = own(world, f"{web.url}/k.tar", sha256(content))
    environment = world.environment(NOKMEM_KUBERNETES_REPOSITORY=f"{web.url}/git")
    decided = world.supply(environment=environment, archives=places).settle(request)
    assert [c.source.provider for c in decided.components] == ["git", "archive"]
    assert web.asked == ["/k.tar"]
    said = capsys.readouterr().err
    assert f"fetch kubelet {ONE}: done" in said and ", archive\n" in said


def test_auto_passes_silence_over_and_says_what_it_took_and_why(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    request, places = own(world, f"{NOBODY}/k.tar", "1" * 64)
    decided = world.supply(archives=places).settle(request)
    assert [c.source.provider for c in decided.components] == ["git", "git"]
    assert (
        "kubelet: from git, because archive: no answer: connection failed"
        in capsys.readouterr().err
    )
    assert world.left() == []


def test_where_all_are_silent_each_is_named(world: World) -> None:
    request, places = own(world, f"{NOBODY}/k.tar", "1" * 64)
    environment = world.environment(NOKMEM_KUBERNETES_REPOSITORY=f"{NOBODY}/a {NOBODY}/b")
    with pytest.raises(UnavailableError, match="could not be fetched") as caught:
        world.supply(environment=environment, archives=places).settle(request)
    said = "\n".join(caught.value.detail)
    assert "archive: no answer" in said and f"{NOBODY}/a: " in said and f"{NOBODY}/b: " in said


def _moved_tag(world: World, web: Web) -> tuple[BuildRequest, dict[str, str], dict[str, str]]:
    good = world.folder / "good"
    shutil.copytree(world.repositories["kubelet"], good)
    git(world.repositories["kubelet"], "tag", "-f", ONE, OTHER)
    moved = f"file://{world.repositories['kubelet']} file://{good}"
    return REQUEST, {}, {"NOKMEM_KUBERNETES_REPOSITORY": moved}


def _wrong_content(world: World, web: Web) -> tuple[BuildRequest, dict[str, str], dict[str, str]]:
    (web.folder / "k.tar").write_bytes(b"something else")
    return *own(world, f"{web.url}/k.tar", "1" * 64), {}


def _wrong_file(world: World, web: Web) -> tuple[BuildRequest, dict[str, str], dict[str, str]]:
    (world.folder / "k.tar").write_bytes(b"something else")
    return *own(world, str(world.folder / "k.tar"), "1" * 64), {}


def _other_commit(world: World, web: Web) -> tuple[BuildRequest, dict[str, str], dict[str, str]]:
    content = tar_of({"k/Makefile": MAKEFILE}, comment=world.commit("kubelet", OTHER))
    (web.folder / "k.tar").write_bytes(content)
    return *own(world, f"{web.url}/k.tar", sha256(content)), {}


def _no_archive(world: World, web: Web) -> tuple[BuildRequest, dict[str, str], dict[str, str]]:
    (web.folder / "k.tar").write_bytes(b"<html>")
    return *own(world, f"{web.url}/k.tar", sha256(b"<html>")), {}


def _wrong_go(world: World, web: Web) -> tuple[BuildRequest, dict[str, str], dict[str, str]]:
    (web.folder / world.go.name).write_bytes(fake_go("go version go1.12.9 evil"))
    return REQUEST, {}, {"NOKMEM_GO_MIRROR": f"{web.url} '{world.go.parent}'"}


@pytest.mark.parametrize(
    ("arrange", "fact", "place"),
    [
        (_moved_tag, "moved: expected", "file://{folder}/upstream/kubelet"),
        (_wrong_content, "wrong content: expected sha256 1111", "{url}/k.tar"),
        (_wrong_file, "wrong content: expected sha256 1111", "{folder}/k.tar"),
        (_other_commit, "was made of", "{url}/k.tar"),
        (_no_archive, "no tar archive", "{url}/k.tar"),
        (_wrong_go, "wrong content", "{url}/go1.12.9.linux-amd64.tar.gz"),
    ],
)
def test_what_is_wrong_is_never_passed_over(
    arrange: Any, fact: str, place: str, world: World, web: Web
) -> None:
    request, places, change = arrange(world, web)
    environment = {
        **world.environment(),
        **change,
    }
    with pytest.raises(IntegrityError, match=fact) as caught:
        world.supply(environment=environment, archives=places).settle(request)
    assert caught.value.place == place.format(url=web.url, folder=world.folder)
    assert world.left() == []


def test_the_distributions_own_go_stands_in_for_a_silent_mirror(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    request = BuildRequest(VERSION, kubernetes_source="git", runc_source="git")
    environment = world.environment(NOKMEM_GO_MIRROR=NOBODY)
    decided = world.supply(environment=environment).settle(request)
    assert (decided.request.toolchain, decided.request.go) == ("debian", "distribution")
    said = capsys.readouterr().err
    assert "debian with its own Go, because the archive of Go 1.15.5 does not answer" in said
    assert said.count("archive of Go 1.15.5") == 1  # of two choices that want it


def test_a_machine_that_knows_no_mirror_of_the_distribution_takes_git(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on EL, where there is no keyring either."""
    monkeypatch.setattr("builders.tools.apt.mirrors", lambda _: {"debian": ()})
    monkeypatch.setattr("builders.tools.apt.KEYRINGS", ())
    decided = world.supply().settle(BuildRequest(VERSION, toolchain="debian", go="distribution"))
    assert [c.source.provider for c in decided.components] == ["git", "git"]
    assert "from git, because debian: no mirror of the debian archive" in capsys.readouterr().err


# offline


@pytest.fixture
def everywhere(world: World, web: Web) -> dict[str, str]:
    """An environment in which each place that could be asked is one that listens."""
    return {name: f"{web.url}/{name}" for name in settings.VARIABLES.values()}


def test_offline_names_all_that_is_missing_at_once_and_asks_nobody(
    world: World, web: Web, everywhere: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", refuse)
    supply = world.supply(offline=True, environment=everywhere)
    requests = [BuildRequest(v, toolchain="debian", go="official") for v in (ONE, OTHER)]
    with pytest.raises(UnavailableError, match=r"the cache lacks \d+ of the things") as caught:
        supply.settle_all(requests)
    said = "\n".join(caught.value.detail)
    for version in (ONE, OTHER):
        release = world.facts.release(version)
        runc = world.facts.runc(release.runc())
        assert release.commit in said and runc.commit in said
        assert world.facts.go_archives[release.go].name in said
    assert "gcc-10_" in said and "debootstrap_" in said, "packages of the toolchain"
    assert len(set(caught.value.detail)) == len(caught.value.detail)
    assert web.asked == [] and world.left() == []


def test_offline_an_image_that_is_not_made_is_named(
    world: World, everywhere: dict[str, str]
) -> None:
    with pytest.raises(UnavailableError) as caught:
        world.supply(offline=True, environment=everywhere).settle(REQUEST)
    assert "the toolchain image el7" in caught.value.detail


@pytest.fixture
def command(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """`fetch` as the command line has it, in this world and with every toolchain made."""
    monkeypatch.setattr(pipeline, "Facts", lambda **_: world.facts)
    monkeypatch.setattr(pipeline, "choose", lambda *_: Ready())
    return world


def fetch(world: World, environment: dict[str, str], offline: bool = False) -> list[BuildPlan]:
    requests = [BuildRequest(v, toolchain="el7") for v in (ONE, OTHER)]
    options = Options(Places(environment), offline=offline)
    return list(pipeline.fetch(requests, options, world.cache, Terminal(ci=True)))


@pytest.mark.calm
def test_what_was_fetched_is_enough_without_a_network(
    command: World, web: Web, everywhere: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    near = command.environment()
    first = fetch(command, near)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert fetch(command, everywhere, offline=True) == first
    assert [plan.kubernetes for plan in first] == [ONE, OTHER]
    supply = command.supply(Ready(), offline=True, environment=everywhere)
    assert supply.settle(REQUEST) == first[0]
    assert web.asked == [] and command.left() == []


@pytest.mark.calm
def test_fetch_offline_only_says(command: World, everywhere: dict[str, str], web: Web) -> None:
    with pytest.raises(UnavailableError) as caught:
        fetch(command, everywhere, offline=True)
    assert len(caught.value.detail) == 4, "two of Kubernetes, one runc, one Go"
    assert web.asked == [] and not (command.cache.root / "git").exists()


def test_a_build_that_lacks_something_leaves_no_empty_log(
    command: World, everywhere: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options(Places(everywhere), offline=True)
    dist = command.folder / "dist"
    with pytest.raises(UnavailableError, match="the cache lacks"):
        pipeline.build(REQUEST, options, dist, command.cache, Terminal(ci=True))
    assert not list(dist.glob("*.log")) and "the log" not in capsys.readouterr().err


def test_fetch_offline_leaves_missing_packages_of_a_made_toolchain_alone(
    command: World, web: Web, everywhere: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(command, command.environment())
    monkeypatch.setattr(socket.socket, "connect", refuse)
    requests = [BuildRequest(ONE, toolchain="debian")]
    options = Options(Places(everywhere), offline=True)
    pipeline.fetch(requests, options, command.cache, Terminal(ci=True))
    assert web.asked == []


def test_offline_what_is_held_goes_before_what_would_be_better_and_that_is_said(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    near = world.environment()
    world.supply(environment=near).settle(REQUEST)
    request, places = own(world, f"{NOBODY}/k.tar", "1" * 64)
    decided = world.supply(Ready(), offline=True, environment=near, archives=places).settle(request)
    assert decided.components[1].source.provider == "git"
    assert "kubelet: from git, because archive: not in the cache" in capsys.readouterr().err


# Archives


@pytest.fixture
def component(world: World) -> ComponentPlan:
    """Kubernetes, from an archive that a test has yet to name."""
    request, _ = own(world, "k.tar", "1" * 64)
    decided = resolve(request, world.facts)
    return next(c for c in decided.components if c.name == "kubelet")


def of(component: ComponentPlan, path: Path) -> ComponentPlan:
    row = {"path": path.name, "sha256": sha256_of(path)}
    source = dataclasses.replace(component.source, provider="archive", files=(row,))
    return dataclasses.replace(component, source=source)


def provider(world: World, wanted: ComponentPlan, place: str) -> sources.Provider:
    places = {wanted.source.files[0]["sha256"]: place}
    return sources.provider(wanted, world.cache, Places({}, archives=places), quiet)


@pytest.mark.parametrize("packed", [bytes, gzip.compress, lzma.compress])
@pytest.mark.parametrize("above", ["", "./", "k/", "./k/"])
@pytest.mark.parametrize("kind", ["file", "relative", "url"])
@pytest.mark.calm
def test_an_archive_may_be_near_or_far_and_laid_out_in_any_way(
    packed: Any, above: str, kind: str, world: World, web: Web, component: ComponentPlan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = web.folder / "k.tar"
    path.write_bytes(packed(tar_of({f"{above}Makefile": MAKEFILE, f"{above}a/b": b"b"})))
    monkeypatch.chdir(web.folder)
    place = {"file": str(path), "relative": "k.tar", "url": f"{web.url}/k.tar?token=x"}[kind]
    wanted = of(component, path)
    held = provider(world, wanted, place)
    held.fetch(wanted, quiet, quiet)
    assert held.read(wanted, ["Makefile", "a/b"], world.folder) == {
        "Makefile": MAKEFILE, "a/b": b"b",
    }  # fmt: skip
    tree = held.tree(wanted, world.folder)
    out = world.folder / "out"
    out.mkdir()
    strip = f"--strip-components={tree.strip}"
    result = process.run(["tar", "-xf", str(tree.archive), "-C", str(out), strip])
    assert result.ok and (out / "a/b").read_bytes() == b"b"
    assert not held.missing(wanted) and world.left() == []


@pytest.mark.parametrize("place", ["no such file", ".", f"{NOBODY}/k.tar", "ftp://h/k.tar"])
def test_an_archive_that_is_nowhere_is_said_with_the_reason(
    place: str, world: World, component: ComponentPlan
) -> None:
    (world.folder / "k.tar").write_bytes(b"x")
    wanted = of(component, world.folder / "k.tar")
    with pytest.raises(UnavailableError) as caught:
        provider(world, wanted, place).fetch(wanted, quiet, quiet)
    assert caught.value.place == place and caught.value.next_step
    assert ("only http and https" in caught.value.fact) is place.startswith("ftp")
    assert world.left() == [] and world.cache.files() == []


@pytest.mark.calm
def test_several_runs_may_bring_the_same_file_at_once(world: World) -> None:
    places, digest = [str(world.go)], sha256_of(world.go)
    with Downloader() as downloader, ThreadPoolExecutor(8) as pool:
        for number in range(50):
            cache = Cache(world.folder / f"cache {number}")
            jobs = [
                pool.submit(archives.obtain, cache, digest, places, downloader, quiet, quiet)
                for _ in range(8)
            ]
            assert [job.result() for job in jobs] == [None] * 8
            assert [path.name for path in (cache.root / "files").iterdir()] == [digest]


EVIL = "/build/evil"


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, target, 0o6777
    member.devmajor, member.devminor = 1, 3
    return member


HOSTILE = {
    "absolute": ([_member(EVIL)], True),
    "upwards": ([_member("src/../../../evil")], False),
    "link to a folder": (
        [_member("a", tarfile.SYMTYPE, "/build"), _member("a/evil")], False,
    ),
    "link upwards": (
        [_member("a", tarfile.SYMTYPE, "../.."), _member("a/evil")], False,
    ),
    "link to Go's cache": (
        [_member("a", tarfile.SYMTYPE, "/cache/go"), _member("a/evil")], False,
    ),
    "link over a link": (
        [
            _member("b", tarfile.SYMTYPE, "."), _member("b/c", tarfile.SYMTYPE, "../.."),
            _member("c/evil"),
        ], False,
    ),
    "hard link": ([_member("passwd", tarfile.LNKTYPE, "/etc/passwd")], False),
    "device": ([_member("null", tarfile.CHRTYPE)], False),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_writes_nothing_outside_its_folder(
    kind: str, builder: Builder, plan: BuildPlan, tmp_path: Path
) -> None:
    members, harmless = HOSTILE[kind]
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        for member in (_member("Makefile"), *members):
            tar.addfile(member)
    runc = dataclasses.replace(plan.components[0], command=("true",), output="/etc/passwd")
    tree = SourceTree(runc.name, tmp_path / "evil.tar", 0)
    with builder.start(plan.toolchain.key, Limits()) as session:
        error: CompileError | None = None
        try:
            compile_component(runc, tree, {}, session, tmp_path, quiet, quiet)
        except CompileError as caught:
            error = caught
        assert harmless or (error is not None and "tar failed" in error.fact), error
        lines: list[str] = []
        for where in ("/build", "/cache/go", "/etc"):
            session.run(
                ["find", where, "-name", "evil", "-not", "-path", f"{runc.folder}/*"],
                environment={}, on_line=lines.append,
            )  # fmt: skip
        assert lines == []
        lines.clear()
        session.run(
            ["find", runc.folder, "-type", "c", "-o", "-user", "0"],
            environment={}, on_line=lines.append,
        )  # fmt: skip
        assert lines == []


@pytest.mark.parametrize("packed", [gzip.compress, lzma.compress])
@pytest.mark.calm
def test_a_builder_unpacks_it_whatever_it_was_packed_with(
    packed: Any, builder: Builder, plan: BuildPlan, world: World, component: ComponentPlan
) -> None:
    path = world.folder / "k.tar"
    path.write_bytes(packed(tar_of({"./k/Makefile": MAKEFILE, "./k/a/b": b"found\n"})))
    wanted = of(component, path)
    held = provider(world, wanted, str(path))
    held.fetch(wanted, quiet, quiet)
    tree = held.tree(wanted, world.folder)
    made = dataclasses.replace(
        wanted, command=("cat", "a/b"), output=f"{wanted.folder}/a/b", links={}
    )
    said: list[str] = []
    with builder.start(plan.toolchain.key, Limits()) as session:
        compile_component(made, tree, {}, session, world.folder, said.append, quiet)
    assert "found" in said


def test_what_is_laid_over_it_may_be_a_program(
    builder: Builder, plan: BuildPlan, component: ComponentPlan, tmp_path: Path
) -> None:
    for mode in (0o644, 0o755):
        (tmp_path / "k.tar").write_bytes(tar_of({"plain": b"old", "tool": b"old"}, mode=mode))
        made = dataclasses.replace(component, files={}, links={})
        tree = SourceTree(made.name, tmp_path / "k.tar", 0)
        over = dict.fromkeys(("plain", "new/plain"), b"\n")
        over |= dict.fromkeys(("tool", "new/tool"), Program(b"\n"))
        said: list[str] = []
        with builder.start(plan.toolchain.key, Limits()) as session:
            lay(made, tree, over, session, said.append)
            session.run(
                ["find", ".", "-type", "f", "-size", "1c", "-printf", "%P %m\n"],
                environment={}, folder=made.folder, on_line=said.append,
            )  # fmt: skip
        assert sorted(said) == ["new/plain 644", "new/tool 755", "plain 644", "tool 755"]


# Go


@pytest.fixture
def go(world: World) -> GoPlan:
    row = {"name": world.go.name, "sha256": sha256_of(world.go)}
    return GoPlan(GO, f"/build/goroot/{GO}/go", "", row)


@pytest.mark.parametrize("kind", ["folder", "mirror", "own file", "own url"])
@pytest.mark.calm
def test_go_comes_from_where_the_user_says(kind: str, world: World, web: Web, go: GoPlan) -> None:
    shutil.copyfile(world.go, web.folder / world.go.name)
    mirrors = {"folder": f"'{world.go.parent}/'", "mirror": f"{web.url}/?token=x"}
    own_places = {"own file": str(world.go), "own url": f"{web.url}/{world.go.name}?token=x"}
    places = Places(
        {sources.GO_VARIABLE: mirrors.get(kind, NOBODY)},
        archives={go.archive["sha256"]: own_places[kind]} if kind in own_places else {},
    )
    held = sources.GoArchives(world.cache, places, NOBODY, quiet)
    assert held.answer(go) is None
    held.fetch(go, quiet)
    assert sha256_of(held.file(go)) == go.archive["sha256"] and not held.missing(go)
    assert {path.partition("?")[0].lstrip("/") for path in web.asked} <= {world.go.name}


def test_a_mirror_that_dies_in_the_middle_is_passed_over_aloud(
    world: World, web: Web, go: GoPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    shutil.copyfile(world.go, web.folder / world.go.name)
    places = Places({sources.GO_VARIABLE: f"{web.url}/dying {web.url}"})
    said: list[str] = []
    sources.GoArchives(world.cache, places, NOBODY, said.append).fetch(go, quiet)
    first, second = f"{web.url}/dying/{world.go.name}", f"{web.url}/{world.go.name}"
    assert len(said) == 1 and said[0].startswith(f"{first}: the connection ended after ")
    assert said[0].endswith(f"; asking {second}") and world.cache.holds(go.archive["sha256"])
    assert world.left() == []


@pytest.mark.calm
def test_go_comes_from_what_the_settings_name(world: World, go: GoPlan) -> None:
    """A folder beside nokmem.toml, whose own path has blanks; an archive beside it."""
    place = world.go.parent / "nokmem.toml"
    for text in ('[mirrors]\ngo = "."\n', f'[archives.go."{GO}"]\nplace = "{world.go.name}"\n'
                 f'sha256 = "{go.archive["sha256"]}"\n'):  # fmt: skip
        read = settings.parse(text, place)
        cache = Cache(world.folder / sha256(text.encode()))
        places = Places(read.environment({}), archives=read.places)
        sources.GoArchives(cache, places, NOBODY, quiet).fetch(go, quiet)


@pytest.mark.calm
def test_a_mirror_of_the_settings_is_a_path_or_an_address(world: World) -> None:
    text = (
        '[mirrors]\nkubernetes = ["../upstream/kubelet", "git@host:k.git"]\n'
        'debian = "https://h/debian?x=~1"\n'
    )
    read = settings.parse(text, world.go.parent / "nokmem.toml")
    assert read.mirrors["NOKMEM_DEBIAN_MIRROR"] == "https://h/debian?x=~1"
    supply = world.supply(environment=world.environment(**read.mirrors))
    supply.settle_kubernetes(REQUEST)


@pytest.mark.calm
def test_a_relative_mirror_is_one_from_here(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    environment = world.environment(NOKMEM_KUBERNETES_REPOSITORY="upstream/kubelet")
    world.supply(environment=environment).settle_kubernetes(REQUEST)


def test_quotes_that_do_not_close_are_said_without_the_address(world: World) -> None:
    environment = world.environment(NOKMEM_KUBERNETES_REPOSITORY="https://u:sec'ret@h/k")
    with pytest.raises(UsageError) as caught:
        world.supply(environment=environment).settle_kubernetes(REQUEST)
    assert caught.value.place == "NOKMEM_KUBERNETES_REPOSITORY"
    assert "ret" not in f"{vars(caught.value)}{caught.value.__cause__}".replace("write", "")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (fake_go(f"go version go{GO} linux/amd64"), ""),
        (fake_go("go version go1.12.90 linux/amd64"), f"is not Go {GO}"),
        (fake_go("anything"), f"is not Go {GO}"),
        (fake_go(f"go version go{GO} linux/amd64", 1), "go failed with exit code 1"),
        (gzip.compress(tar_of({"go/README": b""})), "is not a Go that runs"),
        (b"no archive", "tar failed with exit code 2"),
    ],
)
def test_a_go_that_does_not_run_or_is_another_is_refused(
    content: bytes, why: str, builder: Builder, plan: BuildPlan, go: GoPlan, tmp_path: Path
) -> None:
    (tmp_path / "own").write_bytes(content)
    own_go = dataclasses.replace(go, archive={**go.archive, "name": "goroot"})
    with builder.start(plan.toolchain.key, Limits()) as session:
        if not why:
            put_go(own_go, tmp_path / "own", session, quiet)
            return
        with pytest.raises(ToolchainError, match=why):
            put_go(own_go, tmp_path / "own", session, quiet)


def test_a_go_of_no_patches_goes_by_two_numbers(
    rootfs_builder: Builder, plan: BuildPlan, tmp_path: Path
) -> None:
    (go,) = pipeline.plan(BuildRequest("v1.19.0", toolchain="el7")).toolchain.go
    assert (go.version, go.archive["name"]) == ("1.15.0", "go1.15.linux-amd64.tar.gz")
    (tmp_path / "own").write_bytes(fake_go("go version go1.15 linux/amd64"))
    with rootfs_builder.start(plan.toolchain.key, Limits()) as session:
        put_go(go, tmp_path / "own", session, quiet)


# Folders


@pytest.mark.parametrize("kind", ["blanks", "bare", "worktree", "submodule", "borrowing"])
@pytest.mark.calm
def test_a_folder_of_any_kind_gives_the_planned_commit(kind: str, world: World) -> None:
    upstream = world.repositories["kubelet"]
    folder = world.folder / f"a {kind} one"
    words = {
        "blanks": ("clone", "--quiet", str(upstream), str(folder)),
        "bare": ("clone", "--quiet", "--bare", str(upstream), str(folder)),
        "worktree": ("worktree", "add", "--quiet", str(folder), OTHER),
        "submodule": (
            "clone", "--quiet", "--separate-git-dir", str(world.folder / "elsewhere"),
            str(upstream), str(folder),
        ),
        "borrowing": ("clone", "--quiet", "--shared", str(upstream), str(folder)),
    }[kind]  # fmt: skip
    git(upstream, *words)
    request = dataclasses.replace(REQUEST, kubernetes_source="dir")
    supply = world.supply(folders={"kubelet": folder})
    decided = supply.settle_kubernetes(request)
    kubelet = supply.provider(decided, "kubelet")
    tree = kubelet.tree(decided.components[1], world.folder)
    assert names(tree.archive)["Makefile"].endswith(f"# {ONE}\n".encode())


@pytest.mark.parametrize("kind", ["lacks the commit", "is none", "is empty", "points nowhere"])
def test_a_folder_that_cannot_give_it_is_refused_before_anything_is_made(
    kind: str, world: World
) -> None:
    folder = world.folder / "mine"
    folder.mkdir()
    if kind in ("lacks the commit", "is empty"):
        git(folder, "init", "--quiet")
    if kind == "lacks the commit":
        git(folder, "commit", "--quiet", "--allow-empty", "-m", "x")
    if kind == "points nowhere":
        (folder / ".git").write_text("gitdir: /no/such/place\n")
    error = UnavailableError if kind == "lacks the commit" else UsageError
    request = dataclasses.replace(REQUEST, kubernetes_source="dir")
    with pytest.raises(error) as caught:
        world.supply(folders={"kubelet": folder}).settle(request)
    assert caught.value.place == str(folder) and caught.value.next_step
    assert "\t" not in caught.value.fact
    assert not (world.cache.root / "git").exists() or world.left() == []


def test_a_partial_clone_asks_nobody_for_the_rest(world: World) -> None:
    upstream, folder = world.repositories["kubelet"], world.folder / "partial"
    git(upstream, "config", "uploadpack.allowFilter", "true")
    words = ("clone", "--quiet", "--filter=blob:none", "--no-checkout")
    git(upstream, *words, f"file://{upstream}", str(folder))
    packs = sorted(folder.rglob("*.pack"))
    request = dataclasses.replace(REQUEST, kubernetes_source="dir")
    with pytest.raises(UnavailableError, match="cannot be read whole") as caught:
        world.supply(folders={"kubelet": folder}).settle_kubernetes(request)
    assert "without --filter" in caught.value.next_step
    assert sorted(folder.rglob("*.pack")) == packs


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_elses_is_said_to_be_one(world: World) -> None:
    folder = world.repositories["kubelet"]
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 12345, 12345)
    request = dataclasses.replace(REQUEST, kubernetes_source="dir")
    with pytest.raises(UsageError, match="dubious ownership") as caught:
        world.supply(folders={"kubelet": folder}).settle(request)
    assert "owner" in caught.value.next_step


# Nothing half-written


@pytest.mark.parametrize("kind", ["only a folder", "begun", "locked"])
def test_a_store_that_a_killed_run_left_works_again(kind: str, world: World) -> None:
    store = world.cache.repository("kubelet.git")
    store.mkdir(parents=True)
    if kind == "begun":
        (store / "objects").mkdir()
    if kind == "locked":
        git(store, "init", "--quiet", "--bare")
        (store / "refs/pinned").mkdir()
        pinned = store / "refs/pinned" / f"{world.commit('kubelet', ONE)}.lock"
        for lock in (store / "shallow.lock", store / "FETCH_HEAD.lock", pinned):
            lock.touch()
    supply = world.supply()
    decided = supply.settle_kubernetes(REQUEST)
    supply.provider(decided, "kubelet").tree(decided.components[1], world.folder)


class Stalled(threading.Thread):
    """Before a server of git: passes its first 100 kB on, and then nothing more."""

    def __init__(self, upstream: int) -> None:
        super().__init__(daemon=True)
        self._listens = socket.create_server(("127.0.0.1", 0))
        self.port = self._listens.getsockname()[1]
        self._upstream = upstream

    def run(self) -> None:
        client, _ = self._listens.accept()
        with self._listens, client, socket.create_connection(("127.0.0.1", self._upstream)) as up:
            threading.Thread(target=_pass_on, args=(client, up), daemon=True).start()
            _pass_on(up, client, 100_000)
            client.recv(1)  # until it hangs up


def _pass_on(one: socket.socket, other: socket.socket, most: int = 1 << 60) -> None:
    with contextlib.suppress(OSError):
        while most > 0 and (data := one.recv(min(most, 1 << 16))):
            other.sendall(data)
            most -= len(data)


def at_work_in(folder: Path) -> list[str]:
    """What the processes are called that work in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").samefile(folder):
                found.append((entry / "cmdline").read_text().replace("\0", " "))
    return found


def test_what_a_fetch_that_was_killed_left_goes(server: str, upstream: Path, world: World) -> None:
    """Its git, which waits for a server that says nothing more, and half a pack."""
    for number in range(150):  # more than what is passed on
        (upstream / f"{number}").write_bytes(os.urandom(3_000))
    git(upstream, "add", ".")
    git(upstream, "commit", "--quiet", "-m", "large")
    git(upstream, "tag", "-f", TAG)
    commit = git(upstream, "rev-parse", "HEAD")
    store = world.cache.repository("runc.git")
    stalled = Stalled(int(server.partition("127.0.0.1:")[2].partition("/")[0]))
    stalled.start()
    url = f"git://127.0.0.1:{stalled.port}/upstream"
    program = (
        "import sys\nfrom pathlib import Path\nfrom builders.tools import gitrepo\n"
        "gitrepo.fetch(Path(sys.argv[1]), [sys.argv[2]], *sys.argv[3:], print, print)\n"
    )
    words: list[str] = [sys.executable, "-c", program, str(store), url, TAG, commit]
    child = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    for _ in range(500):
        if any(path.stat().st_size > 50_000 for path in store.rglob("tmp_pack_*")):
            break
        time.sleep(0.02)
    child.kill()
    child.wait()
    assert at_work_in(store), "there is nothing to mend"
    assert list(store.rglob("tmp_*")), "there is nothing to mend"
    gitrepo.fetch(store, [server], TAG, commit, quiet, quiet)
    for _ in range(100):
        if not at_work_in(store):
            break
        time.sleep(0.05)
    assert at_work_in(store) == []
    assert list(store.rglob("tmp_*")) == []


@pytest.mark.parametrize("arrange", [_moved_tag, _wrong_content, _wrong_file])
def test_after_a_failure_a_second_run_just_works(arrange: Any, world: World, web: Web) -> None:
    request, places, change = arrange(world, web)
    near = world.environment()
    with pytest.raises(IntegrityError):
        world.supply(environment={**near, **change}, archives=places).settle(request)
    held = [path.name for path in world.cache.files()]
    assert held == [] and world.left() == []
    good = world.folder / "good"
    if arrange is _moved_tag:
        near["NOKMEM_KUBERNETES_REPOSITORY"] = str(good)
    world.supply(environment=near).settle(REQUEST)
    assert [path.name for path in world.cache.files()] == [sha256_of(world.go)]


# What the command line shows

SECRETS = ("hush", "s3cret")


def cli(world: World, *words: str, **variables: str) -> tuple[int, str]:
    environment = {"NOKMEM_CACHE": str(world.cache.root), "CI": "true", **variables}
    argv = [sys.executable, str(ROOT / "tasks.py"), *words]
    result, text = process.capture(argv, environment=environment, timeout=120)
    return result.exit_code, text


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--k8s-source", "{tar}"), 2, "an archive needs its sha256\n"),
        (("--k8s-source", "{tar}", "--k8s-sha256", "12"), 2, "'12' is none"),
        (("--k8s-source", "https://h/k.git"), 2, "NOKMEM_KUBERNETES_REPOSITORY"),
        (("--k8s-source", "none.tar", "--k8s-sha256", "1" * 64), 2, "no file and no URL"),
        (("--k8s-source", "none.tar"), 2, "a folder, a file or a URL"),
        (("--k8s-source", "{tar}", "--k8s-sha256", "AB" * 32), 0, "from archive"),
        (("--k8s-source", ""), 2, "a folder, a file or a URL"),
    ],
)
def test_an_archive_is_named_with_its_hash_or_the_command_says_so(
    words: tuple[str, ...], code: int, says: str, world: World
) -> None:
    (world.folder / "k.tar").write_bytes(b"")
    given = [word.format(tar=world.folder / "k.tar") for word in words]
    found, text = cli(world, "plan", "--k8s", ONE, *given)
    assert (found, says in text) == (code, True), text


def test_patches_are_checked_on_an_archive_with_its_hash(world: World) -> None:
    (world.folder / "k.tar").write_bytes(b"")
    words = ("--k8s-source", str(world.folder / "k.tar"), "--k8s-sha256", sha256(b""))
    found, text = cli(world, "patches", "--check", "--k8s", ONE, *words)
    assert (found, "FAILS: this is no tar archive" in text) == (1, True), text


def test_what_can_never_be_is_refused_before_anything_is_fetched(world: World) -> None:
    found, text = cli(world, "fetch", "--k8s", f"{ONE},v9", NOKMEM_GO_MIRROR=NOBODY)
    assert (found, text.partition("\n")[0]) == (2, "usage: 'v9' is not a Kubernetes version")


def test_no_secret_of_an_address_is_ever_shown(world: World, web: Web) -> None:
    secret = web.url.replace("//", "//user:s3cret@")
    where = f"{secret}/x?token=hush"
    for words, code in (
        (("--go", "official"), 5),
        (("--toolchain", "debian", "--go", "official"), 5),
        (("--offline",), 5),
        (("--k8s-source", f"{secret}/k.tar?token=hush", "--k8s-sha256", "1" * 64), 5),
    ):
        for places in (where, f"'{where}' {NOBODY.replace('//', '//u:s3cret@')}/?token=hush"):
            found, text = cli(
                world, "fetch", "--k8s", ONE, "--builder", "rootfs", *words,
                NOKMEM_GO_MIRROR=where if "--go" in words else NOBODY,
                NOKMEM_KUBERNETES_REPOSITORY=places, NOKMEM_RUNC_REPOSITORY=places,
            )  # fmt: skip
            assert found in (code, 4), text
            assert not [word for word in SECRETS if word in text], text
    assert world.left() == []


def test_what_a_build_leaves_names_no_address(
    world: World, web: Web, rootfs_builder: Builder, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The binaries are no kubelet and no runc, so that what proves them is left out, and so are the
    patches, which have nothing there to apply to."""
    monkeypatch.setattr(pipeline, "Facts", lambda **_: world.facts)
    monkeypatch.setattr(pipeline, "choose", lambda *_: rootfs_builder)
    passed = CheckReport((Check("kubelet", "hash", True, "", ""),))
    monkeypatch.setattr("builders.steps.checks.prove", lambda *_: passed)
    rows: list[OwnArchive] = []
    where: dict[str, str] = {}
    for name in ("kubernetes", "runc"):
        content = gzip.compress(tar_of({"x/Makefile": MAKEFILE, "x/name": name.encode()}))
        (web.folder / f"{name}.tar.gz").write_bytes(content)
        place = f"{web.url.replace('//', '//user:s3cret@')}/{name}.tar.gz?token=hush"
        rows.append(settings.own_archive(name, "", place, sha256(content)))
        where[rows[-1].sha256] = place
    request = BuildRequest(
        VERSION, toolchain="debian", go="distribution", own=tuple(rows),
        kubernetes_source="archive", runc_source="archive", variant="stock",
    )  # fmt: skip
    options = Options(Places({}, archives=where))
    dist = world.folder / "dist"
    made = pipeline.build(request, options, dist, world.cache, Terminal(ci=True)).place
    texts = [path.read_bytes().decode(errors="replace") for path in made.iterdir()]
    assert {path.name for path in made.iterdir()} >= {"plan.json", "manifest.json", "build.log"}
    for text in (*texts, *capfd.readouterr()):
        assert not [word for word in (*SECRETS, web.url) if word in text]
    assert "kubernetes.tar.gz" in (made / "plan.json").read_text() and world.left() == []


def test_what_the_engine_prints_of_a_mirror_is_kept_without_its_password(
    container_builder: ContainerBuilder, plan: BuildPlan, tmp_path: Path
) -> None:
    recipe = tmp_path / "Dockerfile"
    base = f"nokmem/toolchain:{plan.toolchain.key[:16]}"
    failing = "RUN echo http://user:s3cret@vault.example/os?token=hush: no answer; false"
    recipe.write_text(f"FROM {base}\n{failing}\n")
    lines: list[str] = []
    with pytest.raises(ToolchainError) as caught:
        container_builder.make("0" * 64, Recipe(recipe, {}), lines.append)
    for said in ("\n".join(lines), f"{vars(caught.value)}"):
        assert "http://vault.example/os" in said
        assert not [word for word in SECRETS if word in said]


class NoImages(Ready):
    """An engine that has the base image at hand, and nothing made of it."""

    def has(self, key: str) -> bool:
        return not key

    def answer(self, base: str) -> str | None:
        return None if base else "no base"


def test_an_image_that_cannot_be_made_gives_way_aloud_unless_it_was_asked_for(
    world: World, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def make(wanted: ToolchainPlan, *_: object) -> None:
        made.append(wanted.name)
        if wanted.image is not None:
            raise ToolchainError("yum finds nothing", place="a", next_step="b")

    monkeypatch.setattr(pipeline, "_make_toolchain", make)
    builder: Any = NoImages()
    supply = world.supply(builder)
    request = BuildRequest(ONE)
    decided = supply.settle(request)
    assert decided.toolchain.name == "el7"
    instead = pipeline._equip(request, decided, builder, supply, lambda _: None)
    assert (instead.request.toolchain, instead.request.go) == ("debian", GO)
    assert made == ["el7", "debian-bullseye"]
    assert "debian, because el7 cannot be made: yum finds nothing" in capfd.readouterr().err
    asked = dataclasses.replace(request, toolchain="el7")
    with pytest.raises(ToolchainError, match="yum finds nothing"):
        pipeline._equip(asked, supply.settle(asked), builder, supply, lambda _: None)
