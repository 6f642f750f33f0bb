"""Publishing to real servers: S3, a registry, what takes PUT, releases, folders; and their bad days."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import requests
from moto.server import ThreadedMotoServer

from builders import pipeline
from builders.errors import (
    BusyError,
    MachineError,
    NokmemError,
    ProofError,
    PublishError,
    UsageError,
)
from builders.model.artifact import Check, CheckReport
from builders.model.plan import BuildPlan
from builders.steps import publish, repository
from builders.tools import targets, yum
from builders.tools.cache import sha256_of
from builders.tools.targets import Item, Target
from builders.tools.terminal import Terminal
from tests.conftest import ROOT, VERSION, leave_out
from tests.integration.shelf import Front, Releases, Server, Shelf, basic, serving
from tests.integration.test_bad_days import disk as disk
from tests.integration.test_bad_days import until
from tests.unit import test_manifest

USER, PASSWORD, TOKEN = "deployer", "pa:ss/w@rd", "hush-hush-token"
#: As htpasswd makes it of the two, with few rounds.
HTPASSWD = f"{USER}:$2b$04$xgkvQlsg7hntKJnbMdlw2uogWxEgYnQZmIsWrw/FrQvTSUpm4.Ave\n"
SECRETS = (PASSWORD, "pa%3Ass", TOKEN, basic(USER, PASSWORD).split()[1], "s3-secret")
LOGIN = {"NOKMEM_PUBLISH_USER": USER, "NOKMEM_PUBLISH_PASSWORD": PASSWORD}
VARIABLES = (
    *("NOKMEM_PUBLISH_USER", "NOKMEM_PUBLISH_PASSWORD", "NOKMEM_PUBLISH_TOKEN", "GITHUB_TOKEN"),
    *("GITHUB_API_URL", "AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE"),
    *(f"{name}_proxy" for name in ("http", "https", "all", "no")),
    *(f"{name}_PROXY" for name in ("HTTP", "HTTPS", "ALL", "NO")),
)
SEEN_LAST = ["SHA256SUMS", "manifest.json"]


#: What a dist folder without packages has.
FILES = 10


@pytest.fixture(autouse=True)
def _only_the_tests_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "s3-user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3-secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr(publish, "WAITS", (0.01, 0.01, 0.01))


@dataclass
class Place:
    """A target: its word, what it needs, its server if it is one of ours, what is seen there by
    now, and how somebody else puts a file there."""

    word: str
    seen: Callable[[], dict[str, bytes]]
    spoil: Callable[[str, bytes], object]
    server: Server | None = None
    variables: dict[str, str] = field(default_factory=dict)
    has_folders: bool = True

    def target(self) -> Target:
        return targets.named(self.word, {**os.environ, **self.variables})

    def name(self, name: str) -> str:
        return f"{VERSION}/{name}" if self.has_folders else name


@pytest.fixture
def dist(tmp_path: Path, plan: BuildPlan, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dist folder whose binaries are none, so that what proves them is left out."""
    passed = CheckReport((Check("kubelet", "hash", True, ""),))
    monkeypatch.setattr("builders.steps.checks.prove", lambda *_: passed)
    content = random.Random(0).randbytes(700_000)  # noqa: S311 -- some bytes, always the same
    return test_manifest.write(tmp_path / "dist", plan, content, content[:500_000])


def run(place: Place, folder: Path, *, repo: bool = False, dry_run: bool = False) -> list[str]:
    """Publish; the names of what was sent, or would be."""
    target = place.target()
    try:
        rows, changed = pipeline.publish(
            folder, target, Terminal(ci=True), is_repository=repo, dry_run=dry_run
        )
    finally:
        target.close()
    sent = [row.item.name for row in rows if row.fate == "sent"]
    assert dry_run or changed or not sent
    return sent


def contents(folder: Path, prefix: str = "") -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {f"{prefix}{path.relative_to(folder)}": path.read_bytes() for path in paths}


# The places


def folder(tmp_path: Path) -> Iterator[Place]:
    root = tmp_path / "a folder"
    root.mkdir()

    def spoil(name: str, content: bytes) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    yield Place(str(root), lambda: contents(root), spoil)


def raw(tmp_path: Path) -> Iterator[Place]:
    with serving(Shelf(tmp_path / "shelf")) as shelf:
        root = shelf.folder / "a/b"

        def spoil(name: str, content: bytes) -> None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)

        shelf.wanted = basic(USER, PASSWORD)
        yield Place(f"{shelf.url}/a/b/", lambda: contents(root), spoil, shelf, LOGIN)


