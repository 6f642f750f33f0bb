"""The real pip-audit on the real lock: a service that knows something, knows nothing, is silent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import tasks
from builders.errors import UnavailableError
from builders.tools import advisories

LOCK = tasks.ROOT / "requirements/dev.txt"


class Service(BaseHTTPRequestHandler):
    """Answers as OSV does, about one package."""

    knows = ""
    asked: list[str]

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = query["package"]["name"]
        self.asked.append(name)
        package = {"name": name, "ecosystem": "PyPI"}
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "999"}]}]
        vulns = [
            {"id": "X-1", "summary": "x", "affected": [{"package": package, "ranges": ranges}]}
        ]
        body = json.dumps({"vulns": vulns} if name == self.knows else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[tuple[str, type[Service]]]:
    handler = type("Played", (Service,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/query", handler
        server.shutdown()


def ask(url: str, requirements: Path = LOCK) -> tuple[int, tuple[advisories.Advisory, ...]]:
    return advisories.known(tasks._tool("pip-audit"), requirements, {"PIP_AUDIT_OSV_URL": url})


def test_what_the_service_knows_is_found(service: tuple[str, type[Service]]) -> None:
    url, handler = service
    handler.knows = "jinja2"
    count, found = ask(url)
    assert [(a.package, a.id, a.fixed) for a in found] == [("jinja2", "X-1", ("999",))]
    assert count == len(set(handler.asked)) > 20


def test_every_package_of_the_lock_is_asked_about(service: tuple[str, type[Service]]) -> None:
    url, handler = service
    assert ask(url) == (len(set(handler.asked)), ())
    lock = LOCK.read_text().splitlines()
    pinned = {line.partition("==")[0] for line in lock if "==" in line and ";" not in line}
    assert {name.replace("_", "-").lower() for name in pinned} <= set(handler.asked)


def test_a_silent_service_is_never_taken_for_none() -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        ask("http://127.0.0.1:9/v1/query")
