"""A bundle of what real repositories and archives hold: made, carried, taken in elsewhere, where
nobody answers."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from builders import pipeline
from builders.errors import IntegrityError, NokmemError, UnavailableError, UsageError
from builders.model.artifact import Manifest
from builders.model.plan import BuildRequest
from builders.model.releases import Facts
from builders.model.resolve import packager
from builders.steps import bundle, sources
from builders.steps.sources import Debian, Places
from builders.supply import Options, Supply
from builders.tools import gitrepo, gpg, parcel, process
from builders.tools.cache import Cache, sha256_of
from builders.tools.terminal import Terminal
from tests.conftest import ROOT, VERSION, leave_out
from tests.integration.test_el7 import make_key
from tests.integration.test_gitrepo import git, quiet
from tests.integration.test_supply import ONE, OTHER, Ready, World, command, refuse, web, world

__all__ = ["command", "web", "world"]  # fixtures
REQUESTS = [BuildRequest(version) for version in (ONE, OTHER)]
WHEEL = "some-1.0-py3-none-any.whl"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A clone of something that has requirements."""
    folder = tmp_path / "project"
    (folder / "requirements").mkdir(parents=True)
    (folder / "requirements/run.txt").write_text("some==1.0\n")
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    return folder


@pytest.fixture
def site(command: World, provider: Debian, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> World:
    """Where there is a network: a toolchain of two packages, as this machine has them, and an index
    of Python packages that has one wheel."""

    def download(_: Path, folder: Path, __: object) -> None:
        (folder / WHEEL).write_bytes(b"a wheel")

    monkeypatch.setattr("builders.tools.wheels.download", download)
    debian = command.facts.toolchains["debian"]
    assert debian.seed is not None
    seed = dataclasses.replace(debian.seed, packages=debian.seed.packages[:2])
    command.facts.__dict__["toolchains"] = {
        **command.facts.toolchains, "debian": dataclasses.replace(debian, seed=seed),
    }  # fmt: skip
    rows = packager(command.facts).packages
    provider.fetch_files(rows, quiet)
    link(cache, command.cache, rows)
    return command


def link(there: Cache, here: Cache, rows: Any) -> None:
    (here.root / "files").mkdir(exist_ok=True)
    for row in rows:
        os.link(there.file(row["sha256"]), here.file(row["sha256"]))


def make(
    site: World,
    project: Path,
    place: Path,
    requests: Iterable[BuildRequest] = REQUESTS,
    options: Options | None = None,
) -> pipeline.Bundled:
    options = options or Options(Places(site.environment()))
    return pipeline.bundle(requests, (), place, project, options, site.cache, Terminal(ci=True))


def take(place: Path, cache: Cache) -> None:
    options = Options(Places({}), offline=True, bundle=place)
    pipeline.unbundle(options, cache, Terminal(ci=True))


def test_what_a_bundle_was_made_for_can_be_built_of_it_alone(
    site: World, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "nokmem.tar"
    made = make(site, project, place)
    first = site.supply(Ready(), offline=True).settle_all(
        [dataclasses.replace(request, toolchain="debian") for request in REQUESTS]
    )
    assert made.sha256 == sha256_of(place)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    away = dataclasses.replace(site, cache=Cache(tmp_path / "away"))
    take(place, away.cache)
    supply = away.supply(offline=True, environment={})
    again = supply.settle_all(
        [dataclasses.replace(request, toolchain="debian") for request in REQUESTS]
    )
    assert again == first
    with Terminal(ci=True).phase("toolchain") as phase:
        supply.fetch_toolchain(packager(site.facts), phase)
    for plan in again:
        for component in plan.components:
            trees = []
            for one in (site.supply(Ready(), offline=True), supply):
                tree = one.provider(plan, component.name).tree(component, room(tmp_path))
                trees.append(tree.archive.read_bytes())
                shutil.rmtree(tmp_path / "room")
            assert trees[0] == trees[1]
    assert away.left() == []
    take(place, away.cache)  # once more: nothing is missing


def test_the_same_is_packed_into_the_same_bytes_whatever_else_a_cache_holds(
    site: World, project: Path, cache: Cache, tmp_path: Path
) -> None:
    one, other = tmp_path / "one.tar", tmp_path / "other.tar"
    make(site, project, one)
    elsewhere = Cache(tmp_path / "elsewhere")
    link(cache, elsewhere, packager(site.facts).packages)
    there = dataclasses.replace(site, cache=elsewhere)
    # another release too, and each in another order, so that git keeps them otherwise
    for version in (VERSION, OTHER, ONE):
        request = BuildRequest(version, kubernetes_source="git", runc_source="git")
        there.supply().settle_kubernetes(request)
    make(there, project, other)
    assert sha256_of(one) == sha256_of(other)


def test_a_clone_is_in_it_as_it_was_committed_and_that_is_said(
    site: World, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "run").write_text("changed\n")
    (project / "new").touch()
    place = tmp_path / "nokmem.tar"
    made = make(site, project, place)
    assert "changes that are not committed: they are not in the bundle" in capsys.readouterr().err
    assert made.about.commit == git(project, "rev-parse", "HEAD")
    with tarfile.open(place) as tar:
        names = {name for name in tar.getnames() if name.startswith("nokmem/")}
        assert names == {"nokmem/run", "nokmem/requirements/run.txt", f"nokmem/wheels/{WHEEL}"}
        content = tar.extractfile("nokmem/run")
        assert content is not None and content.read() == b"#!/bin/sh\n"
        assert tar.getmember("nokmem/run").mode == 0o755


def test_what_is_no_clone_is_not_bundled(site: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no clone of the project"):
        make(site, tmp_path, tmp_path / "nokmem.tar")


def test_an_image_is_not_bundled_and_why(site: World, project: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing pins what is in it") as caught:
        make(site, project, tmp_path / "x.tar", requests=[BuildRequest(ONE, toolchain="el7")])
    assert caught.value.place == "--toolchain"
    assert not (tmp_path / "x.tar").exists()


@pytest.mark.parametrize("where", ["none/x.tar", "project"])
def test_an_output_that_cannot_be_one_is_refused_before_anything_is_done(
    where: str, site: World, project: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        make(site, project, tmp_path / where)
    assert caught.value.place == str(tmp_path / where)
    assert not (site.cache.root / "git").exists()


def test_what_a_bundle_lacks_is_named_with_it(
    site: World, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "nokmem.tar"
    make(site, project, place, requests=REQUESTS[:1])
    options = Options(Places({}), offline=True, bundle=place)
    requests = [dataclasses.replace(REQUESTS[1], toolchain="debian")]
    with pytest.raises(UnavailableError, match="bundle and cache lack 1 of the") as caught:
        pipeline.fetch(requests, options, Cache(tmp_path / "away"), Terminal(ci=True))
    assert caught.value.place == str(place)
    assert site.facts.release(OTHER).commit in caught.value.detail[0]
    assert "verify --from-bundle" in caught.value.next_step


def test_a_series_of_ones_own_travels_too(site: World, project: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    for name in ("kubernetes/0001.patch", "kubernetes/series.toml", "notes"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text("")
    options = Options(Places(site.environment()), patches=own)
    place = tmp_path / "nokmem.tar"
    make(site, project, place, options=options)
    with tarfile.open(place) as tar:
        names = {name for name in tar.getnames() if "own-patches" in name}
    assert names == {f"{bundle.PATCHES}/kubernetes/{n}" for n in ("0001.patch", "series.toml")}


# Commits


def test_a_pack_that_lacks_a_file_is_refused_and_leaves_the_store_alone(
    world: World, tmp_path: Path
) -> None:
    commit, store = world.commit("kubelet", ONE), tmp_path / "store.git"
    words = ["pack-objects", "--stdout", "--quiet"]
    listed = f"{commit}\n{git(world.repositories['kubelet'], 'rev-parse', f'{ONE}^{{tree}}')}\n"
    packed = subprocess.run(
        ["git", "-C", str(world.repositories["kubelet"]), *words],
        input=listed.encode(), capture_output=True, check=True,
    ).stdout  # fmt: skip
    (tmp_path / "a.pack").write_bytes(packed)
    (tmp_path / "room").mkdir()
    with pytest.raises(IntegrityError, match="does not hold what it should"):
        gitrepo.adopt(store, tmp_path / "a.pack", {ONE: commit}, tmp_path / "room", quiet)
    assert not store.exists()


@pytest.mark.parametrize("content", [b"", b"PACK", b"nothing of the kind" * 100])
def test_what_is_no_pack_is_refused(content: bytes, world: World, tmp_path: Path) -> None:
    (tmp_path / "a.pack").write_bytes(content)
    (tmp_path / "room").mkdir()
    with pytest.raises(IntegrityError, match="does not hold what it should"):
        gitrepo.adopt(
            tmp_path / "s.git", tmp_path / "a.pack", {ONE: "1" * 40}, tmp_path / "room", quiet
        )
    assert not (tmp_path / "s.git").exists()


def test_a_bundle_whose_pack_holds_another_release_is_refused_by_the_name_of_its_file(
    site: World, tmp_path: Path
) -> None:
    """As a bundle would be that somebody put together, all of its sums right."""
    wrong = tmp_path / "kubelet.pack"
    gitrepo.pack(site.repositories["kubelet"], [site.commit("kubelet", OTHER)], wrong)
    about = bundle.About(
        "1" * 40, "3.11", (), {"kubelet": {ONE: site.commit("kubelet", ONE)}}, (), ()
    )
    place = tmp_path / "wrong.tar"
    bundle.write(place, about, [parcel.Item(f"{bundle.GIT}/kubelet.pack", wrong)], 7, quiet)
    away = Cache(tmp_path / "away")
    with pytest.raises(IntegrityError, match="does not hold what it should") as caught:
        take(place, away)
    assert caught.value.place == str(place)
    assert not away.files() and not away.repositories()


def test_commits_of_a_folder_of_ones_own_are_packed_without_their_history(
    world: World, tmp_path: Path
) -> None:
    folder, commit = world.repositories["kubelet"], world.commit("kubelet", OTHER)
    gitrepo.pack(folder, [commit], tmp_path / "a.pack")
    sources.adopt(
        world.cache, "kubelet", tmp_path / "a.pack", {OTHER: commit}, room(tmp_path), quiet
    )
    store = sources.store(world.cache, "kubelet")
    assert gitrepo.holds(store, commit)
    assert not sources.lacks(world.cache, "kubelet", [commit])
    assert sources.lacks(world.cache, "kubelet", [world.commit("kubelet", ONE)])
    assert git(store, "rev-list", "--count", commit) == "1"


def test_a_pack_depends_on_no_tag_and_no_other_commit_of_its_repository(
    world: World, tmp_path: Path
) -> None:
    folder = world.repositories["kubelet"]
    commits = {tag: world.commit("kubelet", tag) for tag in (ONE, OTHER)}
    git(folder, "tag", "of-a-file", f"{OTHER}:Makefile")  # git writes what has a tag first
    gitrepo.pack(folder, commits.values(), tmp_path / "a.pack")
    gitrepo.adopt(tmp_path / "s.git", tmp_path / "a.pack", commits, room(tmp_path), quiet)
    gitrepo.pack(tmp_path / "s.git", reversed(commits.values()), tmp_path / "b.pack")
    assert (tmp_path / "b.pack").read_bytes() == (tmp_path / "a.pack").read_bytes()


def room(folder: Path) -> Path:
    (folder / "room").mkdir()
    return folder / "room"


# Dist folders and their keys


@pytest.fixture
def signed(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Manifest]:
    """A folder whose SHA256SUMS is signed, and what its manifest would say."""
    if not all(map(process.find, ("gpg", "gpgv"))):
        leave_out(request, "gpg", "not installed")
    make_key(tmp_path / "home", "site")
    monkeypatch.setenv("GNUPGHOME", str(tmp_path / "home"))
    signer = gpg.Signer("site", os.environ)
    folder = tmp_path / VERSION
    folder.mkdir()
    (folder / "SHA256SUMS").write_text("sums\n")
    signer.detach(folder / "SHA256SUMS")
    data = {"packages": [{"signed_by": signer.key.fingerprint}], "kubernetes": VERSION}
    return folder, Manifest(data)


def test_the_key_that_signed_a_folder_goes_with_it(
    signed: tuple[Path, Manifest], tmp_path: Path
) -> None:
    ((fingerprint, item),) = bundle.keys([signed], tmp_path, os.environ).items()
    assert item.name == f"nokmem/keys/RPM-GPG-KEY-{fingerprint}"
    assert b"BEGIN PGP PUBLIC KEY" in item.source.read_bytes()
    assert gpg.verified(signed[0] / "SHA256SUMS", item.source) == fingerprint


def test_a_folder_that_its_key_did_not_sign_is_not_packed(
    signed: tuple[Path, Manifest], tmp_path: Path
) -> None:
    (signed[0] / "SHA256SUMS").write_text("others\n")
    with pytest.raises(NokmemError, match="not signed by a key") as caught:
        bundle.keys([signed], tmp_path, os.environ)
    assert caught.value.exit_code == 12


def test_a_key_that_is_not_in_the_keyring_is_named(
    signed: tuple[Path, Manifest], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir(mode=0o700)
    with pytest.raises(NokmemError, match="is not in the keyring") as caught:
        bundle.keys([signed], tmp_path, {"GNUPGHOME": str(tmp_path / "empty")})
    assert "--import" in caught.value.next_step


# The command line


def cli(folder: Path, *words: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tasks.py"), *words],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, check=False,
        env={**os.environ, "CI": "true", "NOKMEM_CACHE": str(folder / "cache"), **environment},
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A bundle that holds nothing but a file."""
    (tmp_path / "in").write_text("a file\n")
    about = bundle.About("1" * 40, "3.11", ("--k8s=v1.20.2",), {}, (), ())
    items = [parcel.Item(f"{bundle.FILES}/{sha256_of(tmp_path / 'in')}", tmp_path / "in")]
    bundle.write(tmp_path / "nokmem.tar", about, items, 7, quiet)
    return tmp_path / "nokmem.tar"


BUILD = ("build", f"--k8s={VERSION}", "--from-bundle=nokmem.tar", "--builder=rootfs")
TASKS = {
    "build": BUILD,
    "fetch": ("fetch", "--from-bundle=nokmem.tar", "--builder=rootfs"),
    "verify": ("verify", "--from-bundle=nokmem.tar"),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("harm", ["cut", "changed", "absent", "foreign"])
def test_what_is_wrong_with_a_bundle_is_one_clear_error(
    task: str, harm: str, small: Path, rootfs_builder: object
) -> None:
    content = small.read_bytes()
    if harm == "absent":
        small.unlink()
    else:
        changed = content.replace(b"a file\n", b"a fill\n")
        small.write_bytes({"cut": content[:9000], "changed": changed}.get(harm, b"a zip"))
    code, text = cli(small.parent, *TASKS[task])
    fact = {
        "cut": "the bundle is damaged: it is cut short: after 9000 bytes",
        "changed": "the bundle is damaged: cache/files/",
        "absent": "there is no such file",
        "foreign": "this is no bundle",
    }[harm]
    errors = re.findall(r"^(\w+): (.*)\n  where (.*)\n  next  .", text, re.M)
    ((kind, said, place),) = errors
    assert (code, kind) == ((5, "unavailable") if harm == "absent" else (6, "integrity")), text
    assert said.startswith(fact) and place == "nokmem.tar" and "Traceback" not in text
    cache = small.parent / "cache"
    left = [p for p in cache.rglob("*") if p.is_file() and p.parent.name != "locks"]
    assert not left and not list((small.parent / "dist").glob("[!.]*"))


def test_fetch_takes_all_of_a_bundle_and_verify_says_what_is_in_it(
    small: Path, rootfs_builder: object
) -> None:
    code, text = cli(small.parent, "fetch", "--from-bundle", "nokmem.tar", "--builder", "rootfs")
    assert code == 0 and "nokmem.tar: what it holds is in the cache" in text, text
    (there,) = (small.parent / "cache/files").iterdir()
    assert there.read_text() == "a file\n"
    code, text = cli(small.parent, "verify", "--from-bundle", "nokmem.tar")
    assert code == 0 and "made for: --k8s=v1.20.2" in text, text
    assert "1 files, 0.0 MB" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("bundle",), "nothing is named that the bundle is for"),
        (("bundle", "--k8s", "v9"), "'v9' is not a Kubernetes version"),
        (("verify", "--dist", "a", "--from-bundle", "b"), "either a dist folder or a bundle"),
    ],
)
def test_words_that_ask_for_nothing_are_usage(
    words: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    code, text = cli(tmp_path, *words)
    assert code == 2 and says in text, text
    assert not list(tmp_path.glob("*.tar"))


def test_package_offline_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names what the cache lacks, where it once asked a mirror."""
    monkeypatch.setattr(socket.socket, "connect", refuse)
    facts = Facts()
    options = Options(Places({}), offline=True)
    supply = Supply(facts, options, Cache(tmp_path), Terminal(ci=True))
    with (
        pytest.raises(UnavailableError, match="the cache lacks"),
        Terminal(ci=True).phase("x") as phase,
    ):
        supply.fetch_toolchain(packager(facts), phase)
