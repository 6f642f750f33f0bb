"""Real repositories and a real server: a tag is its commit or nothing."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders import pipeline
from builders.errors import IntegrityError, MachineError, UnavailableError, UsageError
from builders.model.plan import BuildRequest, ComponentPlan
from builders.steps import sources
from builders.steps.sources import Places
from builders.tools import gitrepo
from builders.tools.cache import Cache
from tests.conftest import as_root

TAG = "v1.0.0-rc10"


def quiet(_: object) -> None:
    """For whoever wants to be told."""


def git(folder: Path, *words: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_GLOBAL": "/dev/null",
        **{f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }  # fmt: skip
    argv = ["git", "-C", str(folder), *words]
    return subprocess.run(
        argv, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """A repository with history, an annotated tag, and attributes that change what is exported."""
    folder = tmp_path / "upstream"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "version").write_text("$Format:%H$\n")
    (folder / "kept").write_text("kept\n")
    (folder / ".gitattributes").write_text("version export-subst\nkept export-ignore\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    (folder / "later").write_text("later\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "two")
    git(folder, "tag", "-a", TAG, "-m", "release")
    return folder


@pytest.fixture
def commit(upstream: Path) -> str:
    return git(upstream, "rev-parse", f"{TAG}^{{commit}}")


@pytest.fixture
def server(upstream: Path) -> Iterator[str]:
    """git's own server, on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    argv = ["git", "daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1", f"--port={port}"]
    daemon = subprocess.Popen([*argv, f"--base-path={upstream.parent}"])
    for _ in range(100):
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"git://127.0.0.1:{port}/upstream"
    daemon.terminate()
    daemon.wait()


