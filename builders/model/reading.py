"""Data files -> checked values: what is missing, malformed or without evidence is a FactsError."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from builders.errors import FactsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHA256 = re.compile(r"[0-9a-f]{64}")
GO = re.compile(r"1\.\d{1,2}(\.\d{1,2})?", re.ASCII)

T = TypeVar("T")


def load_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain data; FactsError with file and position where it is broken."""
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # tomllib lets all of them out
        raise FactsError(f"cannot be read: {error}", place=str(path)) from error
    return data


def checked(path: Path, build: Callable[[dict[str, Any]], T]) -> T:
    data = load_toml(path)
    try:
        return build(data)
    except KeyError as error:
        raise FactsError(f"the key {error.args[0]!r} is missing", place=str(path)) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise FactsError(str(error), place=str(path)) from error


def matching(pattern: re.Pattern[str], value: object, name: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{name} is malformed: {value!r}")
    return value


def text(table: Mapping[str, Any], key: str) -> str:
    value = table[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} must be a text that says something")
    return value
