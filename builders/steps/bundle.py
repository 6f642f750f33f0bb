"""Cache, project and dist folders -> one file, and back into a cache that has no network.

    nokmem/          for people: the project at its commit, ready to run
      wheels/          its Python requirements
      dist/, keys/     proven dist folders, the public keys that signed them
      own-patches/     a series of the user's own
    cache/           for --from-bundle: what `fetch` would leave
      files/           by their sha256
      git/             commits of a component, as one pack

Nothing of it reaches the cache before all of it was read and found to be as its index says; and
what is in the cache is used only where a plan of this very checkout pins it.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from builders import __version__
from builders.errors import IntegrityError, UsageError
from builders.model.artifact import SUMS, Manifest
from builders.model.plan import BuildPlan, BuildRequest, ToolchainPlan
from builders.tools import gitrepo, gpg, parcel, wheels
from builders.tools.cache import Cache
from builders.tools.parcel import Item, Member, OnBytes, Parcel

SCHEMA = 1
SCHEMA_FILE = Path(__file__).parents[1] / "model/bundle.schema.json"
PROJECT = "nokmem"
WHEELS, DIST, KEYS, PATCHES = (
    f"{PROJECT}/{name}" for name in ("wheels", "dist", "keys", "own-patches")
)
FILES, GIT = "cache/files", "cache/git"
KEY = "RPM-GPG-KEY-"

Say = Callable[[str], None]


@dataclass(frozen=True)
class About:
    """What a bundle says of itself. `made_for` are the words that build there what it was made
    for; `repositories` has the commits of a component by their tags."""

    commit: str
    python: str
    made_for: tuple[str, ...]
    repositories: Mapping[str, Mapping[str, str]]
    dists: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Taken:
    """A bundle that was read to its end: the files and packs of it that were unpacked."""

    about: About
    files: Mapping[str, Path]
    packs: Mapping[str, Path]


def words(request: BuildRequest) -> str:
    """The options that ask for just this, where the sources are in the cache."""
    sources = {
        "k8s-source": request.kubernetes_source.replace("dir", "git"),
        "runc-source": request.runc_source.replace("dir", "git"),
    }
    given = {
        "k8s": request.kubernetes,
        **{name: getattr(request, name) for name in ("variant", "target", "runc", "toolchain")},
        "go": request.go,
        **{option: kind for option, kind in sources.items() if kind != "archive"},
        "kubelet-tags": " ".join(request.kubelet_tags),
        "runc-tags": " ".join(request.runc_tags),
    }
    usual = {"variant": "nokmem", "target": "el7", "kubelet-tags": "", "runc-tags": "seccomp"}
    said = [f"--{name}={value}" for name, value in given.items() if usual.get(name) != value]
    return shlex.join([*said, *(["--stamp"] if request.stamp else [])])


def files(plans: Iterable[BuildPlan], toolchains: Iterable[ToolchainPlan]) -> set[str]:
    """The sha256 of all that plans and toolchains need of the cache's files."""
    found = {row["sha256"] for one in toolchains for row in one.packages}
    for plan in plans:
        found |= {row["sha256"] for part in plan.components for row in part.source.files}
        found |= {go.archive["sha256"] for go in plan.toolchain.go if go.archive}
    return found


def project(folder: Path, scratch: Path, say: Say) -> tuple[str, int, list[Item]]:
    """The project as it was committed: the commit, its time, its files.

    UsageError where the folder is no clone.
    """
    if not (folder / ".git").exists():
        raise UsageError(
            "this is no clone of the project, and a bundle holds a commit of it",
            place=str(folder),
            next_step="bundle where it was cloned",
        )
    checkout = gitrepo.look(folder)
    if checkout.dirty:
        say(f"{folder} has changes that are not committed: they are not in the bundle")
    items = []
    for path, (executable, content) in gitrepo.tree(folder, checkout.head).items():
        source = scratch / PROJECT / path
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(content)
        items.append(Item(f"{PROJECT}/{path}", source, executable))
    return checkout.head, gitrepo.epoch(folder, checkout.head), items


def requirements(scratch: Path, environment: Mapping[str, str]) -> list[Item]:
    """The wheels that ./run of the project in `scratch` needs, for the Python that runs this."""
    folder = scratch / "wheels"
    folder.mkdir()
    wheels.download(scratch / PROJECT / "requirements/run.txt", folder, environment)
    return [Item(f"{WHEELS}/{path.name}", path) for path in folder.iterdir()]


def dist(folder: Path, described: Manifest) -> list[Item]:
    """The files of a proven dist folder."""
    place = f"{DIST}/{described.kubernetes}"
    return [
        Item(f"{place}/{path.name}", path, bool(path.stat().st_mode & 0o100))
        for path in folder.iterdir()
    ]


def keys(
    dists: Iterable[tuple[Path, Manifest]], scratch: Path, environment: Mapping[str, str]
) -> dict[str, Item]:
    """The public keys that signed dist folders, by fingerprint, each seen to have done so.

    PackageError where one is not in the keyring, or signed something else.
    """
    found = {}
    for folder, described in dists:
        for signer in sorted({row["signed_by"] for row in described.data["packages"]} - {""}):
            path = scratch / f"{KEY}{signer}"
            path.write_bytes(gpg.public(signer, environment))
            gpg.verified(folder / SUMS, path)
            found[signer] = Item(f"{KEYS}/{path.name}", path)
    return found