def names(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        files = [member for member in tar if member.isreg()]
        return {member.name: tar.extractfile(member).read() for member in files}  # type: ignore[union-attr]


def test_a_tag_arrives_alone_and_is_archived_untouched(
    server: str, commit: str, upstream: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store.git"
    gitrepo.fetch(store, [server], TAG, commit, quiet, quiet)
    assert git(store, "rev-list", "--count", commit) == "1", "history came along"
    gitrepo.archive(store, commit, tmp_path / "out.tar")
    found = names(tmp_path / "out.tar")
    assert found["version"] == b"$Format:%H$\n"
    assert set(found) == {".gitattributes", "kept", "later", "version"}


def test_what_is_here_is_not_asked_for(server: str, commit: str, tmp_path: Path) -> None:
    gitrepo.fetch(tmp_path / "store.git", [server], TAG, commit, quiet, quiet)
    gitrepo.fetch(tmp_path / "store.git", ["git://127.0.0.1:9/nobody"], TAG, commit, quiet, quiet)


@pytest.mark.parametrize("kind", ["*.pack", "*.idx", "gone"])
def test_a_damaged_store_is_fetched_anew(
    kind: str, server: str, commit: str, tmp_path: Path
) -> None:
    store, said = tmp_path / "store.git", list[str]()
    gitrepo.fetch(store, [server], TAG, commit, quiet, quiet)
    assert gitrepo.holds(store, commit)
    (path,) = store.rglob("*.pack" if kind == "gone" else kind)
    if kind == "gone":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(content)
    assert not gitrepo.holds(store, commit)
    gitrepo.fetch(store, [server], TAG, commit, quiet, said.append)
    assert said == [f"{store} is damaged, and made anew"]
    gitrepo.archive(store, commit, tmp_path / "out.tar")
    assert "later" in names(tmp_path / "out.tar")


def test_a_moved_tag_is_refused_with_both_commits(
    server: str, commit: str, upstream: Path, tmp_path: Path
) -> None:
    git(upstream, "tag", "-f", TAG, "HEAD~1")
    other = git(upstream, "rev-parse", "HEAD~1")
    with pytest.raises(IntegrityError, match=f"{TAG} moved: expected {commit}, got {other}"):
        gitrepo.fetch(tmp_path / "store.git", [server], TAG, commit, quiet, quiet)
    with pytest.raises(UnavailableError):
        gitrepo.archive(tmp_path / "store.git", commit, tmp_path / "out.tar")


def test_a_missing_tag_and_a_silent_server_are_said(
    server: str, commit: str, tmp_path: Path
) -> None:
    with pytest.raises(UnavailableError, match="v9 could not be fetched"):
        gitrepo.fetch(tmp_path / "store.git", [server], "v9", commit, quiet, quiet)
    with pytest.raises(UnavailableError, match="could not be fetched"):
        gitrepo.fetch(
            tmp_path / "store.git", ["git://127.0.0.1:9/nobody"], TAG, commit, quiet, quiet
        )


def test_a_store_of_somebody_elses_is_named(
    request: pytest.FixtureRequest, server: str, commit: str, tmp_path: Path
) -> None:
    """git itself does not read it; it is not the server's fault then."""
    as_root(request)
    store = tmp_path / "store.git"
    gitrepo.fetch(store, [server], TAG, commit, quiet, quiet)
    for path in (store, *store.rglob("*")):
        os.chown(path, 65534, 65534)
    for ask in (
        lambda: gitrepo.holds(store, commit),
        lambda: gitrepo.fetch(store, [server], TAG, commit, quiet, quiet),
    ):
        with pytest.raises(MachineError, match="dubious ownership") as caught:
            ask()
        assert caught.value.place == str(store) and "NOKMEM_CACHE" in caught.value.next_step


@pytest.mark.parametrize("size", ["16k", "256k"])
def test_a_store_whose_disk_is_full_is_named(
    size: str, request: pytest.FixtureRequest, upstream: Path, server: str, tmp_path: Path
) -> None:
    """Where it is made, and where what it receives does not fit."""
    as_root(request)
    (upstream / "large").write_bytes(os.urandom(1 << 20))
    git(upstream, "add", ".")
    git(upstream, "commit", "--quiet", "-m", "large")
    git(upstream, "tag", "large")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
    store = disk / "store.git"
    try:
        with pytest.raises(MachineError, match="disk of the cache is full") as caught:
            gitrepo.fetch(store, [server], "large", "0" * 40, quiet, quiet)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert caught.value.place == str(store) and "free some room" in caught.value.next_step


def test_a_password_in_an_address_never_shows(commit: str, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        gitrepo.fetch(
            tmp_path / "s.git", ["http://u:secret@127.0.0.1:9/r"], TAG, commit, quiet, quiet
        )
    assert "secret" not in str(vars(caught.value))


@pytest.fixture
def component(commit: str) -> ComponentPlan:
    """A plan of runc whose commit is the one of this upstream."""
    decided = pipeline.plan(
        BuildRequest(
            "v1.20.2", toolchain="debian", go="distribution", runc="1.0.0-rc10", runc_source="git"
        )
    )
    runc = decided.components[0]
    return dataclasses.replace(runc, source=dataclasses.replace(runc.source, commit=commit))


def test_the_git_provider_follows_the_users_mirror(
    component: ComponentPlan, server: str, tmp_path: Path
) -> None:
    environment = {"NOKMEM_RUNC_REPOSITORY": server}
    cache = Cache(tmp_path / "cache")
    provider = sources.provider(component, cache, Places(environment), quiet)
    provider.fetch(component, quiet, quiet)
    assert "later" in names(provider.tree(component, tmp_path).archive)


@pytest.mark.parametrize("kind", ["checkout", "bare", "without configuration"])
def test_a_folder_gives_the_planned_commit_and_says_what_it_leaves_out(
    kind: str, component: ComponentPlan, upstream: Path, tmp_path: Path
) -> None:
    folder = upstream
    if kind != "checkout":
        folder = tmp_path / "bare"
        git(tmp_path, "clone", "--quiet", "--bare", str(upstream), str(folder))
    if kind == "without configuration":
        (folder / "config").unlink()
    if kind == "checkout":
        (upstream / "later").write_text("changed\n")
        git(upstream, "checkout", "--quiet", "-b", "other", "HEAD~1", "--merge")
    said: list[str] = []
    dir_plan = dataclasses.replace(
        component, source=dataclasses.replace(component.source, provider="dir")
    )
    provider = sources.provider(
        dir_plan, Cache(tmp_path / "c"), Places({}, {"runc": folder}), said.append
    )
    provider.fetch(dir_plan, quiet, quiet)
    assert names(provider.tree(dir_plan, tmp_path).archive)["later"] == b"later\n"
    words = " ".join(said)
    assert ("not committed" in words and "stands at" in words) is (kind == "checkout")


def test_a_folder_without_the_commit_or_without_a_repository_is_refused(
    component: ComponentPlan, upstream: Path, tmp_path: Path
) -> None:
    other = dataclasses.replace(
        component, source=dataclasses.replace(component.source, commit="0" * 40)
    )
    provider = sources.Folder(upstream, lambda _: None)
    with pytest.raises(UnavailableError, match="cannot be read whole"):
        provider.tree(other, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no repository"):
        sources.Folder(tmp_path / "empty", lambda _: None).fetch(component, quiet, quiet)