def github(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "assets").mkdir()
    with serving(Releases(tmp_path / "assets")) as releases:

        def seen() -> dict[str, bytes]:
            shown = {r["id"] for r in releases.releases if not r["draft"]}
            return {
                a["name"]: (releases.folder / str(a["id"])).read_bytes()
                for a in releases.assets.values()
                if a["release"] in shown
            }

        def spoil(name: str, content: bytes) -> None:
            releases.release(tag_name="v1")
            asset = releases.asset(releases.releases[-1]["id"], name)
            asset["state"] = "uploaded"
            (releases.folder / str(asset["id"])).write_bytes(content)

        releases.wanted = f"Bearer {TOKEN}"
        variables = {"GITHUB_API_URL": releases.url, "GITHUB_TOKEN": TOKEN}
        yield Place("github:owner/name@v1", seen, spoil, releases, variables, False)


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    name = f"bucket-{os.urandom(4).hex()}"
    with serving(Front(request.getfixturevalue("moto"), tmp_path)) as front:
        client = botocore.session.get_session().create_client(
            "s3", region_name="us-east-1", endpoint_url=f"http://{front.behind}"
        )
        client.create_bucket(Bucket=name)

        def seen() -> dict[str, bytes]:
            rows = client.list_objects_v2(Bucket=name).get("Contents", [])
            return {
                r["Key"].removeprefix("a/b/"):
                    client.get_object(Bucket=name, Key=r["Key"])["Body"].read()
                for r in rows
            }  # fmt: skip

        def spoil(path: str, content: bytes) -> None:
            client.put_object(Bucket=name, Key=f"a/b/{path}", Body=content)

        endpoint = {"NOKMEM_S3_ENDPOINT": front.url}
        yield Place(f"s3://{name}/a/b", seen, spoil, front, endpoint)
        client.close()


