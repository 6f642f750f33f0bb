"""Plan -> verified files or commits -> source trees. A provider is one kind of place that holds
sources.

What comes from a distribution is known by its sha256 before it is asked for and checked against
the signed archive; what comes from git is known by its commit id, which the tag must be.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from builders.errors import IntegrityError
from builders.model.artifact import SourceTree
from builders.model.plan import ComponentPlan
from builders.tools import apt, gitrepo
from builders.tools.cache import Cache
from builders.tools.download import Downloader, OnBytes

GOCODE = "usr/share/gocode/"
PARALLEL = 6
#: Where a mirror of a component's repository may be named.
REPOSITORY_VARIABLES = {"runc": "NOKMEM_RUNC_REPOSITORY"}

Say = Callable[[str], None]


class Provider(Protocol):
    """A place that holds sources."""

    def fetch(self, component: ComponentPlan, on_bytes: OnBytes) -> None:
        """Leave all that the component needs in the cache, verified."""

    def tree(self, component: ComponentPlan, folder: Path) -> SourceTree:
        """One tar of the component's source; made in `folder` where it has to be made."""


def provider(
    component: ComponentPlan,
    cache: Cache,
    environment: Mapping[str, str],
    folders: Mapping[str, Path],
    say: Say,
) -> Provider:
    """The provider that the plan names for a component; `folders` holds the user's own."""
    if component.source.provider == "git":
        url = environment.get(REPOSITORY_VARIABLES.get(component.name, "")) or component.source.url
        return Git(cache, url)
    if component.source.provider == "dir":
        return Folder(folders[component.name], say)
    return Debian(cache, environment)


class Debian:
    """The distribution's archives, by the machine's or the user's mirrors."""

    def __init__(self, cache: Cache, environment: Mapping[str, str]) -> None:
        self._cache = cache
        self._environment = environment

    def fetch(self, component: ComponentPlan, on_bytes: OnBytes) -> None:
        self.fetch_files(component.source.files, on_bytes)

    def fetch_files(self, files: Iterable[Mapping[str, Any]], on_bytes: OnBytes) -> None:
        """Leave every file of a plan in the cache, verified."""
        missing = [row for row in files if not self._cache.holds(row["sha256"])]
        if not missing:
            return
        pins = [apt.Pinned(**row) for row in missing]
        with Downloader(apt.proxies(self._environment)) as downloader:
            mirrors, keyring = apt.mirrors(self._environment), apt.keyring(self._environment)
            archive = apt.Archive(downloader, mirrors, keyring)
            archive.confirm(pins)

            def get(pin: apt.Pinned) -> None:
                downloader.fetch(
                    archive.url(pin.suite, pin.path),
                    self._cache.file(pin.sha256),
                    sha256=pin.sha256,
                    size=pin.size,
                    on_bytes=on_bytes,
                )

            with ThreadPoolExecutor(PARALLEL) as pool:
                for _ in pool.map(get, pins):
                    pass

    def tree(self, component: ComponentPlan, folder: Path) -> SourceTree:
        first = component.source.files[0]
        if first["architecture"] == "source":
            archive = self._cache.file(first["sha256"])
            _refuse_other_commit(archive, component)
            return SourceTree(component.name, archive, strip=1)
        path = folder / f"{component.name}.tar"
        _merge_gocode([self._cache.file(row["sha256"]) for row in component.source.files], path)
        return SourceTree(component.name, path, strip=0)


class Git:
    """Upstream's repository, or the user's mirror of it; one bare store for all versions."""

    def __init__(self, cache: Cache, url: str) -> None:
        self._cache = cache
        self._url = url

    def fetch(self, component: ComponentPlan, on_bytes: OnBytes) -> None:
        del on_bytes  # git does not say
        store = self._store(component)
        with self._cache.lock(f"git-{store.name}"):
            source = component.source
            gitrepo.fetch(store, self._url, source.revision, source.commit)

    def tree(self, component: ComponentPlan, folder: Path) -> SourceTree:
        path = folder / f"{component.name}.tar"
        gitrepo.archive(self._store(component), component.source.commit, path)
        return SourceTree(component.name, path, strip=0)

    def _store(self, component: ComponentPlan) -> Path:
        return self._cache.repository(f"{component.name}.git")


class Folder:
    """A checkout or bare repository of the user's. The planned commit is taken from it; files
    that are not committed play no part, and that is said."""

    def __init__(self, folder: Path, say: Say) -> None:
        self._folder = folder
        self._say = say

    def fetch(self, component: ComponentPlan, on_bytes: OnBytes) -> None:
        del on_bytes
        checkout = gitrepo.look(self._folder)
        if checkout.dirty:
            self._say(f"{self._folder} has changes that are not committed: they are not built")
        if checkout.head != component.source.commit:
            self._say(
                f"{self._folder} stands at {checkout.head[:12]}, "
                f"built is {component.source.revision} ({component.source.commit[:12]})"
            )

    def tree(self, component: ComponentPlan, folder: Path) -> SourceTree:
        path = folder / f"{component.name}.tar"
        gitrepo.archive(self._folder, component.source.commit, path)
        return SourceTree(component.name, path, strip=0)


def _refuse_other_commit(archive: Path, component: ComponentPlan) -> None:
    """Upstream's `git archive` names its commit in the header; it must be the planned one."""
    with tarfile.open(archive) as tar:
        tar.next()
        commit = tar.pax_headers.get("comment", "no commit")
    if commit != component.source.commit:
        raise IntegrityError(
            f"the archive was made of {commit}, planned is {component.source.commit}",
            place=str(archive),
            next_step="this is a fault in the project's data: report it with `invoke plan`",
        )


def _merge_gocode(debs: Iterable[Path], destination: Path) -> None:
    """One GOPATH out of many -dev packages: what they have below /usr/share/gocode."""
    with tarfile.open(destination, "w", format=tarfile.PAX_FORMAT) as tar:
        seen: set[str] = set()
        for deb in debs:
            with apt.deb_data(deb) as data:
                for member in data:
                    name = os.path.normpath(member.name)
                    if not name.startswith(GOCODE):
                        continue
                    member.name = name[len(GOCODE) :]
                    if member.islnk():
                        member.linkname = os.path.normpath(member.linkname)[len(GOCODE) :]
                    if member.name in seen:
                        continue
                    seen.add(member.name)
                    tar.addfile(member, data.extractfile(member) if member.isreg() else None)
