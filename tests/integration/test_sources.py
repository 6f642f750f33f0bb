"""The real signed archives, and what tampering with them on the way leads to."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from builders.errors import IntegrityError, MachineError, UnavailableError
from builders.model.plan import BuildPlan
from builders.steps.sources import Debian
from builders.tools import apt
from builders.tools.apt import Archive, Pinned
from builders.tools.cache import Cache
from builders.tools.download import Downloader


def quiet(_: object) -> None:
    """For whoever wants to be told."""


def read(url: str) -> bytes:
    with Downloader() as downloader:
        return downloader.read(url, 200 << 20)


class Mirror(ThreadingHTTPServer):
    """A mirror on this machine that passes on what the real one says, changed as a test likes."""

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = upstream
        self.change: dict[str, Any] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up in the middle is what some tests are about."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        for part, change in self.server.change.items():
            if part in self.path:
                change(self)
                return
        self.give(self.upstream())

    def upstream(self) -> bytes:
        return read(self.server.upstream + self.path)

    def give(self, body: bytes, *, length: int | None = None, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(provider: Debian) -> Iterator[Mirror]:
    server = Mirror(apt.mirrors(os.environ)["debian"][0])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def archive(mirror: Mirror) -> Iterator[Archive]:
    with Downloader() as downloader:
        yield Archive(downloader, {"debian": (mirror.url,)}, apt.keyring(os.environ))


@pytest.fixture
def pin(plan: BuildPlan) -> Pinned:
    """A package of the real toolchain, long enough to break off in the middle."""
    rows = [apt.Pinned(**row) for row in plan.toolchain.packages if row["suite"] == "bullseye"]
    return min((row for row in rows if row.size > 400_000), key=lambda row: row.size)


@pytest.mark.calm
def test_a_pin_is_confirmed_through_the_real_signature(archive: Archive, pin: Pinned) -> None:
    archive.confirm([pin])


@pytest.mark.calm
def test_every_pin_of_the_plan_is_in_the_signed_archives(plan: BuildPlan) -> None:
    """The lock is true: each version, path, size and hash, for toolchain and sources alike."""
    rows = [row for component in plan.components for row in component.source.files]
    rows += plan.toolchain.packages
    with Downloader() as downloader:
        archive = Archive(downloader, apt.mirrors(os.environ), apt.keyring(os.environ))
        archive.confirm(Pinned(**row) for row in rows)


def test_a_changed_release_is_refused(archive: Archive, mirror: Mirror, pin: Pinned) -> None:
    mirror.change["InRelease"] = lambda h: h.give(h.upstream().replace(b"Debian", b"Nobody", 1))
    with pytest.raises(IntegrityError, match="BADSIG"):
        archive.confirm([pin])


def test_text_around_the_signed_part_is_not_read(
    archive: Archive, mirror: Mirror, pin: Pinned
) -> None:
    mirror.change["InRelease"] = lambda h: h.give(b"Codename: evil\n" + h.upstream())
    archive.confirm([pin])


def test_an_unsigned_release_is_refused(archive: Archive, mirror: Mirror, pin: Pinned) -> None:
    mirror.change["InRelease"] = lambda h: h.give(b"Codename: bullseye\nSHA256:\n")
    with pytest.raises(IntegrityError, match="NODATA"):
        archive.confirm([pin])


def test_a_foreign_keyring_is_refused(mirror: Mirror, pin: Pinned, tmp_path: Path) -> None:
    (tmp_path / "empty.gpg").touch()
    with Downloader() as downloader, pytest.raises(IntegrityError, match="NO_PUBKEY"):
        Archive(downloader, {"debian": (mirror.url,)}, tmp_path / "empty.gpg").confirm([pin])


def test_another_suites_release_is_refused(archive: Archive, mirror: Mirror, pin: Pinned) -> None:
    real = f"{mirror.upstream}/dists/bookworm/InRelease"
    mirror.change["InRelease"] = lambda h: h.give(read(real))
    with pytest.raises(IntegrityError, match="Release of bookworm, not of bullseye"):
        archive.confirm([pin])


def test_the_mirror_is_the_one_whose_signature_is_good(mirror: Mirror, pin: Pinned) -> None:
    """As on a machine where somebody else's repository carries Debian's suite names."""
    other = Mirror(mirror.upstream)
    other.change["InRelease"] = lambda h: h.give(b"Codename: bullseye\n")
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        with Downloader() as downloader:
            keyring = apt.keyring(os.environ)
            archive = Archive(downloader, {"debian": (other.url, mirror.url)}, keyring)
            archive.confirm([pin])
            assert archive.url(pin.suite, "x") == f"{mirror.url}/x"
    finally:
        other.shutdown()
        other.server_close()


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_wrong_is_named_before_what_is_silent(
    order: int, mirror: Mirror, pin: Pinned
) -> None:
    mirror.change["InRelease"] = lambda h: h.give(h.upstream().replace(b"Debian", b"Nobody", 1))
    places = (mirror.url, "http://127.0.0.1:9")[::order]
    with Downloader() as downloader, pytest.raises(IntegrityError, match="BADSIG") as caught:
        Archive(downloader, {"debian": places}, apt.keyring(os.environ)).confirm([pin])
    assert caught.value.place.startswith(mirror.url)
    assert len(caught.value.detail) == 2 and "127.0.0.1:9" in str(caught.value.detail)


@pytest.mark.calm
def test_a_query_stays_at_the_end_of_each_address(
    mirror: Mirror, pin: Pinned, tmp_path: Path
) -> None:
    environment = {"NOKMEM_DEBIAN_MIRROR": f"{mirror.url}/?token=a/"}
    Debian(Cache(tmp_path), environment, quiet).fetch_files([dataclasses.asdict(pin)], quiet)
    assert len(mirror.asked) == 3
    for path in mirror.asked:
        assert path.endswith("?token=a/") and path.count("?") == 1 and not path.startswith("//")


def test_a_changed_index_is_refused(archive: Archive, mirror: Mirror, pin: Pinned) -> None:
    for part in ("by-hash", "Packages.xz"):
        mirror.change[part] = lambda h: h.give(h.upstream()[:-1] + b"!")
    with pytest.raises(IntegrityError, match="the signed Release says"):
        archive.confirm([pin])


def test_a_changed_package_never_enters_the_cache(
    mirror: Mirror, pin: Pinned, tmp_path: Path
) -> None:
    mirror.change["/pool/"] = lambda h: h.give(h.upstream()[:-1] + b"!")
    cache = Cache(tmp_path)
    provider = Debian(cache, {"NOKMEM_DEBIAN_MIRROR": mirror.url}, quiet)
    with pytest.raises(IntegrityError, match="wrong content"):
        provider.fetch_files([dataclasses.asdict(pin)], lambda _: None)
    assert list((tmp_path / "files").iterdir()) == []


def test_a_connection_that_dies_is_resumed(mirror: Mirror, pin: Pinned, tmp_path: Path) -> None:
    def die_once(handler: Handler) -> None:
        body = handler.upstream()
        given = handler.headers.get("Range")
        if given is None:
            handler.give(body[: len(body) // 2], length=len(body))
        else:
            start = int(given.removeprefix("bytes=").rstrip("-"))
            handler.give(body[start:], status=206)

    mirror.change["/pool/"] = die_once
    provider = Debian(Cache(tmp_path), {"NOKMEM_DEBIAN_MIRROR": mirror.url}, quiet)
    provider.fetch_files([dataclasses.asdict(pin)], lambda _: None)
    assert (tmp_path / "files" / pin.sha256).stat().st_size == pin.size
    assert len([path for path in mirror.asked if "/pool/" in path]) == 2


def test_a_longer_file_is_cut_off(mirror: Mirror, pin: Pinned, tmp_path: Path) -> None:
    mirror.change["/pool/"] = lambda h: h.give(h.upstream() + bytes(1 << 22))
    provider = Debian(Cache(tmp_path), {"NOKMEM_DEBIAN_MIRROR": mirror.url}, quiet)
    with pytest.raises(IntegrityError, match="longer than the pinned") as caught:
        provider.fetch_files([dataclasses.asdict(pin)], lambda _: None)
    assert pin.path in caught.value.place and "try another place" in caught.value.next_step


def test_an_index_that_dies_on_the_way_is_asked_for_again(
    mirror: Mirror, archive: Archive, pin: Pinned
) -> None:
    def die_once(handler: Handler) -> None:
        del mirror.change["by-hash"]
        body = handler.upstream()
        handler.give(body[: len(body) // 2], length=len(body))

    mirror.change["by-hash"] = die_once
    archive.confirm([pin])
    assert len([path for path in mirror.asked if "by-hash" in path]) == 2


@pytest.mark.parametrize("status", [200, 404])
def test_an_index_that_a_mirror_lacks_or_spoiled_comes_from_the_next(
    status: int, mirror: Mirror, pin: Pinned
) -> None:
    for part in ("by-hash", "Packages.xz"):
        mirror.change[part] = lambda h: h.give(b"spoiled", status=status)
    both = {"debian": (mirror.url, mirror.upstream)}
    with Downloader() as downloader:
        Archive(downloader, both, apt.keyring(os.environ)).confirm([pin])
        alone = Archive(downloader, {"debian": (mirror.url,)}, apt.keyring(os.environ))
        with pytest.raises(IntegrityError if status == 200 else UnavailableError) as caught:
            alone.confirm([pin])
    assert "Packages" in caught.value.place or "by-hash" in caught.value.place
    assert caught.value.next_step


def test_a_missing_file_is_said_with_its_address(
    mirror: Mirror, pin: Pinned, tmp_path: Path
) -> None:
    mirror.change["/pool/"] = lambda h: h.give(b"", status=404)
    provider = Debian(Cache(tmp_path), {"NOKMEM_DEBIAN_MIRROR": mirror.url}, quiet)
    with pytest.raises(UnavailableError, match="HTTP 404") as caught:
        provider.fetch_files([dataclasses.asdict(pin)], lambda _: None)
    assert pin.path in caught.value.place


def test_a_mirror_that_lacks_a_file_is_passed_over_aloud(
    mirror: Mirror, pin: Pinned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.change["/pool/"] = lambda h: h.give(b"", status=404)
    both = {"debian": (mirror.url, mirror.upstream)}
    monkeypatch.setattr(apt, "mirrors", lambda _: both)
    said: list[str] = []
    cache = Cache(tmp_path)
    Debian(cache, {}, said.append).fetch_files([dataclasses.asdict(pin)], quiet)
    places = [f"{url}/{pin.path}" for url in both["debian"]]
    assert said == [f"{places[0]}: HTTP 404 Not Found; asking {places[1]}"]
    assert cache.holds(pin.sha256)


@pytest.mark.calm
def test_what_is_in_the_cache_is_not_asked_for(mirror: Mirror, pin: Pinned, tmp_path: Path) -> None:
    provider = Debian(Cache(tmp_path), {"NOKMEM_DEBIAN_MIRROR": mirror.url}, quiet)
    provider.fetch_files([dataclasses.asdict(pin)], lambda _: None)
    mirror.asked.clear()
    provider.fetch_files([dataclasses.asdict(pin)], lambda _: None)
    assert mirror.asked == []


@pytest.mark.calm
def test_kubernetes_comes_from_the_planned_commit(
    plan: BuildPlan, provider: Debian, tmp_path: Path
) -> None:
    kubelet = next(c for c in plan.components if c.name == "kubelet")
    provider.fetch(kubelet, lambda _: None, lambda _: None)
    assert provider.tree(kubelet, tmp_path).strip == 1
    other = dataclasses.replace(kubelet.source, commit="0" * 40)
    with pytest.raises(IntegrityError, match="faecb196815e248d3ecfb03c680a4507229c2a56"):
        provider.tree(dataclasses.replace(kubelet, source=other), tmp_path)


def test_a_full_disk_is_named_and_nothing_half_written_stays(
    pin: Pinned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file size limit stands for the full disk: the write fails in the middle just as well."""
    cache = Cache(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(MachineError, match="cannot be kept") as caught:
            Debian(cache, os.environ, quiet).fetch_files([dataclasses.asdict(pin)], quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.place == str(tmp_path / "files")
    assert list((tmp_path / "files").iterdir()) == []
