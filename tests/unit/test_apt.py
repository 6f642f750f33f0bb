"""Whose mirrors, and what an index says of a pin."""

from __future__ import annotations

import dataclasses
import hashlib
import lzma
from pathlib import Path

import pytest

from builders.errors import IntegrityError, MachineError, UnavailableError, UsageError
from builders.tools import apt
from builders.tools.apt import Archive, Pinned
from builders.tools.download import Downloader, redacted, scrubbed

PIN = Pinned("bullseye", "make", "4.3-4.1", "amd64", "pool/make.deb", 5, "a" * 64)
SOURCE = Pinned("bullseye", "k", "1", "source", "pool/k/k.orig.tar.gz", 7, "c" * 64)
PACKAGES = f"""\
Package: makedev
Version: 4.3-4.1
Architecture: amd64
Filename: pool/make.deb
Size: 5
SHA256: {"b" * 64}

Package: make
Version: 4.3-4.1
Architecture: amd64
Filename: pool/make.deb
Size: 5
SHA256: {"a" * 64}
"""
SOURCES = f"""\
Package: k
Version: 1
Directory: pool/k
Checksums-Sha256:
 {"d" * 64} 9 k.dsc
 {"c" * 64} 7 k.orig.tar.gz
"""


@pytest.fixture
def archive() -> Archive:
    """An archive whose indices have been read and proven already."""
    archive = Archive(Downloader(), {"debian": ("http://mirror",)}, Path("none"))
    archive._indices["bullseye", "main/binary-amd64/Packages"] = PACKAGES
    archive._indices["bullseye", "main/source/Sources"] = SOURCES
    return archive


def test_a_pin_that_the_archive_lists_is_confirmed(archive: Archive) -> None:
    archive.confirm([PIN, SOURCE])


@pytest.mark.parametrize("pin", [PIN, SOURCE])
def test_a_pin_with_another_hash_or_size_is_refused(archive: Archive, pin: Pinned) -> None:
    for change in ({"sha256": "0" * 64}, {"size": 6}):
        with pytest.raises(IntegrityError):
            archive.confirm([dataclasses.replace(pin, **change)])


def test_a_pin_that_is_gone_is_refused_with_what_is_there(archive: Archive) -> None:
    with pytest.raises(UnavailableError, match=r"it has 4\.3-4\.1"):
        archive.confirm([dataclasses.replace(PIN, version="4.4")])
    with pytest.raises(UnavailableError):
        archive.confirm([dataclasses.replace(PIN, package="mak")])


def test_mirrors_come_from_every_form_of_apt_configuration(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://commented/debian bookworm main\n"
        "deb-src http://sources/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://one/debian/ bookworm main\n"
    )
    (tmp_path / "sources.list.d/a.sources").write_text(
        "Enabled: no\nTypes: deb\nURIs: http://off/s\nSuites: bookworm-security\n\n"
        "Types: deb deb-src\nURIs: http://two/debian-security\n"
        "Suites: bookworm-security\nComponents: main\n"
    )
    assert apt.mirrors({}, tmp_path) == {
        "debian": ("http://one/debian",),
        "debian-security": ("http://two/debian-security",),
    }


