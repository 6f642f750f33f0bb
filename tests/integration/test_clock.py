"""What has expired, and a machine whose clock is wrong. Only signatures and certificates ask for
the time of day; whatever else is dated is only ever older or newer than something beside it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builders.errors import IntegrityError
from builders.model.plan import BuildPlan
from builders.steps.sources import Debian
from builders.tools import apt
from builders.tools.apt import Archive
from builders.tools.cache import Cache
from builders.tools.download import Downloader
from tests.conftest import ROOT, VERSION, leave_out
from tests.integration import small
from tests.integration.conftest import Servers
from tests.integration.test_bad_days import build, kind
from tests.integration.test_servers import VARIABLES
from tests.integration.test_sources import Mirror

__all__ = ["kind"]  # a fixture
#: A time by which everything here is of the future.
NEXT_CENTURY = 4102444800
RELEASE = b"Codename: bullseye\nDate: Sat, 01 Feb 2020 00:00:00 UTC\nSHA256:\n"
#: The front door with the faked clock that it has itself in each of its children; processes of
#: ours inherit no variable.
FRONT = (
    "import os, runpy, sys; from builders.tools import process; "
    "process.BASE_ENVIRONMENT |= {k: v for k, v in os.environ.items() "
    "if k == 'LD_PRELOAD' or k.startswith('FAKETIME')}; "
    "sys.argv[0] = 'tasks.py'; runpy.run_path('tasks.py', run_name='__main__')"
)
#: Programs that ask the server which is their first word for a file and for a repository.
ASKED = {
    "download": "import sys; from builders.tools.download import Downloader; "
    "Downloader().read(sys.argv[1], 1)",
    "git": "import sys; from builders.tools import gitrepo; "
    "sys.exit(gitrepo.why_not([sys.argv[1]]))",
}


@contextmanager
def serving(upstream: str) -> Iterator[Mirror]:
    server = Mirror(upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


Gpg = Callable[..., bytes]


@pytest.fixture
def gpg(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    """gpg at some time, with keys of its own."""
    if shutil.which("gpg-agent") is None or shutil.which("gpg") is None:
        leave_out(request, "gpg", "nothing can be signed")
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)

    def run(*words: str, time: str, text: bytes = b"") -> bytes:
        argv = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
        argv += ["--pinentry-mode", "loopback", "--faked-system-time", f"{time}T000000", *words]
        return subprocess.run(argv, input=text, stdout=subprocess.PIPE, check=True).stdout

    yield run
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)


def read_signed(gpg: Gpg, folder: Path, until: str, *words: str, more: bytes = b"") -> str:
    """Sign a Release in 2020, by a key of 2020 that is good `until` then; read it as a mirror's."""
    gpg("--quick-generate-key", "archive", "ed25519", "sign", until, time="20200101")
    signed = gpg(*words, "--clearsign", time="20200201", text=RELEASE)
    (folder / "keys").write_bytes(gpg("--export", time="20200201"))
    with serving("") as mirror, Downloader() as downloader:
        mirror.change["InRelease"] = lambda handler: handler.give(signed)
        archive = Archive(downloader, {"debian": (mirror.url,)}, folder / "keys")
        try:
            return archive.release_date("bullseye")
        except IntegrityError as error:
            assert error.place == f"{mirror.url}/dists/bullseye/InRelease"
            raise


@pytest.mark.calm
def test_a_signature_is_good_for_ever_unless_it_says_otherwise(gpg: Gpg, tmp_path: Path) -> None:
    assert read_signed(gpg, tmp_path, "never").startswith("Sat, 01 Feb 2020")


@pytest.mark.parametrize(
    ("until", "words", "said"),
    [
        ("60d", (), r"the key that signed it has expired \(EXPKEYSIG\)"),
        ("never", ("--default-sig-expire", "30d"), r"the signature has expired \(EXPSIG\)"),
    ],
)
def test_what_has_expired_is_called_so(
    until: str, words: tuple[str, ...], said: str, gpg: Gpg, tmp_path: Path
) -> None:
    with pytest.raises(IntegrityError, match=said) as caught:
        read_signed(gpg, tmp_path, until, *words)
    for step in ("check this machine's clock", "debian-archive-keyring", str(tmp_path / "keys")):
        assert step in caught.value.next_step


