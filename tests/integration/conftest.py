"""Real servers in containers: nginx, git behind it, and a proxy (servers/compose.yaml)."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
import requests
from docker.errors import ImageNotFound
from pytest_docker.plugin import Services

from builders.tools import apt, container, process
from builders.tools.cache import Cache
from builders.tools.download import Downloader
from tests.conftest import leave_out

FOLDER = Path(__file__).with_name("servers")
SUITE = "bookworm"
PACKAGES = ("fcgiwrap", "git", "nginx", "openssl", "tinyproxy")
#: What no server reads, or what names a mirror.
LEFT_OUT = (
    "etc/apt/sources.list",
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt/*",
    "var/lib/apt/lists/*",
)
COMPOSE = (("docker", "compose"), ("docker-compose",))


@dataclass(frozen=True)
class Servers:
    """Where the servers are. The same files are behind each address, and each first folder of a
    path is another kind of server for them: servers/locations.conf."""

    http: str
    #: by an authority made for this run, whose certificate is the file `authority`, alone in a
    #: folder that OpenSSL can look it up in
    https: str
    #: with a certificate that only it believes in
    unknown: str
    #: by that authority, but for another name
    misnamed: str
    authority: Path
    #: host and port; it lets nobody in but "passer:proxy-word"
    proxy: str

    def put(self, path: str, body: bytes) -> None:
        with requests.Session() as session:
            session.trust_env = False
            session.put(f"{self.http}/{path}", body, timeout=20).raise_for_status()

    def asked(self, path: str) -> list[tuple[int, str]]:
        """Status and range of each request for a path, in their order."""
        rows = [line.split() for line in _get(f"{self.http}/asked").decode().splitlines()]
        return [(int(row[0]), row[1]) for row in rows if row[2] == path]


@pytest.fixture(scope="session")
def docker_compose_command(request: pytest.FixtureRequest) -> str:
    """Compose as a part of the docker command, or the older program of its own."""
    problem = container.why_not()
    if problem is not None:
        leave_out(request, "container", problem.fact)
    for words in COMPOSE:
        if shutil.which(words[0]) is None:
            continue
        if subprocess.run([*words, "version"], capture_output=True, check=False).returncode == 0:
            return shlex.join(words)
    leave_out(request, "compose", "neither docker compose nor docker-compose is here")
    return ""


@pytest.fixture(scope="session")
def docker_compose_file(
    docker_compose_command: str, servers_base: str, docker_ip: str
) -> Iterator[str]:
    try:
        subject = f"IP:{ipaddress.ip_address(docker_ip)}"
    except ValueError:
        subject = f"DNS:{docker_ip}"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NOKMEM_TEST_BASE", servers_base)
        environment.setenv("NOKMEM_TEST_SUBJECT", subject)
        yield str(FOLDER / "compose.yaml")


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    return ["up --build --detach"]


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    return ["down --volumes --rmi local"]


@pytest.fixture(scope="session")
def servers_base(request: pytest.FixtureRequest, cache: Cache) -> str:
    """The name of an image with Debian and the servers' packages, made once for each machine."""
    recipe = json.dumps([SUITE, PACKAGES, LEFT_OUT])
    key = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    name = f"nokmem/test-servers-base:{key}"
    with closing(docker.from_env(timeout=600)) as engine:
        try:
            engine.images.get(name)
        except ImageNotFound:
            if os.geteuid() != 0 or process.find("debootstrap") is None:
                leave_out(request, "servers", "their base image is not made yet")
            request.getfixturevalue("provider")  # says so where there is no mirror
            repository, _, tag = name.partition(":")
            with cache.run_folder() as scratch:
                try:
                    archive = _debian(scratch)
                    engine.api.import_image_from_file(str(archive), repository=repository, tag=tag)
                finally:
                    shutil.rmtree(scratch)
    return name


def _debian(folder: Path) -> Path:
    """A tar of a Debian with PACKAGES, by debootstrap, from the machine's own mirror."""
    tree, archive = folder / "tree", folder / "tree.tar"
    keyring = apt.keyring(os.environ)
    proxies = apt.proxies(os.environ)
    with Downloader(proxies) as downloader:
        mirror = apt.Archive(downloader, apt.mirrors(os.environ), keyring).url(SUITE, "")
    inherited = {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")}
    environment = {**{f"{scheme}_proxy": url for scheme, url in proxies.items()}, **inherited}
    for argv in (
        # in a mount namespace of its own, so that nothing it mounts can stay
        [
            *("unshare", "--mount", "debootstrap", "--variant=minbase", f"--keyring={keyring}"),
            *(f"--include={','.join(PACKAGES)}", SUITE, str(tree), mirror),
        ],
        [
            *("tar", "--directory", str(tree), "--one-file-system", "--numeric-owner"),
            *(f"--exclude=./{path}" for path in LEFT_OUT),
            *("--create", "--file", str(archive), "."),
        ],
    ):
        result = process.run(argv, environment=environment)
        if not result.ok:
            pytest.fail("\n".join((f"no base image for the servers: {argv[0]}", *result.tail)))
    return archive


@pytest.fixture(scope="session")
def servers(
    docker_services: Services, docker_ip: str, tmp_path_factory: pytest.TempPathFactory
) -> Servers:
    def address(service: str, port: int) -> str:
        return f"{docker_ip}:{docker_services.port_for(service, port)}"

    def answers() -> bool:
        try:
            return bool(_get(f"{http}/authority.hash"))
        except requests.RequestException:
            return False

    http = f"http://{address('web', 8080)}"
    docker_services.wait_until_responsive(answers, timeout=60, pause=0.1)
    name = _get(f"{http}/authority.hash").decode().strip()
    authority = tmp_path_factory.mktemp("authorities") / f"{name}.0"
    authority.write_bytes(_get(f"{http}/authority.pem"))
    return Servers(
        http=http,
        https=f"https://{address('web', 8443)}",
        unknown=f"https://{address('web', 8444)}",
        misnamed=f"https://{address('web', 8445)}",
        authority=authority,
        proxy=address("proxy", 8888),
    )


def _get(url: str) -> bytes:
    """What is there, whatever proxies and authorities the machine has."""
    with requests.Session() as session:
        session.trust_env = False
        response = session.get(url, timeout=20)
        response.raise_for_status()
        return response.content
