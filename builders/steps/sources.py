"""Plan -> verified files or commits -> source trees. A provider is one kind of place that holds
sources.

What comes from a distribution is known by its sha256 before it is asked for and checked against
the signed archive; what comes from git is known by its commit id, which the tag must be; an
archive of the user's own by the sha256 that came with it.
"""

from __future__ import annotations

import os
import shlex
import tarfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from builders.errors import BusyError, IntegrityError, UnavailableError, UsageError
from builders.model.artifact import SourceTree
from builders.model.plan import ComponentPlan, GoPlan
from builders.tools import apt, archives, gitrepo
from builders.tools.archives import Say
from builders.tools.cache import Cache
from builders.tools.download import Downloader, OnBytes, below, shown

GOCODE = "usr/share/gocode/"
PARALLEL = 6
#: Where mirrors of a component's repository may be named.
REPOSITORY_VARIABLES = {
    "kubelet": "NOKMEM_KUBERNETES_REPOSITORY",
    "runc": "NOKMEM_RUNC_REPOSITORY",
}
GO_VARIABLE = "NOKMEM_GO_MIRROR"

OnLine = Callable[[str], None]


@dataclass(frozen=True)
class Places:
    """Where the user keeps things. None of it is in a plan, and none of it changes a byte.

    `environment` names mirrors and proxies; `folders` has a repository by the component's name,
    `archives` a file or URL by its sha256.
    """

    environment: Mapping[str, str]
    folders: Mapping[str, Path] = field(default_factory=dict)
    archives: Mapping[str, str] = field(default_factory=dict)


class Provider(Protocol):
    """A place that holds sources."""

    def missing(self, component: ComponentPlan) -> list[str]:
        """What would have to be fetched, by name."""

    def fetch(self, component: ComponentPlan, on_bytes: OnBytes, on_line: OnLine) -> None:
        """Leave all that the component needs in the cache, verified."""

    def tree(self, component: ComponentPlan, folder: Path) -> SourceTree:
        """One tar of the component's source; made in `folder` where it has to be made."""

    def read(
        self, component: ComponentPlan, paths: Iterable[str], folder: Path
    ) -> dict[str, bytes | None]:
        """The plain files of the source at those paths, None where there is none."""

    def repository(self, component: ComponentPlan) -> Path | None:
        """The repository that the commit is read from, None where files are the source."""


def provider(component: ComponentPlan, cache: Cache, places: Places, say: Say) -> Provider:
    """The provider that the plan names for a component."""
    kind = component.source.provider
    if kind == "git":
        urls = repositories(component, places.environment, component.source.url)
        return Git(cache, urls, say)
    if kind == "dir":
        if component.name not in places.folders:
            raise UsageError(
                f"{component.name} is built from a folder, and none is named",
                place=f"--{'k8s' if component.name == 'kubelet' else component.name}-source",
                next_step="name the folder with its repository",
            )
        return Folder(places.folders[component.name], say)
    if kind == "archive":
        return Archive(cache, places, say)
    return Debian(cache, places.environment, say)


def repositories(
    component: ComponentPlan, environment: Mapping[str, str], upstream: str
) -> list[str]:
    """The user's mirrors of a component's repository, or upstream's."""
    mirrors = _named(environment, REPOSITORY_VARIABLES[component.name]) or [upstream]
    # A path is one from here; git works elsewhere.
    return [m if ":" in m else str(Path(m).absolute()) for m in mirrors]


def _named(environment: Mapping[str, str], variable: str) -> list[str]:
    """The places in a variable, blanks between them; one that has blanks itself is quoted."""
    try:
        return shlex.split(environment.get(variable, ""))
    except ValueError as error:
        raise UsageError(
            f"the places here cannot be told apart: {error}",
            place=variable,
            next_step="write an apostrophe in an address as %27",
        ) from error