def test_other_distributions_and_schemes_are_not_mirrors(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(
        "deb http://ubuntu/ubuntu jammy main\ndeb file:///srv/debian bookworm main\n"
        "deb http://tool/repo nodistro main\ndeb http://db/apt bookworm-pgdg main\n"
        "deb [arch=amd64] http://engine/linux/debian bookworm stable # main\n"
    )
    assert apt.mirrors({}, tmp_path) == {"debian": (), "debian-security": ()}


def test_a_file_of_apt_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://one/debian bookworm main\n")
    (tmp_path / "sources.list.d/a.sources").write_text("Types:\r deb\f x")
    (tmp_path / "sources.list.d/b.sources").write_bytes(b"\xff")
    assert apt.mirrors({}, tmp_path)["debian"] == ("http://one/debian",)


def test_the_user_wins(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://one/debian bookworm main\n")
    environment = {"NOKMEM_DEBIAN_MIRROR": "https://mine/debian/"}
    assert apt.mirrors(environment, tmp_path)["debian"] == ("https://mine/debian/",)


@pytest.mark.parametrize(
    "value",
    [
        "http://[bad",
        "http://h:99999/x",
        "ftp://h/x",
        "h/debian",
        "http://u:12/secret@h/x",
        "http://",
        "http://h/debian#secret",
    ],
)
def test_a_mirror_that_is_no_url_is_refused_unseen(value: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        apt.mirrors({"NOKMEM_DEBIAN_MIRROR": value}, tmp_path)
    assert "secret" not in str(vars(caught.value))
    assert "secret" not in redacted(value)


def test_no_mirror_and_no_keyring_name_the_way_out(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as unavailable:
        archive.url("bullseye-security", "x")
    assert "NOKMEM_DEBIAN_SECURITY_MIRROR" in unavailable.value.next_step
    with pytest.raises(MachineError) as missing:
        apt.keyring({"NOKMEM_DEBIAN_KEYRING": str(tmp_path / "no.gpg")})
    assert "apt-get install debian-archive-keyring" in missing.value.next_step


def test_a_password_in_a_mirror_never_shows() -> None:
    assert redacted("https://u:secret@host:8/p?token=t") == "https://host:8/p"


@pytest.mark.parametrize(
    "packages",
    [
        "Package: make\n",
        PACKAGES.replace("Size: 5", "Size: five"),
        PACKAGES.replace("SHA256", "MD5"),
    ],
)
def test_an_index_that_lacks_something_is_refused(archive: Archive, packages: str) -> None:
    archive._indices["bullseye", "main/binary-amd64/Packages"] = packages
    with pytest.raises(IntegrityError, match="cannot be understood"):
        archive.confirm([PIN])


def test_an_index_that_is_no_text_is_refused(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "main/binary-arm64/Packages"
    for body in (lzma.compress(b"\xff"), b"no xz"):
        archive._releases["bullseye"] = {f"{name}.xz": hashlib.sha256(body).hexdigest()}
        archive._chosen["bullseye"] = "http://mirror"
        monkeypatch.setattr(archive._downloader, "read", lambda *_, body=body: body)
        with pytest.raises(IntegrityError, match="cannot be understood"):
            archive.index("bullseye", name)


def test_an_index_that_a_mirror_has_not_by_its_hash_is_taken_by_its_name(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, body = "main/binary-arm64/Packages", lzma.compress(b"text")
    archive._releases["bullseye"] = {f"{name}.xz": hashlib.sha256(body).hexdigest()}
    archive._chosen["bullseye"] = "http://mirror"
    answers = {f"http://mirror/dists/bullseye/{name}.xz": body[:-1]}

    def read(url: str, _: int) -> bytes:
        if url not in answers:
            raise UnavailableError("HTTP 404", place=url, next_step="")
        return answers[url]

    monkeypatch.setattr(archive._downloader, "read", read)
    with pytest.raises(IntegrityError, match="the signed Release says"):
        archive.index("bullseye", name)
    answers = dict.fromkeys(answers, body)
    assert archive.index("bullseye", name) == "text"


def test_a_release_without_hashes_is_refused(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive._downloader, "read", lambda *_: b"")
    monkeypatch.setattr(archive, "_signed_text", lambda *_: "Suite: bullseye\n")
    with pytest.raises(IntegrityError, match="SHA256"):
        archive.release_date("bullseye")


@pytest.mark.parametrize("scheme", ["https", "HTTPS"])
def test_a_password_in_somebody_elses_text_never_shows(scheme: str) -> None:
    text = scrubbed(f"refused for '{scheme}://u:secret@host/p'")
    assert text == "refused for 'https://host/p'"
