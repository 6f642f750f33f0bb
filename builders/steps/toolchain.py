"""Plan -> toolchain: a tree with Go, gcc and rpm, made once for each key and then reused.

The seed is what `debootstrap --foreign` would leave: the required packages unpacked over
merged /usr links, all packages beside them, and debootstrap's own second stage. It is put
together here because unpacking needs neither root nor a running tree, so that an engine on
another machine can be given the same seed as the embedded builder.
"""

from __future__ import annotations

import io
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from builders.errors import UsageError
from builders.model.plan import ToolchainPlan
from builders.tools import apt
from builders.tools.builder import Builder, Recipe
from builders.tools.cache import Cache
from builders.tools.download import is_url
from builders.tools.process import OnLine
from builders.tools.render import render

#: /X is a link to usr/X in a merged tree (debootstrap's setup_merged_usr, amd64).
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
#: debootstrap wants a mirror's name for the index it reads; the second stage opens no network.
NO_MIRROR = "http://mirror.invalid"
#: What the user may name instead of upstream's: a mirror of the base image, of the vault.
IMAGE_VARIABLE = "NOKMEM_BASE_IMAGE"
VAULT_VARIABLE = "NOKMEM_VAULT"
#: The name of an image as engines write it: registry, path, perhaps a tag; no login, no digest.
IMAGE_NAME = re.compile(
    r"(?:(?:[\w.-]+|\[[0-9a-fA-F:]+\])(?::\d+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[\w.-]+)?",
    re.ASCII,
)
PROXIES = ("http_proxy", "https_proxy", "no_proxy")


def ensure(
    builder: Builder,
    plan: ToolchainPlan,
    cache: Cache,
    recipes: Path,
    environment: Mapping[str, str],
    fetch: Callable[[], object],
    on_line: OnLine,
) -> bool:
    """Make the plan's toolchain unless it is there; True where it had to be made.

    `recipes` has a folder for each recipe. `fetch` is called before, only if needed, and leaves
    every package in the cache.
    """
    if builder.has(plan.key):
        return False
    with cache.lock(f"toolchain-{builder.name}-{plan.key}"):
        if builder.has(plan.key):
            return False
        fetch()
        folder = recipes / plan.recipe
        if plan.image is not None:
            builder.make(plan.key, image_recipe(plan.image, folder, environment), on_line)
            return True
        with cache.scratch() as scratch:
            seed = scratch / "seed.tar"
            write_seed(plan, cache, folder, seed)
            recipe = Recipe(folder / "Dockerfile", {"seed.tar": seed}, seed="seed.tar")
            builder.make(plan.key, recipe, on_line)
    return True