class Debian:
    """The distribution's archives, by the machine's or the user's mirrors."""

    def __init__(self, cache: Cache, environment: Mapping[str, str], say: Say) -> None:
        self._cache = cache
        self._environment = environment
        self._say = say

    def missing(self, component: ComponentPlan) -> list[str]:
        return self.missing_files(component.source.files)

    def missing_files(self, files: Iterable[Mapping[str, Any]]) -> list[str]:
        """The names of those files of a plan that are not in the cache."""
        return [
            row["path"].rpartition("/")[2] for row in files if not self._cache.holds(row["sha256"])
        ]

    def fetch(self, component: ComponentPlan, on_bytes: OnBytes, on_line: OnLine) -> None:
        del on_line
        self.fetch_files(component.source.files, on_bytes)

    def fetch_files(self, files: Iterable[Mapping[str, Any]], on_bytes: OnBytes) -> None:
        """Leave every file of a plan in the cache, verified."""
        missing = [row for row in files if not self._cache.holds(row["sha256"])]
        if not missing:
            return
        pins = [apt.Pinned(**row) for row in missing]
        with Downloader(apt.proxies(self._environment)) as downloader:
            mirrors = apt.mirrors(self._environment)
            # A machine that knows no mirror needs no keyring to be told so.
            keyring = apt.keyring(self._environment) if any(mirrors.values()) else Path()
            archive = apt.Archive(downloader, mirrors, keyring)
            archive.confirm(pins)

            def get(pin: apt.Pinned) -> None:
                places = archive.urls(pin.suite, pin.path)
                archives.obtain(
                    self._cache, pin.sha256, places, downloader, on_bytes, self._say, pin.size
                )

            with ThreadPoolExecutor(PARALLEL) as pool:
                for _ in pool.map(get, pins):
                    pass

    def tree(self, component: ComponentPlan, folder: Path) -> SourceTree:
        first = component.source.files[0]
        if first["architecture"] == "source":
            archive = self._cache.file(first["sha256"])
            if not _refuse_other_commit(archive, component):
                raise IntegrityError(
                    "the archive names no commit",
                    place=str(archive),
                    next_step="remove it, so that it is fetched again",
                )
            return SourceTree(component.name, archive, strip=1)
        path = folder / f"{component.name}.tar"
        rows = component.source.files
        folders = _merge_gocode([self._cache.file(row["sha256"]) for row in rows], path)
        return SourceTree(component.name, path, 0, tuple(zip(rows, folders, strict=True)))

    def read(
        self, component: ComponentPlan, paths: Iterable[str], folder: Path
    ) -> dict[str, bytes | None]:
        source = self.tree(component, folder)
        return archives.read(source.archive, source.strip, paths)

    def repository(self, component: ComponentPlan) -> Path | None:
        del component
        return None


class Git:
    """Upstream's repository, or the user's mirrors of it; one bare store for all versions."""

    def __init__(self, cache: Cache, urls: Iterable[str], say: Say) -> None:
        self._cache = cache
        self._urls = tuple(urls)
        self._say = say

    def missing(self, component: ComponentPlan) -> list[str]:
        source = component.source
        if gitrepo.holds(self._store(component), source.commit):
            return []
        return [f"commit {source.commit} ({source.revision} of {component.name}'s repository)"]

    def fetch(self, component: ComponentPlan, on_bytes: OnBytes, on_line: OnLine) -> None:
        del on_bytes  # git says it in words
        store, source = self._store(component), component.source
        with self._cache.lock(f"git-{store.name}"):
            gitrepo.fetch(store, self._urls, source.revision, source.commit, on_line, self._say)

    def tree(self, component: ComponentPlan, folder: Path) -> SourceTree:
        path = folder / f"{component.name}.tar"
        gitrepo.archive(self._store(component), component.source.commit, path)
        return SourceTree(component.name, path, strip=0)

    def read(
        self, component: ComponentPlan, paths: Iterable[str], folder: Path
    ) -> dict[str, bytes | None]:
        del folder
        return gitrepo.read(self._store(component), component.source.commit, paths)

    def repository(self, component: ComponentPlan) -> Path | None:
        return self._store(component)

    def _store(self, component: ComponentPlan) -> Path:
        return store(self._cache, component.name)


def store(cache: Cache, name: str) -> Path:
    """Where the commits of a component are kept."""
    return cache.repository(f"{name}.git")


def lacks(cache: Cache, name: str, commits: Iterable[str]) -> bool:
    """Whether any of a component's commits would have to be fetched."""
    return not all(gitrepo.holds(store(cache, name), commit) for commit in commits)


def adopt(
    cache: Cache, name: str, packed: Path, tagged: Mapping[str, str], room: Path, say: Say
) -> None:
    """Leave a component's commits, which a pack holds, in the cache, verified."""
    with cache.lock(f"git-{store(cache, name).name}"):
        gitrepo.adopt(store(cache, name), packed, tagged, room, say)


def sweep(cache: Cache) -> None:
    """End and remove what killed runs left in the stores of git; one that is at work stays."""
    for store in cache.repositories():
        with suppress(BusyError), cache.lock(f"git-{store.name}", wait=False):
            gitrepo.clean(store)


class Folder:
    """A checkout or bare repository of the user's. The planned commit is taken from it; files
    that are not committed play no part, and that is said."""

    def __init__(self, folder: Path, say: Say) -> None:
        self._folder = folder
        self._say = say

    def missing(self, component: ComponentPlan) -> list[str]:
        del component
        return []  # what is not in the folder is no matter of a network

    def fetch(self, component: ComponentPlan, on_bytes: OnBytes, on_line: OnLine) -> None:
        del on_bytes, on_line
        checkout = gitrepo.look(self._folder)
        gitrepo.read(self._folder, component.source.commit, [])  # says so where it is not there
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

    def read(
        self, component: ComponentPlan, paths: Iterable[str], folder: Path
    ) -> dict[str, bytes | None]:
        del folder
        return gitrepo.read(self._folder, component.source.commit, paths)

    def repository(self, component: ComponentPlan) -> Path | None:
        del component
        return self._folder


