"""Images of Debian for tests: debootstrap from the machine's own mirror, once for each machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import docker
import pytest
from docker.errors import ImageNotFound

from builders.tools import apt, process
from builders.tools.cache import Cache
from builders.tools.download import Downloader
from tests.conftest import leave_out

SUITE = "bookworm"
#: What no test reads, or what names a mirror.
LEFT_OUT = (
    "etc/apt/sources.list",
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt/*",
    "var/lib/apt/lists/*",
)


def image(request: pytest.FixtureRequest, repository: str, packages: Sequence[str]) -> str:
    """The name of an image with Debian and these packages."""
    recipe = json.dumps([SUITE, packages, LEFT_OUT])
    tag = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    name = f"{repository}:{tag}"
    cache: Cache = request.getfixturevalue("cache")
    with closing(docker.from_env(timeout=600)) as engine:
        try:
            engine.images.get(name)
        except ImageNotFound:
            if os.geteuid() != 0 or process.find("debootstrap") is None:
                leave_out(request, "images", f"{repository} is not made yet")
            request.getfixturevalue("provider")  # says so where there is no mirror
            with cache.run_folder() as scratch:
                try:
                    archive = _debian(scratch, packages)
                    engine.api.import_image_from_file(str(archive), repository=repository, tag=tag)
                finally:
                    shutil.rmtree(scratch)
    return name


def _debian(folder: Path, packages: Sequence[str]) -> Path:
    tree, archive = folder / "tree", folder / "tree.tar"
    keyring = apt.keyring(os.environ)
    proxies = apt.proxies(os.environ)
    with Downloader(proxies) as downloader:
        mirror = apt.Archive(downloader, apt.mirrors(os.environ), keyring).url(SUITE, "")
    inherited = {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")}
    environment = {**{f"{scheme}_proxy": url for scheme, url in proxies.items()}, **inherited}
    for argv in (
        # in a mount namespace of its own, so that nothing it mounts can stay
        [
            *("unshare", "--mount", "debootstrap", "--variant=minbase", f"--keyring={keyring}"),
            *(f"--include={','.join(packages)}", SUITE, str(tree), mirror),
        ],
        [
            *("tar", "--directory", str(tree), "--one-file-system", "--numeric-owner"),
            *(f"--exclude=./{path}" for path in LEFT_OUT),
            *("--create", "--file", str(archive), "."),
        ],
    ):
        result = process.run(argv, environment=environment)
        if not result.ok:
            pytest.fail("\n".join((f"no Debian for the tests: {argv[0]}", *result.tail)))
    return archive
