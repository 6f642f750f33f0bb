"""Data files -> checked values: what is missing, malformed or without evidence is a FactsError.
JSON -> values: what is not of the type that a value has is a ValueError."""

from __future__ import annotations

import collections.abc
import dataclasses
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from builders.errors import FactsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHA256 = re.compile(r"[0-9a-f]{64}")
GO = re.compile(r"1\.\d{1,2}(\.\d{1,2})?", re.ASCII)
#: What helps against a file of facts that is not as it should be.
RESTORE = "mend what was edited there, or take the file as it was released"

T = TypeVar("T")


def load_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain data; FactsError with file and position where it is broken."""
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # tomllib lets all of them out
        raise FactsError(f"cannot be read: {error}", place=str(path), next_step=RESTORE) from error
    return data


def checked(path: Path, build: Callable[[dict[str, Any]], T]) -> T:
    data = load_toml(path)
    try:
        return build(data)
    except KeyError as error:
        raise FactsError(
            f"the key {error.args[0]!r} is missing", place=str(path), next_step=RESTORE
        ) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise FactsError(str(error), place=str(path), next_step=RESTORE) from error


def matching(pattern: re.Pattern[str], value: object, name: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{name} is malformed: {value!r}")
    return value


def text(table: Mapping[str, Any], key: str) -> str:
    value = table[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} must be a text that says something")
    return value


def shaped(kind: Any, value: Any) -> Any:
    """A value of JSON as the type that is annotated: dataclasses with just their fields, tuples,
    mappings by text, what may be None, and plain values."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:
        kinds = [one for one in inner if one is not types.NoneType]
        return None if value is None else shaped(kinds[0], value)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if isinstance(value, dict) and set(value) == set(hints):
            fields = {name: shaped(hints[name], each) for name, each in value.items()}
            return typing.cast(Any, kind)(**fields)
    elif origin is tuple:
        if isinstance(value, list):
            return tuple(shaped(inner[0], each) for each in value)
    elif origin is collections.abc.Mapping:
        if isinstance(value, dict):
            return {name: shaped(inner[1], each) for name, each in value.items()}
    elif type(value) is kind:
        return value
    raise ValueError(f"{str(value)[:40]!r} stands where {getattr(kind, '__name__', kind)} should")


def differences(left: Any, right: Any, at: str = "") -> Iterator[str]:
    """Where two values of JSON are not the same."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(left | right):
            if key in left and key in right:
                yield from differences(left[key], right[key], f"{at}.{key}")
            else:
                yield f"{at}.{key}"
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for number, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from differences(one, other, f"{at}[{number}]")
    elif left != right:
        yield at or "all of it"
