"""An OCI registry: the files are the layers of one artifact, which a tag shows all at once.

By the distribution specification 1.1; `oras pull registry/name:tag` gets the files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin

from builders.errors import PublishError
from builders.tools.targets import Item, OnBytes
from builders.tools.targets.http import LOCAL, PASSWORD, TOKEN, USER, Answer, Http, basic, bearer

ARTIFACT = "application/vnd.nokmem.files.v1"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
#: Its config is the empty one that the specification has for artifacts.
EMPTY, EMPTY_TYPE = b"{}", "application/vnd.oci.empty.v1+json"
#: Whatever a tag may show; it is refused where it is another thing.
KINDS = ", ".join(
    (
        MANIFEST,
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
TITLE = "org.opencontainers.image.title"
BYTES = "application/octet-stream"


class Oci:
    def __init__(self, registry: str, name: str, tag: str, environment: Mapping[str, str]) -> None:
        self.place = f"oci://{registry}/{name}:{tag}"
        scheme = "http" if registry.partition(":")[0] in LOCAL else "https"
        self._base, self._name = f"{scheme}://{registry}/v2/{name}", name
        self._tagged = f"{self._base}/manifests/{tag}"
        self._login = basic(environment)
        self._http = Http(bearer(environment, TOKEN), f"{USER} and {PASSWORD}, or {TOKEN}")
        self._shown: dict[str, Any] | None = None

    def find(self, item: Item) -> str | None:
        if self._shown is None:
            self._shown = self._layers()
        layer = self._shown.get(item.name)
        if layer is not None and not item.index:
            return str(layer["digest"]).removeprefix("sha256:")
        return item.sha256 if self._holds(item.sha256, item.size) else None

    def put(self, item: Item, on_bytes: OnBytes) -> None:
        self._send(item.sha256, item.path, on_bytes)

    def finish(self, items: list[Item]) -> bool:
        config = hashlib.sha256(EMPTY).hexdigest()
        layers = {**self._layers(), **{item.name: _layer(item) for item in items}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": ARTIFACT,
            "config": {
                "mediaType": EMPTY_TYPE,
                "digest": f"sha256:{config}",
                "size": len(EMPTY),
            },
            "layers": [layers[name] for name in sorted(layers)],
        }
        text = json.dumps(manifest, sort_keys=True).encode()
        if self._manifest() == text:
            return False
        if not self._holds(config, len(EMPTY)):
            self._send(config, EMPTY)
        self._ask("PUT", self._tagged, text, headers={"Content-Type": MANIFEST})
        if self._manifest() != text:
            raise PublishError(
                "the tag does not show what was just put there",
                place=self.place,
                next_step="see who else writes this tag, then run the same command again",
            )
        return True

    def close(self) -> None:
        self._http.close()

    def _holds(self, sha256: str, size: int) -> bool:
        url = f"{self._base}/blobs/sha256:{sha256}"
        with self._ask("HEAD", url, also=(404,)) as answer:
            return answer.ok and answer.headers.get("Content-Length") == str(size)

    def _send(self, sha256: str, body: Path | bytes, on_bytes: OnBytes = lambda _: None) -> None:
        """Put a blob, which the registry takes in whole and with this hash, or not at all."""
        begun = self._ask("POST", f"{self._base}/blobs/uploads/")
        place = urljoin(self._base, begun.headers.get("Location", ""))
        url = f"{place}{'&' if '?' in place else '?'}{urlencode({'digest': f'sha256:{sha256}'})}"
        headers = {"Content-Type": BYTES}
        self._ask("PUT", url, body, headers=headers, on_bytes=on_bytes)

    def _manifest(self) -> bytes | None:
        """What the tag shows now."""
        answer = self._ask("GET", self._tagged, headers={"Accept": KINDS}, also=(404,))
        text = self._http.read(answer)
        return text if answer.ok else None

    def _layers(self) -> dict[str, Any]:
        """What the tag shows, by name; PublishError where it is nothing of ours."""
        text = self._manifest()
        if text is None:
            return {}
        try:
            manifest = json.loads(text)
            if manifest["artifactType"] == ARTIFACT:
                return {layer["annotations"][TITLE]: layer for layer in manifest["layers"]}
        except (KeyError, TypeError, ValueError):
            pass
        raise PublishError(
            "the tag shows something else, which stays", place=self.place, next_step="name another"
        )

    def _ask(self, method: str, url: str, body: Path | bytes | None = None, **how: Any) -> Answer:
        """As Http.ask, and where the registry asks who, log in and ask again."""
        also = how.pop("also", ())
        answer = self._http.ask(method, url, body, also=(*also, 401), **how)
        if answer.status_code != 401:
            return answer
        answer.close()
        self._log_in(answer.headers.get("WWW-Authenticate", ""))
        return self._http.ask(method, url, body, also=also, **how)

    def _log_in(self, challenge: str) -> None:
        scheme, _, words = challenge.partition(" ")
        asked = dict(re.findall(r'(\w+)="([^"]*)"', words))
        if not self._login and self._http.authorization:
            return  # the token that was given is all there is
        self._http.authorization = self._login
        if scheme.lower() == "bearer" and "realm" in asked:
            scope = {
                "service": asked.get("service", ""),
                "scope": f"repository:{self._name}:pull,push",
            }
            answer = self._http.json(self._http.ask("GET", f"{asked['realm']}?{urlencode(scope)}"))
            token = answer.get("token") or answer.get("access_token")
            self._http.authorization = bearer({TOKEN: str(token)}, TOKEN)


def _layer(item: Item) -> dict[str, Any]:
    digest = f"sha256:{item.sha256}"
    return {
        "mediaType": BYTES, "digest": digest, "size": item.size, "annotations": {TITLE: item.name}
    }  # fmt: skip