def base_image(image: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """The base by digest, under upstream's name or the user's for it (NOKMEM_BASE_IMAGE)."""
    name = environment.get(IMAGE_VARIABLE) or image["name"]
    if not IMAGE_NAME.fullmatch(name):
        raise UsageError(
            "this is not the name of an image (it is not shown: it may hold a password)",
            place=IMAGE_VARIABLE,
            next_step="write it as registry.example/centos, without a digest; `docker login` "
            "keeps passwords",
        )
    return f"{name}@{image['digest']}"


def image_recipe(image: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> Recipe:
    """A toolchain on a base image: its only repositories are those of the vault."""
    base = base_image(image, environment)
    vault = environment.get(VAULT_VARIABLE) or image["vault"]
    if not is_url(vault) or re.search(r"[@?#\s]", vault):
        raise UsageError(
            "this is not a plain URL (it is not shown: it may hold a password, which would stay "
            "in the image)",
            place=VAULT_VARIABLE,
            next_step="write it as https://host/centos, of a mirror that asks for no login",
        )
    repositories = render(
        folder / "vault.repo.j2",
        vault=vault.rstrip("/"),
        release=image["release"],
        repositories=image["repositories"],
        key=image["key"],
    )
    packages = "".join(f"{package}\n" for package in image["packages"])
    # Under both names, because programs differ in which they read; the small one wins, as in
    # Python. Engines know them unasked and keep them out of an image's history.
    proxies = {
        spelled: value
        for name in PROXIES
        if (value := environment.get(name) or environment.get(name.upper()))
        for spelled in (name, name.upper())
    }
    return Recipe(
        folder / "Dockerfile",
        {"vault.repo": repositories.encode(), "packages": packages.encode()},
        {"BASE": base, **proxies},
        base=base,
        network=True,
    )


def write_seed(plan: ToolchainPlan, cache: Cache, recipe: Path, destination: Path) -> None:
    """Write the seed tree of a toolchain whose packages are all in the cache."""
    seed: Mapping[str, Any] = plan.seed or {}
    required = [row for row in seed["packages"] if row["package"] in seed["required"]]
    base = [row for row in seed["packages"] if row["package"] not in seed["required"]]
    with tarfile.open(destination, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in MERGED:
            _add(tar, f"usr/{name}", directory=True)
            _add(tar, name, link=f"usr/{name}")
        seen = {f"usr/{name}" for name in MERGED} | set(MERGED)
        for row in required:
            with apt.deb_data(cache.file(row["sha256"])) as data:
                for member, content in _members(data, seen):
                    tar.addfile(member, content)
        archives = {row["package"]: _archive_name(row) for row in seed["packages"]}
        for row in seed["packages"]:
            tar.add(cache.file(row["sha256"]), archives[row["package"]][1:], filter=_as_root)
        for name, text in _state(seed, base, archives, cache).items():
            _add(tar, name, text)
        with apt.deb_data(cache.file(seed["debootstrap"]["sha256"])) as data:
            for name, body in _debootstrap(data, seed["script"]).items():
                _add(tar, f"debootstrap/{name}", body, mode=0o755)
        _add(tar, "nokmem/bootstrap.sh", (recipe / "bootstrap.sh").read_bytes(), mode=0o755)


def _members(
    data: tarfile.TarFile, seen: set[str]
) -> Iterator[tuple[tarfile.TarInfo, io.BufferedIOBase | None]]:
    """A package's members under their merged names, each path once, the first one wins."""
    for member in data:
        member.name = _merged(member.name)
        if member.islnk():
            member.linkname = _merged(member.linkname)
        if member.name in seen or not member.name:
            continue
        seen.add(member.name)
        content = data.extractfile(member) if member.isreg() else None
        yield member, content  # type: ignore[misc]


def _merged(name: str) -> str:
    """A path of a package as a path of a merged tree, without a leading ./ or /."""
    parts = [part for part in PurePosixPath(name).parts if part not in (".", "/")]
    if ".." in parts:
        raise ValueError(f"a package's path leaves the tree: {name}")
    if len(parts) > 1 and parts[0] in MERGED:
        parts.insert(0, "usr")
    return "/".join(parts)


def _archive_name(row: Mapping[str, Any]) -> str:
    """Where debootstrap and apt keep a package: the epoch's colon is quoted."""
    version = row["version"].replace(":", "%3a")
    return f"/var/cache/apt/archives/{row['package']}_{version}_{row['architecture']}.deb"


def _state(
    seed: Mapping[str, Any],
    base: list[Mapping[str, Any]],
    archives: Mapping[str, str],
    cache: Cache,
) -> dict[str, str]:
    """The files by which debootstrap's second stage knows what its first stage did."""
    host = NO_MIRROR.partition("://")[2]
    stanzas = (apt.deb_control(cache.file(row["sha256"])) for row in seed["packages"])
    return {
        "debootstrap/arch": "amd64\n",
        "debootstrap/suite": f"{seed['script']}\n",
        "debootstrap/variant": "minbase\n",
        "debootstrap/mirror": f"{NO_MIRROR}\n",
        "debootstrap/required": " ".join(seed["required"]) + "\n",
        "debootstrap/base": " ".join(row["package"] for row in base) + "\n",
        "debootstrap/debpaths": "".join(f"{k} {v}\n" for k, v in archives.items()),
        "etc/fstab": "",
        "var/lib/dpkg/available": "",
        "var/lib/dpkg/status": "",
        f"var/lib/apt/lists/{host}_dists_{seed['script']}_main_binary-amd64_Packages": "\n".join(
            stanzas
        ),
    }


def _debootstrap(data: tarfile.TarFile, script: str) -> dict[str, bytes]:
    """debootstrap's files, named as its first stage would leave them in the tree."""
    wanted = {
        "usr/sbin/debootstrap": "debootstrap",
        "usr/share/debootstrap/functions": "functions",
        "usr/share/debootstrap/scripts/debian-common": "debian-common",
        f"usr/share/debootstrap/scripts/{script}": "suite-script",
    }
    found = {}
    for path, name in wanted.items():
        member = data.getmember(f"./{path}")
        while member.issym():  # the script of a suite is a link to the script of another
            path = posixpath.join(posixpath.dirname(path), member.linkname)
            member = data.getmember(f"./{path}")
        file = data.extractfile(member)
        found[name] = file.read() if file is not None else b""
    return found


def _add(
    tar: tarfile.TarFile,
    name: str,
    content: str | bytes = b"",
    *,
    mode: int = 0o644,
    directory: bool = False,
    link: str = "",
) -> None:
    member = tarfile.TarInfo(name)
    body = content.encode() if isinstance(content, str) else content
    if directory:
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    elif link:
        member.type, member.linkname = tarfile.SYMTYPE, link
    else:
        member.size, member.mode = len(body), mode
    tar.addfile(member, io.BytesIO(body))


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