def with_faketime(request: pytest.FixtureRequest) -> None:
    if shutil.which("faketime") is None:
        leave_out(request, "faketime", "the clock cannot be set for one program")


@pytest.mark.parametrize(
    ("time", "code", "said"),
    [
        ("2012-01-01", 6, ("by this machine's clock, the key that signed it is not yet made",
                           "set the clock")),
        ("2025-06-01", 0, ()),
        ("2099-01-01", 6, ("has expired (EXPKEYSIG)", "check this machine's clock")),
    ],
)  # fmt: skip
def test_a_clock_that_is_wrong_is_named_where_it_matters(
    time: str,
    code: int,
    said: tuple[str, ...],
    request: pytest.FixtureRequest,
    provider: Debian,
    plan: BuildPlan,
    cache: Cache,
    tmp_path: Path,
) -> None:
    """That of the whole command, gpgv included: before the archive's keys were made, between
    them and what they sign today, and after their end. One package is not in the cache yet."""
    with_faketime(request)
    (tmp_path / "files").mkdir()
    for file in cache.files():
        if file.name != plan.toolchain.packages[0]["sha256"]:
            (tmp_path / "files" / file.name).symlink_to(file)
    own = apt.mirrors(os.environ)
    with serving(own["debian"][0]) as debian, serving(own["debian-security"][0]) as security:
        words = ("fetch", "--k8s", VERSION, "--toolchain", "debian", "--go", "distribution")
        asked = subprocess.run(
            ["faketime", f"{time} 00:00:00", sys.executable, "-c", FRONT, *words],
            cwd=ROOT,
            env={
                **os.environ,
                "NOKMEM_CACHE": str(tmp_path),
                "NOKMEM_DEBIAN_MIRROR": debian.url,
                "NOKMEM_DEBIAN_SECURITY_MIRROR": security.url,
                "CI": "true",
            },
            capture_output=True,
            text=True,
        )
    assert asked.returncode == code, asked.stderr
    for word in said:
        assert word in asked.stderr


@pytest.mark.parametrize(("time", "said"), [("2012", "is not yet valid"), ("2099", "has expired")])
@pytest.mark.parametrize("kind", ["download", "git"])
def test_a_clock_for_which_a_certificate_is_not_made_is_named(
    kind: str,
    time: str,
    said: str,
    request: pytest.FixtureRequest,
    servers: Servers,
) -> None:
    with_faketime(request)
    asked = subprocess.run(
        ["faketime", f"{time}-01-01 00:00:00", sys.executable, "-c", ASKED[kind], servers.https],
        cwd=ROOT,
        env={
            **{name: value for name, value in os.environ.items() if name not in VARIABLES},
            "REQUESTS_CA_BUNDLE": str(servers.authority),
        },
        capture_output=True,
        text=True,
    )
    by_clock = rf"not accepted: by this machine's clock it {said}"
    words = {"download": by_clock, "git": rf"this machine's clock|certificate {said}"}
    assert re.search(words[kind], asked.stderr), asked.stderr


def test_a_room_whose_clock_was_set_back_builds_as_ever(
    kind: str, cache: Cache, tmp_path: Path
) -> None:
    """All that it finds is of a time to come: nothing is made twice, and a patch has its say."""
    dist = tmp_path / "dist"
    one = small.make(tmp_path, generate=f"true {secrets.token_hex(8)}", age=NEXT_CENTURY)
    own = small.series(tmp_path / "own", "pkg/base/base.go", "plain", "other")
    for words, generates, holds in (
        ((), True, b"// plain"),
        (("--rebuild",), False, b"// plain"),
        (("--patches", own), True, b"// other"),
    ):
        run = build(dist, one, kind, *words)
        assert run.end() == 0, run.text
        assert ("generating of" in (dist / VERSION / "build.log").read_text()) is generates
        assert holds in (dist / VERSION / "kubelet").read_bytes()