def own_patches(folder: Path) -> list[Item]:
    """A series of the user's own."""
    return [
        Item(f"{PATCHES}/{path.relative_to(folder)}", path)
        for part in ("kubernetes", "runc")
        for path in (folder / part).rglob("*")
        if path.is_file()
    ]


def cached(cache: Cache, sha256s: Iterable[str]) -> list[Item]:
    """Files of the cache."""
    return [Item(f"{FILES}/{sha256}", cache.file(sha256)) for sha256 in sha256s]


def packed(name: str, repository: Path, commits: Iterable[str], scratch: Path) -> Item:
    """Commits of a component's repository."""
    path = scratch / f"{name}.pack"
    gitrepo.pack(repository, commits, path)
    return Item(f"{GIT}/{path.name}", path)


def write(place: Path, about: About, items: Iterable[Item], epoch: int, on_bytes: OnBytes) -> str:
    """Write the bundle; its sha256."""
    said = {"schema": SCHEMA, "nokmem": __version__, **dataclasses.asdict(about)}
    return parcel.write(place, said, list(items), epoch, on_bytes)


def python() -> str:
    """The Python that runs this, as wheels know it."""
    return ".".join(platform.python_version_tuple()[:2])


def take(
    place: Path,
    cache: Cache,
    scratch: Path,
    lacks: Callable[[str, Iterable[str]], bool],
    on_bytes: OnBytes,
) -> Taken:
    """Read a bundle to its end, and unpack into `scratch` what the cache does not hold; of a
    component's commits `lacks` says whether it does."""
    with parcel.opened(place) as found:
        about = _about(found, place)
        sha256s = {m.sha256 for m in found.members if m.name.startswith(f"{FILES}/")}
        missing = {one for one in sha256s if not cache.holds(one)}
        wanted = {
            name: tagged
            for name, tagged in about.repositories.items()
            if lacks(name, tagged.values())
        }
        names = {f"{FILES}/{one}" for one in missing} | {f"{GIT}/{name}.pack" for name in wanted}
        found.read(lambda m: scratch / m.name if m.name in names else None, on_bytes)
    return Taken(
        about,
        {one: scratch / FILES / one for one in missing},
        {name: scratch / GIT / f"{name}.pack" for name in wanted},
    )


def unpack_dists(place: Path, scratch: Path, on_bytes: OnBytes) -> tuple[tuple[Member, ...], About]:
    """Read a bundle to its end, and unpack its dist folders into `scratch`/nokmem/dist."""
    with parcel.opened(place) as found:
        about = _about(found, place)
        found.read(lambda m: scratch / m.name if m.name.startswith(f"{DIST}/") else None, on_bytes)
        return found.members, about


def contents(members: Iterable[Member], about: About) -> list[tuple[str, str]]:
    """What a bundle holds beside the project and dist folders, and for what, in rows."""
    sizes: dict[str, list[int]] = {}
    for member in members:
        sizes.setdefault(member.name.rpartition("/")[0], []).append(member.size)

    def count(place: str) -> str:
        found = sizes.get(place, [])
        return f"{len(found)} files, {sum(found) / 1e6:.1f} MB"

    return [
        ("Python packages", f"{count(WHEELS)}, for Python {about.python}"),
        ("sources and tools", count(FILES)),
        *((f"commits of {name}", ", ".join(tags)) for name, tags in about.repositories.items()),
        *(("public key", fingerprint) for fingerprint in about.keys),
    ]


def _about(found: Parcel, place: Path) -> About:
    """What it says of itself, where the files are those of which it speaks."""
    said: dict[str, Any] = dict(found.about)
    if said.get("schema") != SCHEMA:
        raise IntegrityError(
            f"bundle schema {said.get('schema')!r} is not {SCHEMA}, the one this version reads",
            place=str(place),
            next_step=f"use the nokmem that is in it: tar -xf {place.name} {PROJECT}",
        )
    try:
        jsonschema.validate(said, json.loads(SCHEMA_FILE.read_text()))
    except jsonschema.ValidationError as error:
        raise _foreign(f"malformed at {error.json_path}", place) from error
    about = About(
        commit=said["commit"],
        python=said["python"],
        made_for=tuple(said["made_for"]),
        repositories=said["repositories"],
        dists=tuple(said["dists"]),
        keys=tuple(said["keys"]),
    )
    packs = {f"{GIT}/{name}.pack" for name in about.repositories}
    signed = {f"{KEYS}/{KEY}{fingerprint}" for fingerprint in about.keys}
    folders = {f"{DIST}/{name}" for name in about.dists}
    there = [member.name for member in found.members]
    strange = [m.name for m in found.members if not _belongs(m, packs)]
    absent = [*(packs - set(there)), *(signed - set(there))]
    absent += folders - {name.rpartition("/")[0] for name in there}
    more = [n for n in there if n.startswith(f"{DIST}/") and n.rpartition("/")[0] not in folders]
    if strange or absent or more:
        raise _foreign(f"what it says of {[*strange, *absent, *more][0]} is not so", place)
    return about


def _belongs(member: Member, packs: Iterable[str]) -> bool:
    if member.name.startswith(f"{FILES}/"):
        return member.name == f"{FILES}/{member.sha256}"
    return member.name.startswith(f"{PROJECT}/") or member.name in packs


def _foreign(fact: str, place: Path) -> IntegrityError:
    return IntegrityError(
        f"no bundle of nokmem's is like this: {fact}",
        place=str(place),
        next_step="give the file that `bundle` has made",
    )
