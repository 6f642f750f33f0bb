"""What a toolchain on an image is made with: the data's words, or the user's where they are sound."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from builders import pipeline, survey
from builders.errors import UsageError
from builders.model.plan import BuildRequest
from builders.model.releases import RECIPES, Facts
from builders.steps import toolchain
from builders.tools.builder import Kept, Recipe
from builders.tools.cache import Cache
from tests.conftest import VERSION

FACTS = Facts().toolchains["el7"].image
assert FACTS is not None
IMAGE = dataclasses.asdict(FACTS)


def recipe(**environment: str) -> Recipe:
    return toolchain.image_recipe(IMAGE, RECIPES / "el7", environment)


def test_the_only_repository_is_the_vaults() -> None:
    assert recipe().files["vault.repo"] == (
        b"[vault-os]\n"
        b"name=CentOS 7.9.2009 os\n"
        b"baseurl=https://vault.centos.org/7.9.2009/os/$basearch/\n"
        b"gpgcheck=1\n"
        b"gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-CentOS-7\n"
        b"metadata_expire=never\n"
        b"skip_if_unavailable=0\n"
    )


def test_every_package_has_its_version() -> None:
    assert recipe().files["packages"] == "".join(f"{pin}\n" for pin in IMAGE["packages"]).encode()
    assert all(pin.count("-") >= 2 for pin in IMAGE["packages"])


def test_a_mirror_of_the_vault_takes_its_place_alone() -> None:
    text = recipe(NOKMEM_VAULT="http://mirror.example:8080/centos/").files["vault.repo"]
    assert isinstance(text, bytes)
    assert b"baseurl=http://mirror.example:8080/centos/7.9.2009/os/$basearch/\n" in text
    assert b"vault.centos.org" not in text


@pytest.mark.parametrize(
    "vault",
    [
        "https://user:pass-word@mirror.example/centos",
        "mirror.example/pass-word",
        "https://mirror.example/?pass-word",
        "https://mirror.example/\ngpgcheck=pass-word",
    ],
)
def test_a_vault_that_would_leave_a_password_in_the_image_is_refused(vault: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe(NOKMEM_VAULT=vault)
    assert caught.value.place == "NOKMEM_VAULT"
    assert "pass-word" not in str(vars(caught.value))


@pytest.mark.parametrize(
    "name",
    [
        "centos",
        "centos:7",
        "mirror.example/centos",
        "mirror.example:5000/deep/down/centos_7",
        "[::1]:5000/centos",
        "Mirror/library/centos:7.9",
    ],
)
def test_a_copy_of_the_base_keeps_the_digest(name: str) -> None:
    made = recipe(NOKMEM_BASE_IMAGE=name)
    assert made.base == made.arguments["BASE"] == f"{name}@{IMAGE['digest']}"


@pytest.mark.parametrize(
    "name",
    [
        "user:pass-word@mirror.example/centos",
        "https://mirror.example/pass-word",
        f"mirror.example/pass-word@{IMAGE['digest']}",
        "mirror.example/Pass-word",
        "mirror.example/pass-word ",
        "mirror.example/pass-word\n",
        "/pass-word",
    ],
)
def test_what_names_no_image_is_refused_and_not_shown(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe(NOKMEM_BASE_IMAGE=name)
    assert caught.value.place == "NOKMEM_BASE_IMAGE"
    assert "ass-word@" not in str(vars(caught.value)) and name not in str(vars(caught.value))


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({"http_proxy": "http://small"}, "http://small"),
        ({"HTTP_PROXY": "http://large"}, "http://large"),
        ({"http_proxy": "http://small", "HTTP_PROXY": "http://large"}, "http://small"),
    ],
)
def test_a_proxy_has_both_its_names(environment: dict[str, str], proxy: str) -> None:
    arguments = dict(recipe(**environment, ftp_proxy="http://other", Http_Proxy="x").arguments)
    del arguments["BASE"]
    assert arguments == {"http_proxy": proxy, "HTTP_PROXY": proxy}


class Engine:
    """A builder that keeps one image of each of these keys."""

    def __init__(self, *keys: str) -> None:
        self._keys = keys

    def inventory(self) -> list[Kept]:
        return [Kept("image", key, 1, key) for key in self._keys]


@pytest.mark.parametrize("name", Facts().toolchains)
def test_every_toolchain_of_the_data_is_needed(name: str, tmp_path: Path) -> None:
    key = pipeline.plan(BuildRequest(VERSION, toolchain=name, go="official")).toolchain.key[:16]
    engine: Any = Engine(key, "0" * 16)
    rows = survey._rows(Cache(tmp_path), [engine])
    assert [(row.name, row.needed) for row in rows] == [(key, True), ("0" * 16, False)]
