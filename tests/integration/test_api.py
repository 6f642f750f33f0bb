"""How the node script asks an API server: by kubelet's own credentials, with curl or without."""

from __future__ import annotations

import base64
import http.server
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rollout.script import script
from tests.rollout import MANIFEST, PATH

AUTHORITY = """
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt \
    -subj /CN=ca -days 2
for name in server node; do
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $name.key -out $name.csr \
        -subj /CN=$name
    echo subjectAltName=IP:127.0.0.1 >$name.ext
    openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
        -out $name.crt -extfile $name.ext
done
"""
CALL = 'KUBELET_ARGV=(kubelet "--kubeconfig=$1") SCRATCH=$2; api "$3"'


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        allowed = self.headers["Authorization"] == "Bearer a-token" or self.connection.getpeercert()
        self.send_response(200 if allowed and self.path.startswith("/prefix/api/") else 403)
        self.end_headers()
        self.wfile.write(b'{"path": "%s"}\n\n{}' % self.path.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("authority")
    subprocess.run(["sh", "-ec", AUTHORITY], cwd=made, check=True, capture_output=True)
    (made / "library").write_text(script(MANIFEST).rpartition('main "$@"')[0] + CALL)
    return made


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    context.load_verify_locations(folder / "ca.crt")
    context.verify_mode = ssl.CERT_OPTIONAL
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


#: The curl of EL7 answers so where the key is EC's; and some nodes have none.
CURLS = {"curl": None, "EL7's": "echo unable to load client key >&2; exit 58", "none": "exit 127"}


@pytest.fixture(params=CURLS)
def ask(
    request: pytest.FixtureRequest, folder: Path, tmp_path: Path
) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """The script's api, by a kubeconfig."""
    own = tmp_path / "bin"
    own.mkdir()
    words = CURLS[request.param]
    if words:
        (own / "curl").write_text(f"#!/bin/sh\n{words}\n")
        (own / "curl").chmod(0o755)

    def call(config: str) -> subprocess.CompletedProcess[str]:
        place = folder / "config"
        place.write_text(config)
        bash = shutil.which("bash", path=PATH)
        assert bash
        return subprocess.run(
            [bash, folder / "library", place, tmp_path, "api/v1/nodes/a?b=c%3Dd"],
            env={**os.environ, "PATH": f"{own}:{PATH}"},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    return call


def config(port: int, *words: str, host: str = "127.0.0.1") -> str:
    lines = (
        "clusters:", "- cluster:", f"    server: https://{host}:{port}/prefix/", "    certificate-authority: ca.crt",
        "users:", "- user:", *(f"    {word}" for word in words if ":" in word),
    )  # fmt: skip
    return "\n".join(lines) + "\n"


CERTIFICATE = ("client-certificate: node.crt", "client-key: 'node.key'")
Ask = Callable[[str], subprocess.CompletedProcess[str]]


def test_by_files_by_data_and_by_token(ask: Ask, port: int, folder: Path) -> None:
    def data(key: str, name: str) -> str:
        return f"{key}-data: {base64.b64encode((folder / name).read_bytes()).decode()}"

    within = (data("client-certificate", "node.crt"), data("client-key", "node.key"))
    for words in (CERTIFICATE, within, ('token: "a-token"',)):
        done = ask(config(port, *words))
        assert done.returncode == 0, done
        assert done.stdout.rstrip() == '{"path": "/prefix/api/v1/nodes/a?b=c%3Dd"}\n\n{}'


@pytest.mark.parametrize(
    "why", ["nobody", "another token", "another name", "another authority", "nowhere", "no TLS"]
)
def test_who_is_not_believed_is_not_asked(why: str, ask: Ask, port: int, folder: Path) -> None:
    text = config(port, *CERTIFICATE)
    if why == "nobody":
        text = config(port)
    elif why == "another token":
        text = config(port, "token: another")
    elif why == "another name":
        text = config(port, *CERTIFICATE, host="localhost")
    elif why == "another authority":
        text = text.replace("certificate-authority: ca.crt", "")
    elif why == "nowhere":
        text = config(1, *CERTIFICATE)
    else:
        text = text.replace("https:", "http:")
    done = ask(text)
    assert done.returncode != 0 and not done.stdout
    assert not list((folder / "..").glob("*/client-key")), "no key is left"


def test_a_server_that_is_not_to_be_believed(ask: Ask, port: int) -> None:
    done = ask(config(port, "token: a-token", host="localhost").replace(
        "certificate-authority: ca.crt", "insecure-skip-tls-verify: true"))  # fmt: skip
    assert done.returncode == 0, done
