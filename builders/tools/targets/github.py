"""A release on GitHub: a draft until all of its assets are there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from builders.errors import PublishError
from builders.tools.targets import Item, OnBytes
from builders.tools.targets.http import Http, bearer

API, TOKEN = "GITHUB_API_URL", "GITHUB_TOKEN"
HEADERS = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
BYTES = {**HEADERS, "Accept": "application/octet-stream"}


class GitHub:
    def __init__(self, repository: str, tag: str, environment: Mapping[str, str]) -> None:
        self.place = f"github:{repository}@{tag}"
        self._tag = tag
        api = environment.get(API) or "https://api.github.com"
        self._releases = f"{api.rstrip('/')}/repos/{repository}/releases"
        self._http = Http(bearer(environment, TOKEN), TOKEN)
        self._assets: dict[str, Any] | None = None

    def find(self, item: Item) -> str | None:
        if "/" in item.name:
            raise PublishError(
                f"a release has no folders for {item.name}",
                place=self.place,
                next_step="publish the repository elsewhere; a release takes a dist folder",
            )
        if self._assets is None:
            release = self._release()
            found = self._all(f"{self._releases}/{release['id']}/assets") if release else []
            self._assets = {asset["name"]: asset for asset in found}
        asset = self._assets.get(_name(item))
        if asset is None or asset["state"] != "uploaded":
            return None
        algorithm, _, digest = (asset.get("digest") or "").partition(":")
        return digest if algorithm == "sha256" else self._http.sha256(asset["url"], BYTES)

    def put(self, item: Item, on_bytes: OnBytes) -> None:
        asset = (self._assets or {}).get(_name(item), {"state": "uploaded"})
        self._assets = None
        if asset["state"] != "uploaded":  # what a cut upload leaves, to be deleted by GitHub's word
            self._http.ask("DELETE", asset["url"], headers=HEADERS, also=(404,))
        release = self._release() or self._create()
        names = urlencode({"name": _name(item), "label": item.name})
        url = f"{release['upload_url'].partition('{')[0]}?{names}"
        headers = {**HEADERS, "Content-Type": "application/octet-stream"}
        self._http.ask("POST", url, item.path, headers=headers, on_bytes=on_bytes)

    def finish(self, items: list[Item]) -> bool:  # noqa: ARG002 -- all that it has
        release = self._release()
        if release is None or not release["draft"]:
            return False
        change = json.dumps({"draft": False}).encode()
        self._http.ask("PATCH", f"{self._releases}/{release['id']}", change, headers=HEADERS)
        return True

    def close(self) -> None:
        self._http.close()

    def _release(self) -> Any:
        """The release with the tag, a draft too; None where there is none."""
        url = f"{self._releases}/tags/{quote(self._tag, safe='')}"
        answer = self._http.ask("GET", url, headers=HEADERS, also=(404,))
        if answer.ok:
            return self._http.json(answer)
        answer.close()
        return next((r for r in self._all(self._releases) if r["tag_name"] == self._tag), None)

    def _create(self) -> Any:
        wanted = json.dumps({"tag_name": self._tag, "name": self._tag, "draft": True}).encode()
        return self._http.json(self._http.ask("POST", self._releases, wanted, headers=HEADERS))

    def _all(self, url: str) -> list[Any]:
        """The rows of a list, of all its pages."""
        rows: list[Any] = []
        page = f"{url}?per_page=100"
        while page:
            answer = self._http.ask("GET", page, headers=HEADERS)
            rows += self._http.json(answer)
            page = answer.links.get("next", {}).get("url", "")
        return rows


def _name(item: Item) -> str:
    """As GitHub would change it: the ~ of a release candidate's package, by which rpm sorts."""
    return re.sub(r"[^\w.+-]", ".", item.name, flags=re.ASCII)
