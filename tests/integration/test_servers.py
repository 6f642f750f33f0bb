"""Downloads and repositories from real servers: certificates, cuts, logins, proxies."""

from __future__ import annotations

import hashlib
import random
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builders.errors import NokmemError, UnavailableError
from builders.tools import archives, download, gitrepo
from builders.tools.cache import Cache
from builders.tools.download import Downloader
from tests.integration.conftest import Servers
from tests.integration.test_gitrepo import TAG, git, quiet
from tests.integration.test_sources import Handler, Mirror

SIZE = 500_000
#: What servers/users has, as an address spells it, and both ways that it could show.
LOGIN = "reader:pa%40ss%2Fword@"
SECRETS = ("pa%40ss%2Fword", "pa@ss/word", "wr%40ng", "wr@ng", "proxy-word", "wrong-word")
#: Each variable by which a machine's own settings could take part.
VARIABLES = (
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_SSL_NO_VERIFY"),
    *(f"{name}_proxy" for name in ("http", "https", "all", "no")),
    *(f"{name}_PROXY" for name in ("HTTP", "HTTPS", "ALL", "NO")),
)


@pytest.fixture(autouse=True)
def _only_the_tests_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no netrc"))


@dataclass(frozen=True)
class File:
    """A file that the servers have, and where a test would keep it."""

    path: str
    body: bytes
    cache: Cache

    def fetch(self, server: str, kind: str = "") -> None:
        """Download it from a server, by one of the kinds that locations.conf has."""
        url, sha256 = f"{server}/{kind}{self.path}", hashlib.sha256(self.body).hexdigest()
        with Downloader() as downloader:
            archives.obtain(self.cache, sha256, [url], downloader, quiet, quiet, len(self.body))
        self.cache.file(sha256).unlink()

    @property
    def absent(self) -> bool:
        """Whether nothing is where it would be kept, no part of it either."""
        return list((self.cache.root / "files").iterdir()) == []


@pytest.fixture
def file(servers: Servers, tmp_path: Path) -> File:
    body = random.Random(0).randbytes(SIZE)  # noqa: S311 -- some bytes, always the same
    path = f"{secrets.token_hex(8)}/file"
    servers.put(path, body)
    return File(path, body, Cache(tmp_path / "cache"))


def shown(error: NokmemError) -> str:
    """Everything that a user could get to see of an error, its cause included."""
    return f"{error}{vars(error)}{error.__cause__}"


def with_login(url: str, login: str = LOGIN) -> str:
    return url.replace("://", f"://{login}")


# Certificates


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.calm
def test_the_users_authority_is_believed(
    variable: str, servers: Servers, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(servers.authority))
    file.fetch(servers.https)


@pytest.mark.parametrize(
    ("address", "authority"), [("https", False), ("unknown", True), ("misnamed", True)]
)
def test_a_certificate_by_nobody_or_for_another_is_refused_at_once(
    address: str,
    authority: bool,
    servers: Servers,
    file: File,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if authority:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(servers.authority))
    monkeypatch.setattr(
        "time.sleep", lambda _: pytest.fail("a certificate is not a matter of time")
    )
    server: str = getattr(servers, address)
    with pytest.raises(UnavailableError, match="the certificate was not accepted") as caught:
        file.fetch(server)
    assert caught.value.place == f"{server}/{file.path}"
    assert file.absent


def test_a_server_without_tls_is_not_said_to_have_a_certificate(
    servers: Servers, file: File
) -> None:
    with pytest.raises(UnavailableError, match="the TLS connection failed"):
        file.fetch(servers.http.replace("http", "https"))


# Servers that cut, stall, tire or refuse


@pytest.mark.calm
def test_a_file_in_three_parts_is_whole(servers: Servers, file: File) -> None:
    file.fetch(servers.http, "cut/")
    found = servers.asked(f"/cut/{file.path}")
    assert [status for status, _ in found] == [200, 206, 206]
    first, *rest = (range_ for _, range_ in found)
    assert first == "-"
    starts = [int(range_.removeprefix("bytes=").removesuffix("-")) for range_ in rest]
    assert 0 < starts[0] < starts[1] < SIZE