class Archive:
    """An archive of the user's own, known by its sha256."""

    def __init__(self, cache: Cache, places: Places, say: Say) -> None:
        self._cache = cache
        self._places = places
        self._say = say

    def missing(self, component: ComponentPlan) -> list[str]:
        (row,) = component.source.files
        place = self._places.archives.get(row["sha256"], "")
        local = "://" not in place and Path(place).is_file()
        return [] if local or self._cache.holds(row["sha256"]) else [row["path"]]

    def fetch(self, component: ComponentPlan, on_bytes: OnBytes, on_line: OnLine) -> None:
        del on_line
        (row,) = component.source.files
        place = self._places.archives.get(row["sha256"])
        with Downloader(apt.proxies(self._places.environment)) as downloader:
            places = [place] if place else []
            archives.obtain(self._cache, row["sha256"], places, downloader, on_bytes, self._say)
        archive = self._cache.file(row["sha256"])
        try:
            archives.strip(archive)  # reads it to its end
            says = _refuse_other_commit(archive, component)
        except IntegrityError as error:
            error.place = shown(place or row["path"])  # the user's word for it, not the cache's
            raise
        if not says:
            self._say(f"{row['path']} does not say which commit it was made of")

    def tree(self, component: ComponentPlan, folder: Path) -> SourceTree:
        archive = self._cache.file(component.source.files[0]["sha256"])
        tar = archives.unpacked(archive, folder / f"{component.name}.tar")
        return SourceTree(component.name, tar, archives.strip(archive))

    def read(
        self, component: ComponentPlan, paths: Iterable[str], folder: Path
    ) -> dict[str, bytes | None]:
        source = self.tree(component, folder)
        return archives.read(source.archive, source.strip, paths)

    def repository(self, component: ComponentPlan) -> Path | None:
        del component
        return None


class GoArchives:
    """Go, as upstream or a mirror has it: archives known by their sha256."""

    def __init__(self, cache: Cache, places: Places, upstream: str, say: Say) -> None:
        self._cache = cache
        self._places = places
        self._upstream = upstream
        self._say = say

    def missing(self, go: GoPlan) -> list[str]:
        """The archive's name where it would have to be fetched from elsewhere."""
        if not go.archive or self._cache.holds(go.archive["sha256"]):
            return []
        local = [p for p in self._where(go) if "://" not in p and Path(p).is_file()]
        return [] if local else [go.archive["name"]]

    def answer(self, go: GoPlan) -> str | None:
        """None where it is here or some place answers for it, else the reason why not."""
        if not self.missing(go):
            return None
        with Downloader(apt.proxies(self._places.environment)) as downloader:
            reasons = [
                downloader.answers(place) if "://" in place else "no such file"
                for place in self._where(go)
            ]
        return None if None in reasons else str(reasons[-1])

    def fetch(self, go: GoPlan, on_bytes: OnBytes) -> None:
        """Leave the archive in the cache, verified."""
        if go.archive:
            with Downloader(apt.proxies(self._places.environment)) as downloader:
                sha256 = go.archive["sha256"]
                archives.obtain(
                    self._cache, sha256, self._where(go), downloader, on_bytes, self._say
                )

    def file(self, go: GoPlan) -> Path:
        """The archive in the cache."""
        return self._cache.file(go.archive["sha256"])

    def _where(self, go: GoPlan) -> list[str]:
        own = self._places.archives.get(go.archive["sha256"])
        if own:
            return [own]
        mirrors = _named(self._places.environment, GO_VARIABLE) or [self._upstream]
        return [below(mirror, go.archive["name"]) for mirror in mirrors]


def refuse_offline(missing: Iterable[str], bundle: Path | None = None) -> None:
    """UnavailableError that names everything at once, where anything is missing."""
    names = tuple(dict.fromkeys(missing))
    if names:
        raise UnavailableError(
            f"{'bundle and cache lack' if bundle else 'the cache lacks'} {len(names)} of the "
            "things needed",
            place=str(bundle or "--offline"),
            next_step="ask for what it was made for, as `verify --from-bundle` says it, or bundle "
            "this where there is a network"
            if bundle
            else "run `fetch` with the same options where there is a network",
            detail=names,
        )


def _refuse_other_commit(archive: Path, component: ComponentPlan) -> bool:
    """Upstream's `git archive` names its commit in the header; it must be the planned one. False
    where it names none."""
    commit = archives.commit(archive)
    if commit and commit != component.source.commit:
        raise IntegrityError(
            f"the archive was made of {commit}, planned is {component.source.commit}",
            place=str(archive),
            next_step=f"give an archive of {component.source.revision}",
        )
    return bool(commit)


def _merge_gocode(debs: Iterable[Path], destination: Path) -> list[frozenset[str]]:
    """One GOPATH out of many -dev packages: what they have below /usr/share/gocode. The import
    paths that each has Go code at."""
    found = []
    with tarfile.open(destination, "w", format=tarfile.PAX_FORMAT) as tar:
        seen: set[str] = set()
        for deb in debs:
            paths: set[str] = set()
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
                    if member.name.endswith(".go"):
                        paths.add(os.path.dirname(member.name).removeprefix("src/"))
                    tar.addfile(member, data.extractfile(member) if member.isreg() else None)
            found.append(frozenset(paths))
    return found
