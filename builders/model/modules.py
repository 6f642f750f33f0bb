"""The Go code that a source brings along, and which of it is in a binary. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

#: Go's own package by which a program calls C.
CGO = "runtime/cgo"


@dataclass(frozen=True, order=True)
class Module:
    """All packages at the import path `path` and below, but for those of another one there.

    `purl` is what it was taken from, `name` and `version` are in its words ("" where nothing says
    it), `known_by` what says so; `commit` and `sha256` (of a distribution's package) are "" where
    they are not known.
    """

    path: str
    name: str
    version: str
    purl: str
    known_by: str
    commit: str = ""
    sha256: str = ""


def attributed(
    packages: Iterable[str], modules: Iterable[Module], own: str
) -> tuple[frozenset[str], tuple[str, ...]]:
    """The paths of the modules that packages of a binary are of, and the packages that are neither
    of a module nor of the source itself, whose import path is `own`."""
    paths = {module.path for module in modules}
    found, strange = set(), []
    for package in packages:
        before, _, path = package.rpartition("/vendor/")
        module = path
        while module and module not in paths:
            module = module.rpartition("/")[0]
        if module:
            found.add(module)
        elif package != CGO and (before or not f"{package}/".startswith(f"{own}/")):
            strange.append(path)
    return frozenset(found), tuple(sorted(strange))
