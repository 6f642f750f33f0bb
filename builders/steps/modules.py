"""Source tree -> the modules that it vendors, as its own list of them says, of whichever age.

modules.txt names them since there are modules; before, Godeps.json (Kubernetes) and vendor.conf
(runc) name the commits of repositories. What a distribution put together names nothing: there the
package is known that holds the code.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping

from builders.errors import IntegrityError
from builders.model.artifact import SourceTree
from builders.model.components import module_of
from builders.model.modules import Module, attributed
from builders.model.plan import ComponentPlan
from builders.tools import archives, bom

VENDOR = "vendor/"
#: What a tag of a version looks like, and what `git describe` makes of one for a later commit.
TAG = re.compile(r"[vV]?\d+(\.\d+)*([-.+]\S*)?")
DESCRIBED = re.compile(r".*-\d+-g[0-9a-f]{6,}")
COMMIT = re.compile(r"[0-9a-f]{40}")
#: How many names of an import path are the repository's, by the first; of others it is two. Each
#: commit in the lists of 1.9 to 1.14 then has one repository, and each repository one commit.
REPOSITORY = {"bitbucket.org": 3, "github.com": 3, "go4.org": 1, "golang.org": 3, "gonum.org": 3}

HELD = "the Debian package that holds it"

Rows = Iterator[Module]


def vendored(
    component: ComponentPlan, source: SourceTree, patched: Mapping[str, bytes | None]
) -> tuple[Module, ...]:
    """The modules of a component's source, of which patches left the `patched` files, by path; none
    where it has no list of them. IntegrityError where the list cannot be read."""
    if source.parts:
        return tuple(sorted(set(_packages(component, source))))
    texts = archives.read(source.archive, source.strip, LISTS)
    texts |= {name: patched[name] for name in LISTS if name in patched}
    name = next((name for name in LISTS if texts[name] is not None), None)
    if name is None:
        return ()
    try:
        rows = list(LISTS[name](component, (texts[name] or b"").decode()))
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"what {component.name} {component.version} vendors cannot be read: {error}",
            place=name,
            next_step="compare that file with upstream's",
        ) from error
    if name == "Godeps/Godeps.json":  # which is silent about what is here itself
        links = archives.links(source.archive, source.strip, VENDOR)
        rows += [
            _own(component, path.removeprefix(VENDOR), target, "a link in vendor")
            for path, target in links.items()
        ]
    return tuple(sorted({row.path: row for row in rows}.values()))


def _own(component: ComponentPlan, path: str, place: str, known_by: str) -> Module:
    """A part of the source itself that is imported as if it were not."""
    name, version = module_of(component)
    return Module(path, path, version, bom.purl("golang", name, version, place), known_by)


def _module(path: str, name: str, version: str, known_by: str, commit: str = "") -> Module:
    return Module(path, name, version, bom.purl("golang", name, version), known_by, commit)


def _modules_txt(component: ComponentPlan, text: str) -> Rows:
    """Of "# path version => path version" what is right of the arrow, where there is one. Those
    without a version on the left are only named; and a package need not stand below its module,
    because Kubernetes sorts the lines from 1.19 on."""
    modules: dict[str, Module] = {}
    packages = []
    for line in text.splitlines():
        if line.startswith("# "):
            asked, _, instead = line[2:].partition(" => ")
            path, *version = asked.split()
            if instead.startswith("."):
                modules[path] = _own(component, path, instead, "vendor/modules.txt")
            elif version:
                name, taken = (instead or asked).split()
                modules[path] = _module(path, name, taken, "vendor/modules.txt")
        elif line and not line.startswith("#"):
            packages.append(line)
    linked, strange = attributed(packages, modules.values(), "")
    if strange:
        raise ValueError(f"{strange[0]} is of no module")
    yield from (modules[path] for path in linked)


def _godeps(component: ComponentPlan, text: str) -> Rows:
    del component
    for row in json.loads(text)["Deps"]:
        tag, commit = row.get("Comment", ""), row["Rev"]
        path = _repository(row["ImportPath"])
        version = tag if _is_version(tag) else commit
        yield _module(path, path, version, "Godeps/Godeps.json", commit)


def _vendor_conf(component: ComponentPlan, text: str) -> Rows:
    """A version that a comment gives to a commit is upstream's word, as in `abc... # v1.0.1`."""
    del component
    for line in text.splitlines():
        words, _, comment = (part.strip() for part in line.partition("#"))
        if words:
            path, revision, *_ = words.split()
            commit = revision if COMMIT.fullmatch(revision) else ""
            version = comment if commit and _is_version(comment) else revision
            yield _module(path, path, version, "vendor.conf", commit)


def _packages(component: ComponentPlan, source: SourceTree) -> Rows:
    """A distribution's packages, but for the component's own; and what one of them holds in a
    vendor folder, of which nothing says the version."""
    for row, folders in source.parts:
        name, version = row["package"], row["version"]
        plain = {folder for folder in folders if f"/{VENDOR}" not in folder}
        path = os.path.commonpath(plain) if plain else ""
        if path and path != module_of(component)[0]:
            yield Module(path, name, version, bom.debian(row), HELD, sha256=row["sha256"])
        for folder in folders - plain:
            path = _repository(folder.rpartition(f"/{VENDOR}")[2])
            yield _module(path, path, "", f"a vendor folder in Debian's {name} {version}")


def _repository(path: str) -> str:
    """The import path of the repository that a package is in."""
    names = path.split("/")
    count = REPOSITORY.get(names[0], 2)
    if names[0] == "gopkg.in":  # gopkg.in/yaml.v2, gopkg.in/square/go-jose.v2
        count = next((at for at, name in enumerate(names, 1) if ".v" in name), count)
    return "/".join(names[:count])


def _is_version(tag: str) -> bool:
    return bool(TAG.fullmatch(tag)) and not DESCRIBED.fullmatch(tag)


#: The lists, the newer ones first, and how each is read.
LISTS: Mapping[str, Callable[[ComponentPlan, str], Rows]] = {
    "vendor/modules.txt": _modules_txt,
    "Godeps/Godeps.json": _godeps,
    "vendor.conf": _vendor_conf,
}
