"""The el7 toolchain against a vault, a registry and a base image of our own.

What is real here: the data, the rendered repository file, RPM signatures, the engine and every
line of the Dockerfile. What is not: CentOS. A dnf reads what yum will read; in the base image,
`yum` and `rpm` are scripts that say what they were asked.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import NotFound

from builders.errors import IntegrityError, NokmemError, ToolchainError, UnavailableError
from builders.model.releases import RECIPES, Facts
from builders.steps import toolchain
from builders.tools import container
from builders.tools.builder import BUILDER_ID, Kept, Limits, Recipe
from builders.tools.cache import Cache
from tests.conftest import leave_out

FACTS = Facts().toolchains["el7"].image
assert FACTS is not None
IMAGE = dataclasses.asdict(FACTS)
PINS = FACTS.packages
GCC = next(pin for pin in PINS if pin.startswith("gcc-"))
DATA = Path(__file__).parents[1] / "data"
DOCKER_TYPE = "application/vnd.docker."
LOGIN = "passer:proxy-word@"
PROXY = f"http://{LOGIN}proxy.invalid:3128"


def recipe(environment: dict[str, str], **changes: str) -> Recipe:
    return toolchain.image_recipe({**IMAGE, **changes}, RECIPES / "el7", environment)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(handler: Any) -> Iterator[str]:
    """A server on a free port of this machine; its host and port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def nobody() -> str:
    """A host and a port where nothing listens."""
    with serving(Quiet) as host:
        return host


# The repository file, read by dnf, against signed packages


def run(
    *argv: str | Path, check: bool = True, home: Path | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(word) for word in argv],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        check=False,
        env={**os.environ, **({"HOME": str(home)} if home else {})},
    )
    assert done.returncode == 0 or not check, done.stdout
    return done


def make_key(home: Path, name: str) -> str:
    home.mkdir(mode=0o700)
    run(
        *("gpg", "--homedir", home, "--batch", "--passphrase", ""),
        *("--quick-generate-key", name, "rsa2048", "sign", "never"),
    )
    return run("gpg", "--homedir", home, "--armor", "--export", name).stdout


def make_package(folder: Path, pin: str) -> Path:
    """An empty RPM of that name, version and release."""
    name, version, release = pin.rsplit("-", 2)
    spec = folder / f"{name}.spec"
    spec.write_text(
        f"Name: {name}\nVersion: {version}\nRelease: {release}\nSummary: empty\nLicense: none\n"
        "%description\nempty\n%files\n"
    )
    run(
        *("rpmbuild", "-bb", "--quiet", "--target", "x86_64-linux", spec),
        *("--define", f"_topdir {folder}", "--define", f"_rpmdir {folder}/out"),
        *("--define", "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm"),
        home=folder,
    )
    return folder / "out" / f"{pin}.x86_64.rpm"


def sign(home: Path, name: str, *packages: Path) -> None:
    run(
        *("rpmsign", "--addsign", "--define", f"__gpg {shutil.which('gpg')}"),
        *("--define", f"_gpg_name {name}", "--define", f"_gpg_path {home}"),
        *packages,
    )