def test_a_cut_server_without_ranges_is_given_up_with_an_account(
    servers: Servers, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(UnavailableError, match=rf"ended after \d{{6}} of {SIZE} bytes, 2 times"):
        file.fetch(servers.http, "cut-unranged/")
    assert file.absent


@pytest.fixture
def once_cut(servers: Servers) -> Iterator[Mirror]:
    """A server without ranges, whose first answer ends in the middle."""

    def cut(handler: Handler) -> None:
        body = handler.upstream()
        first = len(handler.server.asked) == 1
        handler.give(body[: len(body) // 3] if first else body, length=len(body))

    server = Mirror(servers.http)
    server.change["/file"] = cut
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_without_ranges_what_is_here_already_is_passed_over(once_cut: Mirror, file: File) -> None:
    file.fetch(once_cut.url)
    assert len(once_cut.asked) == 2


@pytest.mark.calm
def test_a_server_without_ranges_is_no_trouble(servers: Servers, file: File) -> None:
    file.fetch(servers.http, "unranged/")


def test_a_slow_server_is_waited_for(
    servers: Servers, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (1, 1))
    file.fetch(servers.http, "slow/")
    assert servers.asked(f"/slow/{file.path}") == [(200, "-")]


def test_a_server_that_falls_silent_is_not(
    servers: Servers, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (1, 0.5))
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(UnavailableError, match=rf"ended after \d+ of {SIZE} bytes, 2 times"):
        file.fetch(servers.http, "stalled/")
    assert file.absent


def test_a_busy_server_is_asked_again_later(servers: Servers, file: File) -> None:
    file.fetch(servers.http, "busy/")
    file.fetch(servers.http, "busy/")
    statuses = [status for status, _ in servers.asked(f"/busy/{file.path}")]
    assert statuses[:2] == [200, 503]
    assert statuses[-1] == 200


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("nothing-there/", "HTTP 404 Not Found"),
        ("forbidden/", "HTTP 403 Forbidden"),
        ("private/", "HTTP 401 Unauthorized"),
    ],
)
def test_a_refusal_is_said_and_not_argued_with(
    kind: str, answer: str, servers: Servers, file: File
) -> None:
    with pytest.raises(UnavailableError, match=answer):
        file.fetch(servers.http, kind)
    assert len(servers.asked(f"/{kind}{file.path}")) == 1
    assert file.absent


def test_a_server_that_is_not_there_is_said_in_seconds(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    with pytest.raises(UnavailableError, match="connection failed"):
        file.fetch("http://127.0.0.1:9")
    assert sum(waited) < 10


# Logins and redirects


@pytest.mark.calm
def test_a_login_in_an_address_is_used(servers: Servers, file: File) -> None:
    file.fetch(with_login(servers.http), "private/")


@pytest.mark.parametrize(
    ("kind", "login"), [("private/", "reader:wr%40ng@"), ("forbidden/", LOGIN), ("gone/", LOGIN)]
)
def test_a_login_never_shows(kind: str, login: str, servers: Servers, file: File) -> None:
    with pytest.raises(UnavailableError) as caught:
        file.fetch(with_login(servers.http, login), kind)
    assert not [secret for secret in SECRETS if secret in shown(caught.value)]


@pytest.mark.parametrize("address", ["https", "misnamed", "nobody"])
def test_a_login_never_shows_where_nothing_answers(
    address: str, servers: Servers, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    server = getattr(servers, address, "https://127.0.0.1:9")
    with pytest.raises(UnavailableError) as caught:
        file.fetch(with_login(server))
    assert not [secret for secret in SECRETS if secret in shown(caught.value)]


@pytest.mark.calm
def test_a_redirect_to_https_is_followed_and_checked(
    servers: Servers, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(servers.authority))
    file.fetch(servers.http, f"redirect?to={servers.https}/")
    with pytest.raises(UnavailableError, match="certificate"):
        file.fetch(servers.http, f"redirect?to={servers.unknown}/")
    assert file.absent


def test_a_login_stays_with_the_server_that_it_is_for(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(servers.authority))
    with Downloader() as downloader:
        for target, expected in ((servers.http, "<Basic "), (servers.https, "<>")):
            url = with_login(f"{servers.http}/redirect?to={target}/credentials")
            assert downloader.read(url, 100).decode().startswith(expected)


# Proxies

#: As the engine's own network names the server: from here, only the proxy finds it.
INSIDE = {"http": "http://web:8080", "https": "https://web:8443"}


@pytest.fixture(params=["http", "https"])
def proxied(
    request: pytest.FixtureRequest, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A server behind a proxy that the environment names."""
    scheme = str(request.param)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(servers.authority))
    monkeypatch.setenv(f"{scheme}_proxy", f"http://passer:proxy-word@{servers.proxy}")
    return INSIDE[scheme]


@pytest.fixture(params=["", "passer:wrong-word@"])
def refused(
    request: pytest.FixtureRequest,
    proxied: str,
    servers: Servers,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """The same, but the proxy's password is missing or wrong."""
    name = f"{proxied.partition(':')[0]}_proxy"
    monkeypatch.setenv(name, f"http://{request.param}{servers.proxy}")
    return proxied


@pytest.mark.calm
def test_a_download_goes_through_the_proxy(proxied: str, file: File) -> None:
    file.fetch(proxied)


def test_a_proxy_that_refuses_is_named_without_its_password(refused: str, file: File) -> None:
    with pytest.raises(UnavailableError, match=r"proxy|Proxy|HTTP 401") as caught:
        file.fetch(refused)
    assert not [secret for secret in SECRETS if secret in shown(caught.value)]
    assert file.absent


@pytest.mark.calm
def test_a_server_may_be_kept_from_the_proxy(
    servers: Servers, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    monkeypatch.setenv("no_proxy", servers.http.removeprefix("http://").partition(":")[0])
    file.fetch(servers.http)


# git


@dataclass(frozen=True)
class Repository:
    """A repository that the servers have, and the store that a test would fetch it into."""

    path: str
    commit: str
    store: Path

    def fetch(self, server: str, kind: str = "git/") -> None:
        url = f"{server}/{kind}{self.path}"
        gitrepo.fetch(self.store, [url], TAG, self.commit, quiet, quiet)
        assert git(self.store, "rev-list", "--count", self.commit) == "1", "history came along"


@pytest.fixture
def repository(servers: Servers, tmp_path: Path) -> Repository:
    """Two commits and an annotated tag, put on the servers file by file."""
    folder, bare = tmp_path / "folder", tmp_path / "bare"
    git(tmp_path, "init", "--quiet", str(folder))
    git(tmp_path, "init", "--quiet", "--bare", "--template=", str(bare))
    for word in ("one", "two"):
        git(folder, "commit", "--quiet", "--allow-empty", "-m", word)
    git(folder, "tag", "-a", TAG, "-m", "release")
    git(folder, "push", "--quiet", "--mirror", str(bare))
    git(bare, "update-server-info")
    path = f"{secrets.token_hex(8)}/runc.git"
    for file in bare.rglob("*"):
        if file.is_file():
            servers.put(f"{path}/{file.relative_to(bare)}", file.read_bytes())
    commit = git(folder, "rev-parse", f"{TAG}^{{commit}}")
    return Repository(path, commit, tmp_path / "store.git")


@pytest.mark.calm
def test_a_tag_comes_by_smart_http(servers: Servers, repository: Repository) -> None:
    repository.fetch(servers.http)


@pytest.mark.parametrize("variable", ["GIT_SSL_CAINFO", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.calm
def test_git_believes_the_same_authority_as_a_download(
    variable: str, servers: Servers, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(servers.authority))
    repository.fetch(servers.https)


@pytest.mark.calm
def test_a_folder_of_authorities_will_do(
    servers: Servers, file: File, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(servers.authority.parent))
    file.fetch(servers.https)
    repository.fetch(servers.https)


@pytest.mark.calm
def test_what_git_was_told_itself_comes_first(
    servers: Servers, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
    monkeypatch.setenv("GIT_SSL_CAINFO", str(servers.authority))
    repository.fetch(servers.https)


@pytest.mark.parametrize(
    ("address", "authority"), [("https", False), ("unknown", True), ("misnamed", True)]
)
def test_git_refuses_a_certificate_by_nobody_or_for_another(
    address: str,
    authority: bool,
    servers: Servers,
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if authority:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(servers.authority))
    with pytest.raises(UnavailableError, match=r"could not be fetched: .*certificate") as caught:
        repository.fetch(with_login(getattr(servers, address)))
    assert not [secret for secret in SECRETS if secret in shown(caught.value)]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("nothing-there/", "not found"),
        ("forbidden/", "403"),
        ("private-git/", "Authentication failed"),
        # files alone, as a mirror made by copying has them
        ("", "shallow"),
    ],
)
def test_git_says_why_a_server_refused(
    kind: str, reason: str, servers: Servers, repository: Repository
) -> None:
    with pytest.raises(UnavailableError, match=f"could not be fetched: .*{reason}"):
        repository.fetch(servers.http, kind)


@pytest.mark.calm
def test_git_uses_a_login_and_never_shows_it(servers: Servers, repository: Repository) -> None:
    for kind, login in (("private-git/", "reader:wr%40ng@"), ("forbidden/", LOGIN), ("", LOGIN)):
        with pytest.raises(UnavailableError) as caught:
            repository.fetch(with_login(servers.http, login), kind)
        assert not [secret for secret in SECRETS if secret in shown(caught.value)]
    repository.fetch(with_login(servers.http), "private-git/")


def test_git_does_not_wait_for_ever(
    servers: Servers, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gitrepo.ENVIRONMENT, "GIT_HTTP_LOW_SPEED_TIME", "1")
    with pytest.raises(UnavailableError, match=r"could not be fetched: .*(too slow|timed out)"):
        repository.fetch(servers.http, "stalled-git/")


@pytest.mark.calm
def test_git_goes_through_the_proxy(proxied: str, repository: Repository) -> None:
    repository.fetch(proxied)


def test_git_names_a_proxy_that_refuses_without_its_password(
    refused: str, repository: Repository
) -> None:
    with pytest.raises(UnavailableError, match=r"407|401|Authentication failed") as caught:
        repository.fetch(refused)
    assert not [secret for secret in SECRETS if secret in shown(caught.value)]
