"""Any server that takes PUT: a raw repository of Nexus, a generic one of Artifactory, WebDAV."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from builders.tools.targets import Item, OnBytes
from builders.tools.targets.http import PASSWORD, TOKEN, USER, Http, basic, bearer

#: What a server that knows it checks on arrival, and says of what it has (Artifactory).
CHECKSUM = "X-Checksum-Sha256"


class Raw:
    def __init__(self, url: str, environment: Mapping[str, str]) -> None:
        self.place = url
        authorization = bearer(environment, TOKEN) or basic(environment)
        self._http = Http(authorization, f"{USER} and {PASSWORD}, or {TOKEN}")

    def find(self, item: Item) -> str | None:
        url = self._url(item)
        with self._http.ask("HEAD", url, also=(404, 405, 501)) as head:
            if head.status_code == 404:
                return None
            if CHECKSUM in head.headers and head.ok:
                return head.headers[CHECKSUM].lower()
        return self._http.sha256(url)

    def put(self, item: Item, on_bytes: OnBytes) -> None:
        headers = {"Content-Type": "application/octet-stream", CHECKSUM: item.sha256}
        if not item.index:
            headers["If-None-Match"] = "*"
        self._http.ask("PUT", self._url(item), item.path, headers=headers, on_bytes=on_bytes)

    def finish(self, items: list[Item]) -> bool:  # noqa: ARG002 -- each was seen once it was there
        return False

    def close(self) -> None:
        self._http.close()

    def _url(self, item: Item) -> str:
        return f"{self.place}/{quote(item.place)}"
