"""Real servers in containers: nginx, git behind it, and a proxy (servers/compose.yaml)."""

from __future__ import annotations

import ipaddress
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from pytest_docker.plugin import Services

from builders.tools import container
from tests import debian
from tests.conftest import leave_out

FOLDER = Path(__file__).with_name("servers")
PACKAGES = ("fcgiwrap", "git", "nginx", "openssl", "tinyproxy")
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
def servers_base(request: pytest.FixtureRequest) -> str:
    return debian.image(request, "nokmem/test-servers-base", PACKAGES)


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