@pytest.fixture(scope="module")
def vault(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """A served vault and its public key: each pin, a newer gcc, one package that nobody signed
    and one that a stranger did."""
    programs = ("dnf", "createrepo_c", "rpmbuild", "rpmsign", "gpg", "gpg-agent", "gpgconf")
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        leave_out(request, "vault", f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        leave_out(request, "vault", "dnf installs for root alone")
    work = tmp_path_factory.mktemp("vault")
    try:
        key = work / "KEY"
        key.write_text(make_key(work / "ours", "vault"))
        make_key(work / "theirs", "stranger")
        sources = work / "build"
        sources.mkdir()
        ours = [make_package(sources, pin) for pin in (*PINS, "gcc-4.8.5-99.el7")]
        strange = make_package(sources, "strange-1-1")
        unsigned = make_package(sources, "unsigned-1-1")
        sign(work / "ours", "vault", *ours)
        sign(work / "theirs", "stranger", strange)
        tree = work / "served" / IMAGE["release"] / "os" / "x86_64"
        (tree / "Packages").mkdir(parents=True)
        for package in (*ours, strange, unsigned):
            shutil.copy(package, tree / "Packages")
        run("createrepo_c", "--quiet", tree)
        with serving(functools.partial(Quiet, directory=str(work / "served"))) as host:
            yield f"http://{host}", key
    finally:
        for home in ("ours", "theirs"):
            run("gpgconf", "--homedir", work / home, "--kill", "all", check=False)


class Dnf:
    """A dnf that knows one repository file and one empty tree."""

    def __init__(self, folder: Path, vault: str, key: Path) -> None:
        (folder / "repos").mkdir()
        (folder / "log").mkdir()
        (folder / "dnf.conf").write_text("[main]\n")
        text = recipe({"NOKMEM_VAULT": vault}, key=key.as_uri()).files["vault.repo"]
        assert isinstance(text, bytes)
        (folder / "repos" / "vault.repo").write_bytes(text)
        self._words = (
            *("dnf", "--assumeyes", "--noplugins", f"--config={folder}/dnf.conf"),
            *(f"--setopt=reposdir={folder}/repos", f"--setopt=cachedir={folder}/cache"),
            *(f"--setopt=persistdir={folder}/state", f"--setopt=logdir={folder}/log"),
            *(f"--installroot={folder}/root", "--releasever=7"),
        )

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run(*self._words, *words, check=False)

    def installed(self) -> set[str]:
        done = self("--quiet", "repoquery", "--installed", "--queryformat=%{name}-%{evr}")
        return {word for word in done.stdout.split() if not word.startswith("gpg-pubkey")}


@pytest.fixture
def dnf(vault: tuple[str, Path], tmp_path: Path) -> Dnf:
    return Dnf(tmp_path, *vault)


def test_the_repository_is_found_where_the_vault_has_it(dnf: Dnf, vault: tuple[str, Path]) -> None:
    done = dnf("--verbose", "repolist")
    assert done.returncode == 0, done.stdout
    assert f"{vault[0]}/7.9.2009/os/x86_64/" in done.stdout


def test_the_pins_are_installed_and_nothing_newer(dnf: Dnf) -> None:
    done = dnf("install", *PINS)
    assert done.returncode == 0, done.stdout
    assert dnf.installed() == set(PINS)


@pytest.mark.parametrize(
    ("package", "says"), [("unsigned", "not signed"), ("strange", "GPG check FAILED")]
)
def test_a_package_that_centos_did_not_sign_is_refused(dnf: Dnf, package: str, says: str) -> None:
    done = dnf("install", package)
    assert done.returncode != 0
    assert says in done.stdout
    assert dnf.installed() == set()


def test_a_vault_that_is_away_fails_the_build(tmp_path: Path, vault: tuple[str, Path]) -> None:
    assert Dnf(tmp_path, f"http://{nobody()}", vault[1])("install", *PINS).returncode != 0


# The recipe, on the engine, over a base image from a registry


class Registry:
    """As much of a registry as a pull needs: content by digest."""

    def __init__(self) -> None:
        self.content: dict[str, tuple[str, bytes]] = {}
        self.name = ""

    def add(self, body: bytes, kind: str) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        self.content[digest] = f"{DOCKER_TYPE}{kind}", body
        return {"mediaType": f"{DOCKER_TYPE}{kind}", "size": len(body), "digest": digest}

    def add_image(self, layer: bytes) -> str:
        """An image of one layer, a tar; the digest of its manifest."""
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {
                "type": "layers",
                "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()],
            },
        }
        kind = "distribution.manifest.v2+json"
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{DOCKER_TYPE}{kind}",
            "config": self.add(json.dumps(config).encode(), "container.image.v1+json"),
            "layers": [self.add(gzip.compress(layer, mtime=0), "image.rootfs.diff.tar.gzip")],
        }
        return str(self.add(json.dumps(manifest).encode(), kind)["digest"])

    def spoil(self, digest: str) -> None:
        """Give other bytes under that digest."""
        kind, body = self.content[digest]
        other = body.replace(b" ", b"  ", 1) if body.startswith(b"{") else body[:-1]
        self.content[digest] = kind, other

    def part(self, digest: str, what: str) -> str:
        """The digest of an image's manifest, of its config or of its layer."""
        manifest = json.loads(self.content[digest][1])
        parts = {"config": manifest["config"], "layer": manifest["layers"][0]}
        return str(parts[what]["digest"]) if what in parts else digest

    def handler(self) -> type[BaseHTTPRequestHandler]:
        content = self.content

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                digest = self.path.rpartition("/")[2]
                unknown = {"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}
                kind, body = "application/json", json.dumps({"errors": [unknown]}).encode()
                if self.path == "/v2/":
                    body = b"{}"
                kind, body = content.get(digest, (kind, body))
                self.send_response(200 if digest in ("", *content) else 404)
                if digest in content:
                    self.send_header("Docker-Content-Digest", digest)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 -- http.server's name

        return Handler


def base_layer(left_out: str = "") -> bytes:
    """A tree in which every line of the Dockerfile can run: this machine's own programs."""
    names = ("xargs", "cat", "rm", "install", "grep", "id", "stat", "ls", "mkdir", "sleep")
    programs = {"sh": shutil.which("bash") or ""} | {n: shutil.which(n) or "" for n in names}
    words = run("ldd", *programs.values()).stdout.split()
    libraries = {word for word in words if word.startswith("/") and not word.endswith(":")}
    files = {
        "usr/bin/yum": (DATA / "el7-yum.sh").read_bytes(),
        "usr/bin/rpm": (DATA / "el7-rpm.sh").read_bytes(),
        "etc/passwd": b"root:x:0:0::/root:/bin/sh\n",
        "etc/group": b"root:x:0:\n",
        "etc/yum.repos.d/CentOS-Base.repo": b"[gone]\n",
        "left-out": f"{left_out}\n".encode(),
        "unlike-any-other": secrets.token_bytes(),
        **{f"bin/{name}": Path(path).read_bytes() for name, path in programs.items()},
        **{path[1:]: Path(path).read_bytes() for path in sorted(libraries)},
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(body), 0o755
            archive.addfile(member, io.BytesIO(body))
    return out.getvalue()


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[docker.DockerClient]:
    problem = container.why_not()
    if problem is not None:
        leave_out(request, "container", problem.fact)
    with closing(docker.from_env(timeout=60)) as client:
        if not client.api.base_url.startswith("http+docker://"):
            leave_out(request, "registry", "the engine is on another machine")
        yield client


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    registry = Registry()
    with serving(registry.handler()) as host:
        registry.name = f"{host}/centos"
        yield registry


class Making:
    """A builder with one key, and what was said while it made that toolchain."""

    def __init__(self, builder: container.ContainerBuilder) -> None:
        self.builder = builder
        self.key = secrets.token_hex(32)
        self.lines: list[str] = []
        self.bases: set[str] = set()

    def __call__(self, name: str, digest: str, **environment: str) -> Recipe:
        made = recipe({"NOKMEM_BASE_IMAGE": name, **environment}, digest=digest)
        self.bases.add(made.base)
        self.builder.make(self.key, made, self.lines.append)
        return made

    def kept(self) -> list[Kept]:
        return [row for row in self.builder.inventory() if row.key and self.key.startswith(row.key)]


@pytest.fixture
def making(engine: docker.DockerClient, tmp_path: Path) -> Iterator[Making]:
    """Nothing of what it makes stays, which is seen to be so."""
    with closing(container.ContainerBuilder(Cache(tmp_path / "cache"))) as builder:
        making = Making(builder)
        yield making
        for row in making.kept():
            builder.discard(row)
        left = {base for base in making.bases if has(engine, base)}
        for base in left:
            engine.images.remove(base)
        assert not left and not making.kept()
    words = [line.split() for line in making.lines if line.startswith(" ---> ")]
    assert [step for _, step, *_ in words if step != "Running" and has(engine, step)] == []


def has(engine: docker.DockerClient, image: str) -> bool:
    try:
        engine.images.get(image)
    except NotFound:
        return False
    return True


def shown(error: NokmemError) -> str:
    return f"{error}{vars(error)}"


@contextmanager
def silent() -> Iterator[str]:
    """A server that takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield "{}:{}".format(*server.getsockname())


def test_the_image_has_what_was_asked_and_nothing_that_was_in_the_way(
    registry: Registry, making: Making
) -> None:
    made = making(registry.name, registry.add_image(base_layer()))
    assert making.builder.has(making.key)
    assert any(line.startswith(" ---> ") for line in making.lines)
    script = (
        "cat /asked; cat /etc/yum.repos.d/*; id; stat -c '%n %u %g' /build /cache/go; "
        "ls -A /nokmem /var/cache/yum /var/log 2>/dev/null; cat /etc/passwd; pwd"
    )
    lines: list[str] = []
    with making.builder.start(making.key, Limits()) as session:
        session.run(["sh", "-c", script], environment={"PATH": "/bin"}, on_line=lines.append)
    said = "\n".join(lines)
    assert "descriptors 1024\n" in said
    assert "repositories /etc/yum.repos.d/vault.repo\n" in said
    assert "--setopt=skip_missing_names_on_install=False" in said
    assert " ".join(PINS) in said
    repositories = made.files["vault.repo"]
    assert isinstance(repositories, bytes) and repositories.decode() in said
    assert f"uid={BUILDER_ID}(builder) gid={BUILDER_ID}(builder)" in said
    assert f"/build {BUILDER_ID} {BUILDER_ID}\n/cache/go {BUILDER_ID} {BUILDER_ID}\n" in said
    assert "yum.log" not in said
    assert lines[-1] == "/build"


def test_a_proxy_is_used_under_both_its_names_and_its_password_shows_nowhere(
    engine: docker.DockerClient, registry: Registry, making: Making
) -> None:
    digest = registry.add_image(base_layer())
    making(registry.name, digest, HTTP_PROXY=PROXY, https_proxy=PROXY, no_proxy="inside.example")
    (image,) = making.kept()
    found = engine.images.get(image.name)
    kept = json.dumps([found.history(), found.attrs])
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        assert f"{name} is http://proxy.invalid:3128" in making.lines
    assert "NO_PROXY is inside.example" in making.lines
    assert "proxy.invalid" not in kept
    assert "proxy-word" not in kept + "\n".join(making.lines)


@pytest.mark.parametrize("was_there", [False, True])
def test_a_base_image_goes_again_unless_it_was_there_before(
    was_there: bool, engine: docker.DockerClient, registry: Registry, making: Making
) -> None:
    digest = registry.add_image(base_layer())
    base = f"{registry.name}@{digest}"
    if was_there:
        engine.images.pull(base)
    try:
        making(registry.name, digest)
        assert has(engine, base) is was_there
        assert making.builder.has(making.key)
    finally:
        if was_there:
            engine.images.remove(base)


def test_a_package_that_yum_left_out_fails_the_build(
    engine: docker.DockerClient, registry: Registry, making: Making
) -> None:
    digest = registry.add_image(base_layer(left_out=GCC))
    with pytest.raises(ToolchainError) as caught:
        making(registry.name, digest, http_proxy=PROXY)
    assert f"package {GCC} is not installed" in caught.value.detail
    assert "proxy-word" not in shown(caught.value)
    assert not making.builder.has(making.key)
    assert not has(engine, f"{registry.name}@{digest}")


@pytest.mark.parametrize("what", ["manifest", "config", "layer"])
def test_a_base_with_another_content_is_refused_by_its_digest(
    what: str, engine: docker.DockerClient, registry: Registry, making: Making
) -> None:
    digest = registry.add_image(base_layer())
    registry.spoil(registry.part(digest, what))
    with pytest.raises(IntegrityError, match=r"verification failed for digest|unexpected commit"):
        making(registry.name, digest)
    assert not has(engine, f"{registry.name}@{digest}")


def test_a_base_without_its_layer_is_unavailable(registry: Registry, making: Making) -> None:
    digest = registry.add_image(base_layer())
    del registry.content[registry.part(digest, "layer")]
    with pytest.raises(UnavailableError, match=r"cannot be pulled: .*blob"):
        making(registry.name, digest)


def test_a_registry_tells_what_it_has_before_anything_is_pulled(
    engine: docker.DockerClient, registry: Registry, making: Making
) -> None:
    base = f"{registry.name}@{registry.add_image(base_layer())}"
    assert making.builder.answer(base) is None
    assert not has(engine, base)


def test_what_the_engine_has_needs_no_registry(
    engine: docker.DockerClient, registry: Registry, making: Making
) -> None:
    digest = registry.add_image(base_layer())
    base = f"{registry.name}@{digest}"
    engine.images.pull(base)
    try:
        registry.content.clear()
        assert making.builder.answer(base) is None
        making(registry.name, digest)
    finally:
        engine.images.remove(base)


def test_what_a_registry_has_not_is_said(registry: Registry, making: Making) -> None:
    reason = making.builder.answer(f"{registry.name}@{IMAGE['digest']}")
    assert reason and "manifest unknown" in reason
    with pytest.raises(UnavailableError, match="manifest unknown"):
        making(registry.name, IMAGE["digest"])


def test_a_registry_that_is_away_is_told_at_once_and_without_addresses(making: Making) -> None:
    name = f"{nobody()}/centos"
    reason = making.builder.answer(f"{name}@{IMAGE['digest']}")
    assert reason and reason.endswith("connection refused") and "://" not in reason
    with pytest.raises(UnavailableError, match=r"connection refused$"):
        making(name, IMAGE["digest"])


def test_a_silent_registry_is_waited_for_a_few_seconds(
    making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "PROBE_TIMEOUT", 2)
    with silent() as host:
        reason = making.builder.answer(f"{host}/centos@{IMAGE['digest']}")
        assert reason == "the registry does not answer within 2 s"
        with pytest.raises(UnavailableError, match="the registry does not answer within 2 s"):
            making(f"{host}/centos", IMAGE["digest"])