@pytest.fixture(scope="session")
def registry_program(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Debian's docker-registry: the one that is installed, else out of its package."""
    installed = shutil.which("docker-registry")
    if installed:
        return installed
    folder = tmp_path_factory.mktemp("docker-registry")
    for words in (["apt-get", "download", "docker-registry"], ["dpkg-deb", "-x", "@", "."]):
        found = [str(path) for path in folder.glob("*.deb")]
        argv = [found[0] if word == "@" else word for word in words]
        if (
            shutil.which(words[0]) is None
            or subprocess.run(argv, cwd=folder, capture_output=True, check=False).returncode
        ):
            leave_out(request, "docker-registry", "it is not here and cannot be fetched")
    return str(folder / "usr/bin/docker-registry")


@pytest.fixture(scope="session")
def registry(registry_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Host and port of a registry that wants user and password."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "users").write_text(HTPASSWD)
    settings = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": "127.0.0.1:0", "relativeurls": True},
        "auth": {"htpasswd": {"realm": "here", "path": str(folder / "users")}},
    }
    (folder / "settings.yml").write_text(json.dumps(settings))  # which is YAML too
    argv = [registry_program, "serve", str(folder / "settings.yml")]
    said = folder / "log"
    with said.open("w") as log, subprocess.Popen(argv, stderr=log) as process:
        try:
            until(lambda: "listening on" in said.read_text())
            yield re.findall(r"listening on ([\d.:]+)", said.read_text())[0]
        finally:
            process.terminate()


def oci(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    name = f"some/files-{os.urandom(4).hex()}"
    with serving(Front(request.getfixturevalue("registry"), tmp_path)) as front:
        variables = {**LOGIN}
        tag = f"oci://{front.host}/{name}:v1"

        def seen() -> dict[str, bytes]:
            layers = ask(front, f"/v2/{name}/manifests/v1")
            return {
                layer["annotations"]["org.opencontainers.image.title"]:
                    ask(front, f"/v2/{name}/blobs/{layer['digest']}", text=True)
                for layer in layers.get("layers", [])
            }  # fmt: skip

        def spoil(path: str, content: bytes) -> None:
            there = tmp_path / "other"
            there.write_bytes(content)
            item = Item("", path, there, len(content), sha256_of(there))
            target = targets.named(tag, variables)
            target.put(item, lambda _: None)
            target.finish([item])
            target.close()
            front.log.clear()

        yield Place(tag, seen, spoil, front, variables, False)


def ask(front: Front, path: str, *, text: bool = False) -> Any:
    """What the registry itself has."""
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    answer = requests.get(
        f"http://{front.behind}{path}", auth=(USER, PASSWORD), headers=accept, timeout=20
    )
    if answer.status_code == 404:
        return {}
    return answer.content if text else answer.json()


@pytest.fixture(params=["folder", "raw", "github", "s3", "oci"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Each kind of target in turn."""
    yield from make(request.param, request, tmp_path)


def make(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if kind in ("s3", "oci"):
        yield from {"s3": bucket, "oci": oci}[kind](request, tmp_path)
    else:
        yield from {"folder": folder, "raw": raw, "github": github}[kind](tmp_path)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Place]:
    yield from raw(tmp_path)


# What holds of each


@pytest.mark.calm
def test_what_is_published_is_there_and_the_second_time_nothing_is_sent(
    place: Place, dist: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sent = run(place, dist)
    assert sorted(sent) == sorted(path.name for path in dist.iterdir())
    assert sent[-2:] == SEEN_LAST
    assert place.seen() == {place.name(n): content for n, content in contents(dist).items()}
    before = [] if place.server is None else list(place.server.log)
    assert run(place, dist) == []
    if place.server is not None:
        after = place.server.log[len(before) :]
        assert {method for method, _ in after} <= {"GET", "HEAD"}
        assert {method for method, _ in before} & {"PUT", "POST"}
    assert not [secret for secret in SECRETS for text in capfd.readouterr() if secret in text]


@pytest.mark.calm
def test_a_dry_run_only_reads(place: Place, dist: Path) -> None:
    assert len(run(place, dist, dry_run=True)) == FILES
    assert place.seen() == {}
    if place.server is not None:
        assert {method for method, _ in place.server.log} <= {"GET", "HEAD"}


def test_a_file_of_other_content_stays_and_nothing_is_sent(place: Place, dist: Path) -> None:
    place.spoil(place.name("runc"), b"another")
    with pytest.raises(PublishError, match=r"a file of other content .*: runc") as caught:
        run(place, dist)
    there, here = hashlib.sha256(b"another").hexdigest(), sha256_of(dist / "runc")
    assert caught.value.exit_code == 13
    assert there in caught.value.detail[0] and here in caught.value.detail[0]
    assert place.seen() == {place.name("runc"): b"another"}


def test_a_run_that_was_cut_goes_on_where_it_stopped(
    place: Place, dist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(place.target())
    put = kind.put
    sent: list[str] = []

    def stopped(self: Target, item: Item, on_bytes: Callable[[int], None]) -> None:
        if len(sent) == 3:
            raise KeyboardInterrupt
        sent.append(item.name)
        put(self, item, on_bytes)

    monkeypatch.setattr(kind, "put", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(place, dist)
    assert not set(map(place.name, SEEN_LAST)) & set(place.seen())
    assert place.has_folders or place.seen() == {}, "a release and a tag show all or nothing"
    monkeypatch.setattr(kind, "put", put)
    assert set(run(place, dist)) == {path.name for path in dist.iterdir()} - set(sent)
    assert len(place.seen()) == FILES


def test_a_run_that_was_cut_before_the_end_is_finished(
    place: Place, dist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(place.target())
    with monkeypatch.context() as patch:
        patch.setattr(kind, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(place, dist)
    assert run(place, dist) == []
    assert len(place.seen()) == FILES


PROBE = """
import os, re, sys
from pathlib import Path
from builders.tools import targets
from builders.tools.cache import sha256_of

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

target, peaks = targets.named(sys.argv[1], os.environ), []
for path in map(Path, sys.argv[2:]):
    item = targets.Item("", path.name, path, path.stat().st_size, sha256_of(path))
    target.put(item, lambda _: None)
    assert target.find(item) == item.sha256
    peaks.append(peak())
print(peaks[1] - peaks[0])
"""


@pytest.mark.calm
def test_a_large_file_is_never_in_memory(place: Place, tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"1")
    with large.open("wb") as file:
        file.truncate(100 << 20)
    argv = [sys.executable, "-c", PROBE, place.word, str(small), str(large)]
    asked = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, **place.variables}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    assert int(asked.stdout) < 10, "megabytes more than for a file of one byte"


# Repositories


SPEC = """
Name: small
Version: 1
Release: %{number}
Summary: small
License: none
BuildArch: noarch
%description
%files
"""


@pytest.fixture(scope="session")
def packages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real packages, of which one is signed."""
    programs = ("rpmbuild", "rpmsign", "gpg")
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        leave_out(request, "rpm", f"{', '.join(missing)} not installed")
    folder = tmp_path_factory.mktemp("packages")
    home = tmp_path_factory.mktemp("gnupg")
    home.chmod(0o700)
    environment = {**os.environ, "GNUPGHOME": str(home), "HOME": str(home)}
    (folder / "spec").write_text(SPEC)
    for release in ("1", "2"):
        argv = ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {folder}"]
        argv += ["--define", f"number {release}", str(folder / "spec")]
        subprocess.run(argv, check=True, env=environment, capture_output=True)
    made = sorted((folder / "RPMS/noarch").iterdir())
    words = ("--passphrase", "", "--quick-generate-key", "nobody@example.invalid", "rsa2048")
    subprocess.run(["gpg", "--batch", *words, "sign"], check=True, env=environment)
    argv = ["rpmsign", "--define", f"__gpg {shutil.which('gpg')}"]
    argv += ["--define", "_gpg_name nobody@example.invalid", "--addsign", str(made[1])]
    subprocess.run(argv, check=True, env=environment)
    return made[0].parent


@pytest.fixture
def repo(tmp_path: Path, packages: Path) -> Path:
    """A repository with the package that is not signed."""
    folder = tmp_path / "repo"
    (folder / "packages").mkdir(parents=True)
    add(folder, packages / "small-1-1.noarch.rpm")
    return folder


def add(repo: Path, package: Path) -> None:
    """One package more, and an index of them all, by the project's own step; what a signer adds to
    it is text here, because one of the packages has no signature."""
    shutil.copy(package, repo / "packages")
    (repo / repository.KEY).unlink(missing_ok=True)
    repository.grow(repo, [], None, "https://yum.example")
    (repo / repository.KEY).write_text("a key\n")
    (repo / "repodata/repomd.xml.asc").write_text(f"signature {os.urandom(4).hex()}\n")


def whole(repo: Path) -> dict[str, bytes]:
    """What there is to publish: all but the lock."""
    return {name: content for name, content in contents(repo).items() if name != ".lock"}


@pytest.fixture(params=["folder", "raw", "s3", "oci"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Each kind of target that has folders, or names with a stroke."""
    for place in make(request.param, request, tmp_path):
        yield dataclasses.replace(place, has_folders=False)


@pytest.mark.calm
def test_a_repository_grows_and_its_index_comes_last(
    tree: Place, repo: Path, packages: Path
) -> None:
    sent = run(tree, repo, repo=True)
    assert tree.seen() == whole(repo)
    assert sent[-2:] == ["repodata/repomd.xml.asc", "repodata/repomd.xml"]
    assert all(name.startswith("repodata/") for name in sent[3:]), sent
    assert run(tree, repo, repo=True) == []
    first = tree.seen()
    add(repo, packages / "small-1-2.noarch.rpm")
    again = run(tree, repo, repo=True)
    assert again[0] == "packages/small-1-2.noarch.rpm"
    assert again[-2:] == ["repodata/repomd.xml.asc", "repodata/repomd.xml"]
    second = {**first, **whole(repo)}
    assert tree.seen() == second
    earlier = next(name for name in whole(repo) if name.endswith("-primary.xml.gz")
                   and name not in yum.listed(repo))  # fmt: skip
    (repo / earlier).unlink()
    assert run(tree, repo, repo=True) == []
    assert tree.seen() == second, "what was published stays"


def test_a_repository_that_somebody_writes_is_left_alone(web: Place, repo: Path) -> None:
    with repository.hold(repo), pytest.raises(BusyError):
        run(web, repo, repo=True)
    assert run(web, repo, repo=True)


def test_a_folder_that_is_no_repository_is_left_as_it_is(web: Place, dist: Path) -> None:
    before = contents(dist)
    with pytest.raises(ProofError, match="no part of a repository"):
        run(web, dist, repo=True)
    assert contents(dist) == before


def test_packages_without_a_signature_are_named(
    web: Place, repo: Path, packages: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    add(repo, packages / "small-1-2.noarch.rpm")
    run(web, repo, repo=True)
    said = [line for line in capfd.readouterr().err.splitlines() if "not signed" in line]
    assert len(said) == 1 and said[0].endswith("not signed: packages/small-1-1.noarch.rpm")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a key": (lambda repo: (repo / "secret.key").touch(), "secret.key: no part of a repository"),
    "a link": (lambda repo: (repo / "x.repo").symlink_to("nokmem.repo"), "x.repo: no part"),
    "no index": (lambda repo: (repo / "repodata/repomd.xml").unlink(), "repomd.xml: missing"),
    "no package": (lambda r: (r / "packages/small-1-1.noarch.rpm").unlink(), "noarch.rpm: missing"),
    "another package": (
        lambda repo: (repo / "packages/small-1-1.noarch.rpm").write_bytes(b"another"),
        "noarch.rpm: not what the index says",
    ),
    "a broken index": (lambda repo: (repo / "repodata/repomd.xml").write_text("<"), "cannot be"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_repository_that_is_not_whole_is_refused_before_anybody_is_asked(
    damage: tuple[Callable[[Path], object], str], web: Place, repo: Path
) -> None:
    change, word = damage
    change(repo)
    with pytest.raises(ProofError, match=word):
        run(web, repo, repo=True)
    assert web.server is not None and web.server.log == []


def test_a_release_has_no_folders_for_a_repository(tmp_path: Path, repo: Path) -> None:
    for place in github(tmp_path):
        with pytest.raises(PublishError, match="a release has no folders"):
            run(place, repo, repo=True)


# What is never published


def test_a_folder_that_fails_verification_is_refused_before_anybody_is_asked(
    web: Place, tmp_path: Path, plan: BuildPlan, capfd: pytest.CaptureFixture[str]
) -> None:
    """The whole command line; what proves the binaries proves these wrong."""
    made = test_manifest.write(tmp_path / "dist", plan)
    assert command("--dist", str(made), place=web) == 9
    assert "checks failed" in capfd.readouterr().err
    (made / "runc").write_bytes(b"changed")
    assert command("--dist", str(made), place=web, more=["--dry-run"]) == 9
    assert command("--dist", str(tmp_path), place=web) == 9
    assert web.server is not None and web.server.log == []


def test_the_control_is_refused_even_where_it_passes(
    web: Place, tmp_path: Path, stock_plan: BuildPlan, dist: Path
) -> None:
    made = test_manifest.write(tmp_path / "dist", stock_plan)
    with pytest.raises(ProofError, match="this is the control"):
        run(web, made)
    assert web.server is not None and web.server.log == []


def command(*words: str, place: Place, more: list[str] | None = None) -> int:
    """The exit code of the command line, whose output goes where ours does."""
    argv = [sys.executable, str(ROOT / "tasks.py"), "publish", "--to", place.word, *words]
    environment = {**os.environ, "CI": "true", **place.variables}
    return subprocess.run([*argv, *(more or [])], env=environment, check=False).returncode


@pytest.mark.calm
def test_the_command_line_says_what_it_did(
    web: Place, repo: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("--repo", str(repo))
    assert command(*words, place=web, more=["--dry-run"]) == 0
    assert f"would send {len(whole(repo))} of" in capfd.readouterr().out
    assert command(*words, place=web) == 0
    assert "files sent, all are there" in capfd.readouterr().out
    assert command(*words, place=web) == 0
    assert "nothing to send" in capfd.readouterr().out
    (repo / "nokmem.repo").write_text("[other]\n")
    for more in (["--dry-run"], []):
        assert command(*words, place=web, more=more) == 13
        out, err = capfd.readouterr()
        assert "publish: a file of other content" in err and "nokmem.repo: there sha256" in err
        assert ("refused" in out) is bool(more)
    assert command(*words, "--dist", "dist/v1.20.2", place=web) == 2
    assert command(place=web) == 2


# Words and logins


@pytest.mark.parametrize(
    "word",
    [
        *(
            "",
            "s3://",
            "s3://B_/x",
            "ftp://host/x",
            "https://",
            "https://host:port/x",
            "oci://host",
        ),
        *("https://host/x?token=hush-hush-token", "https://host/x#hush-hush-token", "github:owner"),
        *("oci://host/name", "oci://host/name@sha256:00", "github:owner/name", "file://x/y"),
        *("https://deployer:hush-hush-token@host/x", "oci://deployer:hush-hush-token@host/x:v1"),
        *("s3://user:hush-hush-token@bucket/x", "https:/deployer:hush-hush-token@host/x"),
    ],
)
def test_a_word_that_names_no_target_or_holds_a_login_is_not_shown(word: str) -> None:
    with pytest.raises(UsageError) as caught:
        targets.named(word, {})
    assert not [secret for secret in ("hush", "deployer") if secret in shown(caught.value)]


def test_an_endpoint_that_holds_a_login_is_not_shown() -> None:
    with pytest.raises(UsageError, match="holds a login") as caught:
        targets.named("s3://bucket/x", {"AWS_ENDPOINT_URL": f"https://u:{TOKEN}@host"})
    assert TOKEN not in shown(caught.value)


@pytest.mark.parametrize("word", ["http://198.51.100.1/x", "github:owner/name@v1"])
def test_credentials_go_over_https_alone(word: str, tmp_path: Path) -> None:
    variables = {
        "NOKMEM_PUBLISH_TOKEN": TOKEN, "GITHUB_TOKEN": TOKEN,
        "GITHUB_API_URL": "http://198.51.100.1",
    }  # fmt: skip
    target = targets.named(word, variables)
    with pytest.raises(PublishError, match="over https alone") as caught:
        target.find(Item("", "x", tmp_path, 0, ""))
    target.close()
    assert TOKEN not in shown(caught.value)


def test_a_token_that_cannot_be_one_is_not_shown() -> None:
    with pytest.raises(UsageError, match="not a token") as caught:
        targets.named("https://host/x", {"NOKMEM_PUBLISH_TOKEN": f"{TOKEN}\nX-Other: 1"})
    assert TOKEN not in shown(caught.value)


def shown(error: NokmemError) -> str:
    """Everything that a user could get to see of an error, its causes included."""
    return f"{error}{vars(error)}{error.__cause__!r}"


@pytest.fixture(params=["raw", "github", "s3", "oci"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Each kind of target that is behind a connection."""
    yield from make(request.param, request, tmp_path)


@pytest.mark.parametrize("status", [401, 403])
def test_who_may_not_is_told_so_at_once_and_no_secret_is_said(
    status: int, remote: Place, dist: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert remote.server is not None
    for method in ("GET", "HEAD"):
        remote.server.troubles[method] = [status] * 9
    with pytest.raises(PublishError, match=f"HTTP {status}") as caught:
        run(remote, dist)
    assert caught.value.exit_code == 13 and caught.value.next_step
    assert len(remote.server.log) <= 3, "nobody is asked again and again"
    texts = (shown(caught.value), *capfd.readouterr())
    assert not [secret for secret in SECRETS for text in texts if secret in text]


def test_without_credentials_it_says_which_variables(tmp_path: Path, dist: Path) -> None:
    for place in raw(tmp_path):
        place.variables = {}
        with pytest.raises(PublishError, match="it asks who: HTTP 401") as caught:
            run(place, dist)
        assert "NOKMEM_PUBLISH_USER" in caught.value.next_step
    for place in github(tmp_path / "dist"):
        del place.variables["GITHUB_TOKEN"]
        with pytest.raises(PublishError, match="it asks who: HTTP 401") as caught:
            run(place, dist)
        assert "GITHUB_TOKEN" in caught.value.next_step


# Servers that tire, cut, or change what is sent


SENDS = {"raw": "PUT", "github": "POST", "s3": "PUT", "oci": "PUT"}


@pytest.mark.parametrize("trouble", [503, 500, "cut", "lost"])
@pytest.mark.parametrize("kind", SENDS)
def test_what_may_pass_is_tried_again(
    kind: str, trouble: int | str, request: pytest.FixtureRequest, tmp_path: Path, dist: Path
) -> None:
    for place in make(kind, request, tmp_path):
        assert place.server is not None
        first: list[int | str] = [""] if kind == "github" else []  # makes the release
        place.server.troubles[SENDS[kind]] = [*first, trouble, trouble]
        place.server.troubles["HEAD"] = [503]
        assert len(run(place, dist)) == FILES
        assert place.seen() == {place.name(n): content for n, content in contents(dist).items()}


def test_a_lost_answer_does_not_send_a_file_twice(web: Place, dist: Path) -> None:
    assert web.server is not None
    web.server.troubles["PUT"] = ["lost"] * 7
    run(web, dist)
    assert len(web.server.asked("PUT")) == FILES


def test_what_does_not_pass_is_given_up_after_four_tries(remote: Place, dist: Path) -> None:
    assert remote.server is not None
    for method in ("PUT", "POST"):
        remote.server.troubles[method] = [503] * 99
    with pytest.raises(PublishError, match="HTTP 503"):
        run(remote, dist)
    assert len(remote.server.asked("PUT") + remote.server.asked("POST")) == 4
    assert remote.seen() == {}


def test_a_file_that_is_changed_on_the_way_is_seen(remote: Place, dist: Path) -> None:
    """S3 and the registry see it themselves; of the others it is read back."""
    assert remote.server is not None
    remote.server.troubles["PUT"] = ["change"] * 9
    remote.server.troubles["POST"] = ["", "change"] if isinstance(remote.server, Releases) else []
    with pytest.raises(PublishError) as caught:
        run(remote, dist)
    assert re.search(r"did not arrive as it was sent: .*sha256|HTTP 4\d\d", caught.value.fact)
    assert not set(map(remote.name, SEEN_LAST)) & set(remote.seen())


def test_a_server_that_is_not_there_is_said(dist: Path, tmp_path: Path) -> None:
    nobody = "127.0.0.1:9"
    variables = {"NOKMEM_S3_ENDPOINT": f"http://{nobody}", "GITHUB_API_URL": f"http://{nobody}"}
    words = (f"http://{nobody}/x", "s3://bucket/x", "github:owner/name@v1", f"oci://{nobody}/x:v1")
    for word in words:
        with pytest.raises(PublishError, match="no answer") as caught:
            run(Place(word, dict, dict.fromkeys, None, variables), dist)
        assert nobody in caught.value.place


def test_a_certificate_by_nobody_is_refused_and_the_users_own_is_believed(
    tmp_path: Path, dist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = tmp_path / "both.pem"
    words = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj /CN=here"
    files = ("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem")
    argv = ["openssl", "req", *words.split(), *files]
    subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True)
    certificate.write_bytes(b"".join((tmp_path / n).read_bytes() for n in ("key.pem", "cert.pem")))
    with serving(Shelf(tmp_path / "shelf", certificate)) as shelf:
        place = Place(f"{shelf.url}/x", lambda: contents(shelf.folder / "x"), dict.fromkeys)
        s3 = Place("s3://bucket/x", dict, dict.fromkeys, None, {"NOKMEM_S3_ENDPOINT": shelf.url})
        for each in (place, s3):
            with pytest.raises(PublishError, match="no answer: the certificate"):
                run(each, dist)
        assert shelf.log == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))
        assert len(run(place, dist)) == FILES
        assert len(place.seen()) == FILES
        with pytest.raises(PublishError, match="there is no such bucket"):
            run(s3, dist)


# Each kind's own


@pytest.mark.calm
def test_checksums_that_a_server_tells_are_believed(web: Place, dist: Path) -> None:
    shelf = web.server
    assert isinstance(shelf, Shelf)
    shelf.checksums = True
    run(web, dist)
    assert shelf.asked("GET") == []


@pytest.mark.calm
def test_a_server_without_head_is_asked_for_the_file(web: Place, dist: Path) -> None:
    assert web.server is not None
    web.server.troubles["HEAD"] = [405] * 99
    assert len(run(web, dist)) == FILES
    assert run(web, dist) == []


def test_a_repository_that_moved_is_not_followed_with_a_file(web: Place, dist: Path) -> None:
    assert web.server is not None
    web.server.troubles["PUT"] = [302]
    with pytest.raises(PublishError, match="HTTP 302"):
        run(web, dist)


def test_a_bucket_that_is_not_there_is_said(
    request: pytest.FixtureRequest, tmp_path: Path, dist: Path
) -> None:
    for place in bucket(request, tmp_path):
        place.word = "s3://no-such-bucket/x"
        with pytest.raises(PublishError, match="there is no such bucket"):
            run(place, dist, dry_run=True)


@pytest.mark.calm
def test_a_store_without_conditions_is_sent_to_without(
    request: pytest.FixtureRequest, tmp_path: Path, dist: Path
) -> None:
    for place in bucket(request, tmp_path):
        assert place.server is not None
        place.server.troubles["PUT"] = [501]
        assert len(run(place, dist)) == FILES
        assert len(place.seen()) == FILES


@pytest.mark.calm
def test_an_object_without_a_checksum_is_downloaded(
    request: pytest.FixtureRequest, tmp_path: Path, dist: Path
) -> None:
    for place in bucket(request, tmp_path):
        place.spoil(place.name("runc"), (dist / "runc").read_bytes())
        assert len(run(place, dist)) == FILES - 1
        assert place.server is not None
        assert [path.rpartition("/")[2] for path in place.server.asked("GET")] == ["runc"]


@pytest.mark.parametrize("kind", ["raw", "s3"])
def test_of_two_who_send_the_same_name_at_once_the_second_is_refused(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, dist: Path
) -> None:
    for place in make(kind, request, tmp_path):
        target = place.target()
        item = publish.dist(dist, VERSION)[0]
        target.find(item)
        place.spoil(item.place, b"faster")
        with pytest.raises(PublishError, match="412"):
            target.put(item, lambda _: None)
        target.close()
        assert place.seen() == {item.place: b"faster"}


@pytest.mark.calm
def test_a_release_is_a_draft_until_all_is_there(tmp_path: Path, dist: Path) -> None:
    for place in github(tmp_path):
        releases = place.server
        assert isinstance(releases, Releases)
        for number in range(120):  # the draft is on the second page
            releases.release(tag_name=f"other{number}")
        releases.release(tag_name="v1", draft=True)
        releases.troubles["PATCH"] = [403]
        with pytest.raises(PublishError, match="HTTP 403"):
            run(place, dist)
        assert place.seen() == {} and len(releases.assets) == FILES
        assert run(place, dist) == []
        assert len(place.seen()) == FILES and len(releases.releases) == 121


@pytest.mark.calm
def test_a_name_that_github_changes_is_known_again(tmp_path: Path) -> None:
    package = tmp_path / "runc-1.0.0~rc93.rpm"
    package.write_bytes(b"package")
    item = Item("", package.name, package, 7, sha256_of(package))
    for place in github(tmp_path):
        target = place.target()
        for sent in (True, False):
            rows = publish.compare([item], target, lambda _: None)
            assert publish.send(rows, target, Terminal(ci=True)) is sent
        target.close()
        assert place.seen() == {"runc-1.0.0.rc93.rpm": b"package"}


@pytest.mark.calm
def test_an_asset_without_a_digest_is_downloaded(tmp_path: Path, dist: Path) -> None:
    for place in github(tmp_path):
        releases = place.server
        assert isinstance(releases, Releases)
        releases.digests = False
        run(place, dist)
        assert run(place, dist) == []
        assert len([path for path in releases.asked("GET") if "/stored/" in path]) == 2 * FILES


def test_a_tag_that_shows_something_else_stays(registry: str, tmp_path: Path, dist: Path) -> None:
    text = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
    kind = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
    url = f"http://{registry}/v2/image/manifests/v1"
    requests.put(url, text, auth=(USER, PASSWORD), headers=kind, timeout=20).raise_for_status()
    place = Place(f"oci://{registry}/image:v1", dict, dict.fromkeys, None, LOGIN)
    with pytest.raises(PublishError, match="the tag shows something else"):
        run(place, dist)


def test_a_registry_whose_tokens_last_for_two_requests(
    registry: str, tmp_path: Path, dist: Path
) -> None:
    with serving(Front(registry, tmp_path, login=basic(USER, PASSWORD))) as front:
        place = Place(f"oci://{front.host}/a/b:v1", dict, dict.fromkeys, None, LOGIN)
        assert len(run(place, dist)) == FILES
        assert run(place, dist) == []
        assert set(front.scopes) == {"repository:a/b:pull,push"}
        place.variables = {**LOGIN, "NOKMEM_PUBLISH_PASSWORD": "wrong"}
        with pytest.raises(PublishError, match="these credentials are not accepted: HTTP 401"):
            run(place, dist)


def test_a_full_disk_keeps_nothing_half_written(disk: Path, dist: Path) -> None:
    (disk / "filler").write_bytes(bytes(1_400_000))
    place = Place(str(disk), lambda: contents(disk), dict.fromkeys)
    with pytest.raises(MachineError, match="No space left on device") as caught:
        run(place, dist)
    assert str(disk / VERSION / "kubelet") in caught.value.place
    assert set(place.seen()) == {"filler", f"{VERSION}/build.log"}
    (disk / "filler").unlink()
    assert "kubelet" in run(place, dist)
    assert len(place.seen()) == FILES


def test_a_file_that_changes_while_it_is_sent_is_not_seen(tmp_path: Path, dist: Path) -> None:
    for place in folder(tmp_path):
        items = publish.dist(dist, VERSION)
        (dist / "build.log").write_text("changed since\n")
        target = place.target()
        rows = publish.compare(items, target, lambda _: None)
        with pytest.raises(PublishError, match="there is nothing by that name"):
            publish.send(rows, target, Terminal(ci=True))
        assert place.seen() == {}


def test_what_a_killed_run_left_goes_and_what_a_living_one_writes_stays(
    tmp_path: Path, dist: Path
) -> None:
    root = tmp_path / "target"
    (root / VERSION).mkdir(parents=True)
    dead, living = (root / VERSION / f".nokmem-{name}" for name in ("dead", "living"))
    dead.touch()
    with living.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        run(Place(f"file://{root}", dict, dict.fromkeys), dist)
        assert living.exists() and not dead.exists()


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path, dist: Path) -> None:
    with pytest.raises(PublishError, match="there is no such folder"):
        run(Place(str(tmp_path / "mount/x"), dict, dict.fromkeys), dist)
    assert not (tmp_path / "mount").exists()


@pytest.mark.calm
def test_published_programs_can_be_run(tmp_path: Path, dist: Path) -> None:
    (dist / "kubelet").chmod(0o755)
    for place in folder(tmp_path):
        run(place, dist)
        modes = {
            n: (Path(place.word) / VERSION / n).stat().st_mode & 0o777 for n in ("kubelet", "runc")
        }
    assert modes == {"kubelet": 0o755, "runc": 0o644}
