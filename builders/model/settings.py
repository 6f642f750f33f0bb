"""nokmem.toml: what a user sets once instead of typing it each time.

    [mirrors]                   # a URL, or several; for go also a folder
    kubernetes = "https://git.example/kubernetes.git"
    go = ["/srv/go", "https://mirror.example/go/"]

    [archives.go."1.12.9"]      # an archive of your own; also kubernetes, runc
    place = "go1.12.9.tar.gz"   # a file or a URL
    sha256 = "..."

    [build]                     # what stands where the option is not given
    builder = "container"

Each mirror is also a variable of the environment, which wins; an option wins over both.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import jsonschema

from builders.errors import UsageError
from builders.model.plan import OwnArchive

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCHEMA_FILE = Path(__file__).with_name("settings.schema.json")
#: The variable of each mirror.
VARIABLES = {
    "kubernetes": "NOKMEM_KUBERNETES_REPOSITORY",
    "runc": "NOKMEM_RUNC_REPOSITORY",
    "go": "NOKMEM_GO_MIRROR",
    "debian": "NOKMEM_DEBIAN_MIRROR",
    "debian-security": "NOKMEM_DEBIAN_SECURITY_MIRROR",
    "vault": "NOKMEM_VAULT",
    "base-image": "NOKMEM_BASE_IMAGE",
}
#: Mirrors that may be a path; host:path is ssh's way to write an address.
PATHS = ("kubernetes", "runc", "go")
SSH = re.compile(r"[^/]+:")


@dataclass(frozen=True)
class Settings:
    """`mirrors` by their variables, as a shell would write several places; `archives` with
    the place of each (a URL or an absolute path) by its sha256; `build` by the options' names."""

    mirrors: Mapping[str, str] = field(default_factory=dict)
    archives: tuple[OwnArchive, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    build: Mapping[str, str] = field(default_factory=dict)

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The environment with the mirrors where it names none itself."""
        return {**self.mirrors, **{k: v for k, v in environment.items() if v}}


def parse(content: str, place: Path) -> Settings:
    """The settings in the text of the file at `place`; UsageError with line and key."""
    try:
        data = tomllib.loads(content)
    except (ValueError, RecursionError) as error:  # too long a number, too many brackets
        raise UsageError(
            f"this is not TOML: {error}", place=str(place), next_step="mend that line"
        ) from error
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
    problem = jsonschema.exceptions.best_match(validator.iter_errors(data))
    if problem is not None:
        raise _malformed(problem, content, place)
    rows = [
        (component, version, row)
        for component, versions in data.get("archives", {}).items()
        for version, row in versions.items()
    ]
    return Settings(
        mirrors={
            VARIABLES[name]: _mirror(name, value, place)
            for name, value in data.get("mirrors", {}).items()
        },
        archives=tuple(
            own_archive(component, version, row["place"], row["sha256"])
            for component, version, row in rows
        ),
        places={row["sha256"]: _absolute(row["place"], place) for _, _, row in rows},
        build={
            name: _absolute(value, place) if name in ("dist", "patches") else value
            for name, value in data.get("build", {}).items()
        },
    )


def own_archive(component: str, version: str, place: str, sha256: str) -> OwnArchive:
    """An archive by its file name, which is all of its place that a plan holds; UsageError where
    the place is meant as a URL and is none."""
    path = _path(place) if "://" in place else place
    version = version.removeprefix("v") if component == "runc" else version
    return OwnArchive(component, version, PurePosixPath(path).name, sha256)


def _mirror(name: str, value: str | list[str], place: Path) -> str:
    if name not in PATHS:
        return str(value)
    words = [value] if isinstance(value, str) else value
    return shlex.join(word if SSH.match(word) else _absolute(word, place) for word in words)


def _path(url: str) -> str:
    """The path of a URL; an @ in it would end a login that has characters which it may not have."""
    try:
        parts = urlsplit(url)
        if parts.hostname and "@" not in parts.path + parts.query + parts.fragment:
            return parts.path if parts.port is None or parts.port else ""
    except ValueError:
        pass
    raise UsageError(
        "this is not the URL of an archive (it is not shown: it may hold a password)",
        place="the place of an archive",
        next_step="write it as https://host/archive.tar.gz; quote special characters of a password "
        "as %xx",
    )


def _absolute(word: str, place: Path) -> str:
    return word if "://" in word else str(place.parent / word)


def _malformed(error: jsonschema.ValidationError, content: str, place: Path) -> UsageError:
    path = [str(part) for part in error.absolute_path]
    schema: Any = error.schema
    allowed = schema.get("enum")
    fact, advice = error.message, "docs/reference.md lists every key and what it may be"
    if error.validator == "additionalProperties" and isinstance(error.instance, Mapping):
        known = list(schema["properties"])
        strange = next(key for key in error.instance if key not in known)
        path.append(strange)
        fact, advice = f"unknown key {strange!r}", f"known here: {', '.join(known)}"
    elif allowed:
        advice = f"use one of: {', '.join(allowed)}"
    if any(sign in repr(error.instance) for sign in ("://", "@", "?")):
        fact = f"{_kind(error)} (it is not shown: it may hold a password)"
    where = ".".join(path) or "the whole file"
    return UsageError(f"{where}: {fact}", place=f"{place}:{_line(content, path)}", next_step=advice)


def _kind(error: jsonschema.ValidationError) -> str:
    """What is wrong, without the value that it is wrong with."""
    return {
        "pattern": "this has a blank, or is not of the form that it should have",
        "type": f"this is not of type {error.validator_value!r}",
        "required": error.message,
        "enum": "this is none of those",
    }.get(str(error.validator), "this is not what it should be")


def _line(content: str, path: Iterable[str]) -> int:
    """The line where a key stands: each part is looked for after the one before it."""
    lines, at = content.splitlines(), 0
    for part in path:
        wanted = re.compile(rf"""(?:^|[\s\[.{{,"']){re.escape(part)}(?=["'\s\].=]|$)""")
        at = next((i for i in range(at, len(lines)) if wanted.search(lines[i])), at)
    return at + 1
