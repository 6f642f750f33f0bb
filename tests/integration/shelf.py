"""Real servers that files are put to, which have a bad day when a test wants one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import ssl
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, unquote

CHUNK = 1 << 16
BAD_DIGEST = b"<Error><Code>BadDigest</Code><Message>no</Message></Error>"


class Server(ThreadingHTTPServer):
    """What every kind has: a log, troubles by method, and an Authorization that it wants.

    A trouble is used up by one request: a status to answer with, "cut" in the middle of what is
    sent, "lost": taken in, but the connection ends before the answer, "change": a byte on the way.
    """

    handler: type[Handler]

    def __init__(self, folder: Path, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), self.handler)
        self.folder = folder
        self.host = f"127.0.0.1:{self.server_port}"
        self.url = f"{'https' if certificate else 'http'}://{self.host}"
        self.log: list[tuple[str, str]] = []
        self.troubles: defaultdict[str, list[int | str]] = defaultdict(list)
        self.wanted = ""
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def asked(self, method: str) -> list[str]:
        return [path for one, path in self.log if one == method]


Kind = TypeVar("Kind", bound=Server)


@contextmanager
def serving(server: Kind) -> Iterator[Kind]:
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        self.path, _, query = self.path.partition("?")
        self.query = {name: words[0] for name, words in parse_qs(query).items()}
        self.raw_query = f"?{query}" if query else ""
        self.server.log.append((self.command, unquote(self.path)))
        troubles = self.server.troubles[self.command]
        self.trouble = troubles.pop(0) if troubles else None
        length = int(self.headers.get("Content-Length") or 0)
        with tempfile.TemporaryFile() as body:
            left = length // 2 if self.trouble == "cut" else length
            while left and (chunk := self.rfile.read(min(left, CHUNK))):
                body.write(chunk)
                left -= len(chunk)
            if self.trouble == "change" and length:
                body.seek(0)
                body.write(b"\xff")
            body.seek(0)
            wanted = self.server.wanted
            if self.trouble == "cut":
                self.cut()
                self.hang_up()
            elif isinstance(self.trouble, int):
                self.answer(self.trouble, Location=f"{self.server.url}/elsewhere")
            elif wanted and self.headers.get("Authorization") != wanted:
                self.answer(401)
            else:
                self.serve(body)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._any
        raise AttributeError(name)

    def serve(self, body: Any) -> None:
        raise NotImplementedError

    def cut(self) -> None:
        """What is left where the connection ended in the middle."""

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def answer(self, status: int, body: bytes | Path = b"", **headers: str) -> None:
        if self.trouble == "lost":
            self.hang_up()
            return
        size = body.stat().st_size if isinstance(body, Path) else len(body)
        self.send_response(status)
        for name, value in {"Content-Length": str(size), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(body, Path):
            with body.open("rb") as file:
                shutil.copyfileobj(file, self.wfile, CHUNK)
        else:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class ShelfHandler(Handler):
    """GET, HEAD and PUT, as a raw repository has them."""

    def serve(self, body: Any) -> None:
        place: Path = self.server.folder / unquote(self.path).lstrip("/")
        if self.command == "PUT":
            if self.headers.get("If-None-Match") == "*" and place.exists():
                self.answer(412)
                return
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as file:
                shutil.copyfileobj(body, file, CHUNK)
            self.answer(201)
        elif not place.is_file():
            self.answer(404)
        elif self.server.checksums:
            sha256 = hashlib.sha256(place.read_bytes()).hexdigest()
            self.answer(200, place, X_Checksum_Sha256=sha256)
        else:
            self.answer(200, place)


class Shelf(Server):
    handler = ShelfHandler
    #: whether it tells them, as Artifactory does
    checksums = False


class FrontHandler(Handler):
    """Passes on what it is asked to the server behind it."""

    def serve(self, body: Any) -> None:
        if self.server.issued and not self.authorized():
            return
        checksum = self.headers.get("x-amz-checksum-sha256")
        if checksum and base64.b64decode(checksum) != hashlib.sha256(body.read()).digest():
            self.answer(400, BAD_DIGEST)  # as S3 does, but not the server behind
            return
        body.seek(0)
        link = HTTPConnection(self.server.behind)
        headers = {n: v for n, v in self.headers.items() if n != "Connection"}
        if self.server.login:
            headers["Authorization"] = self.server.login
        link.request(self.command, quote(self.path) + self.raw_query, body, headers)
        found = link.getresponse()
        text = found.read()
        kept = {n: v for n, v in found.getheaders() if n not in ("Connection", "Date", "Server")}
        if self.command == "HEAD":
            text = b""
        self.answer(found.status, text, **kept)
        link.close()

    def authorized(self) -> bool:
        """Whether it has a token of the last ones issued; a token does for two requests."""
        issued, url = self.server.issued, self.server.url
        if self.path == "/token":
            good = self.headers.get("Authorization") == self.server.login
            self.server.scopes.append(self.query.get("scope"))
            issued[f"t{len(issued)}"] = 2
            token = json.dumps({"token": list(issued)[-1]}).encode()
            self.answer(200 if good else 401, token if good else b"")
            return False
        shown = self.headers.get("Authorization", "").removeprefix("Bearer ")
        issued[shown] = issued.get(shown, 0) - 1
        if issued[shown] >= 0:
            return True
        self.answer(401, WWW_Authenticate=f'Bearer realm="{url}/token",service="here"')
        return False


class Front(Server):
    """A server before another one; with a `login`, it lets in whom its tokens do."""

    handler = FrontHandler

    def __init__(self, behind: str, folder: Path, login: str = "") -> None:
        super().__init__(folder)
        self.behind, self.login = behind, login
        self.issued: dict[str, int] = {"": 0} if login else {}
        self.scopes: list[str] = []


class ReleasesHandler(Handler):
    """Releases and their assets, as docs.github.com/rest/releases has them."""

    def serve(self, body: Any) -> None:
        path, server = unquote(self.path), self.server
        base = "/repos/owner/name/releases"
        if self.command == "GET" and path.startswith(f"{base}/tags/"):
            tag = path.removeprefix(f"{base}/tags/")
            found = [r for r in server.releases if r["tag_name"] == tag and not r["draft"]]
            self.say(200, found[0]) if found else self.say(404, {"message": "Not Found"})
        elif self.command == "GET" and path == base:
            self.page(server.releases)
        elif self.command == "POST" and path == base:
            self.say(201, server.release(**json.load(body)))
        elif match := re.fullmatch(rf"{base}/(\d+)", path):
            server.releases[int(match[1])].update(json.load(body))
            self.say(200, server.releases[int(match[1])])
        elif match := re.fullmatch(rf"{base}/(\d+)/assets", path):
            self.page([a for a in server.assets.values() if a["release"] == int(match[1])])
        elif match := re.fullmatch(r"/uploads/(\d+)", path):
            name = re.sub(r"[^\w.+-]", ".", self.query["name"])
            if any(a["name"] == name for a in server.assets.values()):
                self.say(422, {"message": "Validation Failed"})
                return
            asset = server.asset(int(match[1]), name)
            with (server.folder / str(asset["id"])).open("wb") as file:
                shutil.copyfileobj(body, file, CHUNK)
            asset["state"] = "uploaded"
            if server.digests:
                content = (server.folder / str(asset["id"])).read_bytes()
                asset["digest"] = f"sha256:{hashlib.sha256(content).hexdigest()}"
            self.say(201, asset)
        elif match := re.fullmatch(rf"{base}/assets/(\d+)", path):
            if self.command == "DELETE":
                del server.assets[int(match[1])]
                self.answer(204)
            elif self.headers["Accept"] == "application/octet-stream":
                self.answer(302, Location=f"{server.url}/stored/{match[1]}")
        elif match := re.fullmatch(r"/stored/(\d+)", path):
            self.answer(200, server.folder / match[1])
        else:
            self.say(404, {"message": "Not Found"})

    def cut(self) -> None:
        """An upload that fails "may leave an empty asset with a state of starter"."""
        if match := re.fullmatch(r"/uploads/(\d+)", self.path):
            self.server.asset(int(match[1]), self.query["name"])

    def page(self, rows: list[Any]) -> None:
        size, page = int(self.query["per_page"]), int(self.query.get("page", 1))
        more = {}
        if len(rows) > size * page:
            url = f"{self.server.url}{self.path}?per_page={size}&page={page + 1}"
            more = {"Link": f'<{url}>; rel="next"'}
        self.answer(200, json.dumps(rows[size * (page - 1) : size * page]).encode(), **more)

    def say(self, status: int, value: object) -> None:
        self.answer(status, json.dumps(value).encode())


class Releases(Server):
    """GitHub, with one repository."""

    handler = ReleasesHandler
    digests = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.releases: list[dict[str, Any]] = []
        self.assets: dict[int, dict[str, Any]] = {}

    def release(self, **row: Any) -> dict[str, Any]:
        number = len(self.releases)
        url = f"{self.url}/uploads/{number}{{?name,label}}"
        self.releases.append({"draft": False, **row, "id": number, "upload_url": url})
        return self.releases[-1]

    def asset(self, release: int, name: str) -> dict[str, Any]:
        number = max(self.assets, default=0) + 1
        url = f"{self.url}/repos/owner/name/releases/assets/{number}"
        self.assets[number] = {
            "id": number, "release": release, "name": name, "state": "starter", "url": url,
        }  # fmt: skip
        return self.assets[number]


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
