"""Where files are published: one kind of place a module, and all of them a Target."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from builders.errors import PublishError, UsageError

OnBytes = Callable[[int], None]
FORMS = (
    "write a folder, s3://bucket/prefix, https://host/path, github:owner/name@tag or "
    "oci://registry/name:tag, without login; credentials are variables"
)


@dataclass(frozen=True)
class Item:
    """A file to publish. `folder` is what all of its kind stand in, "" for none; `index` says that
    it tells what else is there, so that another may take its place."""

    folder: str
    name: str
    path: Path
    size: int
    sha256: str
    index: bool = False

    @property
    def place(self) -> str:
        """Its path in a target that has folders."""
        return f"{self.folder}/{self.name}".lstrip("/")


class PassingError(PublishError):
    """A failure that may be gone the next time: worth another try."""


class Target(Protocol):
    """A place for files. Making one contacts nobody; its errors are PublishErrors."""

    place: str

    def find(self, item: Item) -> str | None:
        """The sha256 of what stands there by the item's name; None where nothing does."""

    def put(self, item: Item, on_bytes: OnBytes) -> None:
        """Send a file. By its name it is seen whole or not at all. May be repeated."""

    def finish(self, items: list[Item]) -> bool:
        """Let these be seen, which are all there now; says whether they were not yet."""

    def close(self) -> None:
        """Hang up."""


class Body(io.FileIO):
    """A file on its way, which tells how far it has come and may be sent again from its start."""

    def __init__(self, path: Path, on_bytes: OnBytes) -> None:
        super().__init__(path, "rb")
        self._told, self._on_bytes = 0, on_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(-1 if size is None else size) or b""
        if self.tell() > self._told:
            self._on_bytes(self.tell() - self._told)
            self._told = self.tell()
        return chunk


def named(word: str, environment: Mapping[str, str]) -> Target:
    """The target that a word names; UsageError where it is none, or holds a login."""
    scheme, colon, rest = word.partition(":")
    if not colon or "/" in scheme:
        scheme, rest = "", word
    login = "@" in rest and scheme not in ("", "file", "github")
    if login or not rest or any(not sign.isprintable() for sign in word):
        raise _unknown("the target holds a login" if login else "this names no target")
    if scheme in ("", "file"):
        from builders.tools.targets.folder import Folder

        path = Path(unquote(rest.removeprefix("//"))) if scheme else Path(word)
        if scheme and not path.is_absolute():
            raise _unknown("file:// is followed by an absolute path")
        return Folder(path)
    if scheme == "github":
        match = re.fullmatch(r"([\w.-]+/[\w.-]+)@([^\s@?#:]+)", rest, re.ASCII)
        if match:
            from builders.tools.targets.github import GitHub

            return GitHub(match[1], match[2], environment)
    if scheme == "s3":
        match = re.fullmatch(r"//([a-z0-9][a-z0-9.-]+)(/[^?#]*)?", rest)
        if match:
            from builders.tools.targets.s3 import S3

            return S3(match[1], (match[2] or "").strip("/"), environment)
    if scheme in ("https", "http") and not set("?#") & set(rest) and _has_host(word):
        from builders.tools.targets.raw import Raw

        return Raw(word.rstrip("/"), environment)
    if scheme == "oci":
        match = re.fullmatch(r"//([\w.-]+(?::\d+)?)/([a-z0-9._/-]+):([\w][\w.-]{0,127})", rest)
        if match:
            from builders.tools.targets.oci import Oci

            return Oci(match[1], match[2], match[3], environment)
    raise _unknown("this names no target")


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _unknown(fact: str) -> UsageError:
    return UsageError(f"{fact}; it is not shown", place="--to", next_step=FORMS)
