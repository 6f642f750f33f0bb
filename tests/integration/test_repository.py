"""Keys that are fit for EL7 and those that are not; a repository that grows, and what it refuses."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.errors import BusyError, MachineError, PackageError
from builders.model.artifact import Manifest
from builders.steps import repository
from builders.tools import gpg, process, yum
from builders.tools.cache import sha256_of
from builders.tools.gpg import Signer
from tests.conftest import leave_out
from tests.integration.test_el7 import make_key, make_package, run

WORD = "correct horse"
URL = "https://yum.example/nokmem"
EPOCH = 1610543941


@pytest.fixture(scope="module")
def tools(request: pytest.FixtureRequest) -> None:
    missing = [name for name in ("gpg", "rpmbuild", "rpmsign") if process.find(name) is None]
    if missing:
        leave_out(request, "vault", f"{', '.join(missing)} is not installed")


@pytest.fixture(scope="module")
def home(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A keyring with keys of many kinds, each named by what it is."""
    folder = tmp_path_factory.mktemp("gnupg") / "home"
    make_key(folder, "good")
    for name, algorithm, usage, expires, passphrase in (
        ("guarded", "rsa2048", "sign", "never", WORD),
        ("modern", "ed25519", "sign", "never", ""),
        ("certifier", "rsa2048", "cert", "never", ""),
        ("expired", "rsa2048", "sign", "seconds=1", ""),
        ("twin one", "rsa2048", "sign", "never", ""),
        ("twin two", "rsa2048", "sign", "never", ""),
    ):
        run("gpg", "--homedir", folder, "--batch", "--pinentry-mode", "loopback", "--passphrase",
            passphrase, "--quick-generate-key", name, algorithm, usage, expires)  # fmt: skip
    time.sleep(2)
    yield folder
    run("gpgconf", "--homedir", folder, "--kill", "all")


def signer(home: Path, word: str, passphrase: str | None = None) -> Signer:
    environment = {"GNUPGHOME": str(home)}
    if passphrase is not None:
        run("gpgconf", "--homedir", home, "--kill", "gpg-agent")  # which would remember it
        environment[gpg.PASSPHRASE] = passphrase
    return Signer(word, environment)


@pytest.mark.parametrize(
    ("word", "fact"),
    [
        ("nobody", "no secret key in the keyring"),
        ("", "no secret key|keys in the keyring"),
        ("twin", "2 keys in the keyring"),
        ("modern", "it is not RSA"),
        ("certifier", "its primary key may not sign"),
        ("expired", "it is expired"),
    ],
)
def test_a_key_that_will_not_do_is_refused_before_anything_is_made(
    home: Path, word: str, fact: str
) -> None:
    with pytest.raises(PackageError, match=fact) as caught:
        signer(home, word)
    assert caught.value.exit_code == 12 and "fingerprint" in caught.value.next_step


def test_a_wrong_passphrase_is_noticed_at_once_and_none_is_ever_shown(home: Path) -> None:
    with pytest.raises(PackageError, match="not signed by") as caught:
        signer(home, "guarded", "wrong horse")
    assert "wrong horse" not in f"{vars(caught.value)}"
    assert gpg.PASSPHRASE in caught.value.next_step
    assert signer(home, "guarded", WORD).key.owner == "guarded"


def test_a_detached_signature_is_of_the_key_and_of_the_file(home: Path, tmp_path: Path) -> None:
    one, file, keys = signer(home, "good"), tmp_path / "SHA256SUMS", tmp_path / "keys"
    file.write_text("text")
    assert one.detach(file) == tmp_path / "SHA256SUMS.asc"
    keys.write_bytes(one.public())
    assert b"PRIVATE" not in keys.read_bytes()
    assert gpg.verified(file, keys) == one.key.fingerprint
    file.write_text("texT")
    with pytest.raises(PackageError, match="not signed by a key"):
        gpg.verified(file, keys)
    file.write_text("text")
    keys.write_bytes(signer(home, "twin one").public())
    with pytest.raises(PackageError, match="not signed by a key"):
        gpg.verified(file, keys)


def dist(folder: Path, *packages: Path) -> tuple[Path, Manifest]:
    """What a repository reads of a dist folder with these packages."""
    rows = [{"file": path.name, "sha256": sha256_of(path)} for path in packages]
    return folder, Manifest({"packages": rows, "epoch": EPOCH})


@pytest.fixture
def rpms(tools: None, tmp_path: Path) -> list[Path]:
    made = [make_package(tmp_path, pin) for pin in ("one-1.0-1", "one-1.1-1", "two-2.0-1")]
    return [path for one in made for path in one.parent.glob("*.rpm")][-3:]


def named(folder: Path) -> set[str]:
    """The files that an index names."""
    index = folder / "repodata/repomd.xml"
    text = index.read_text() if index.exists() else ""
    return set(re.findall(r'href="repodata/([^"]+)"', text))


def test_a_repository_grows_and_changes_in_one_step(
    home: Path, rpms: list[Path], tmp_path: Path
) -> None:
    one, folder = signer(home, "good"), tmp_path / "repo"
    one.sign_rpms(rpms)
    for number, rpm in enumerate(rpms, 1):
        with repository.hold(folder):
            earlier = named(folder)
            assert repository.grow(folder, [dist(rpm.parent, rpm)], one, URL) == (1, number)
        left = {path.name for path in (folder / "repodata").iterdir()}
        assert earlier | named(folder) <= left, "somebody may be reading the earlier one"
        assert len(left) == 2 + len(earlier | named(folder)), "what is older goes"
        assert gpg.verified(folder / "repodata/repomd.xml", folder / "RPM-GPG-KEY-nokmem")
    assert sorted(p.name for p in folder.iterdir()) == [
        ".lock", "RPM-GPG-KEY-nokmem", "nokmem.repo", "packages", "repodata",
    ]  # fmt: skip
    with repository.hold(folder):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert repository.grow(folder, [dist(rpm.parent, *rpms)], one, URL) == (0, 3)
        assert {path.name for path in before} >= named(folder)
    text = (folder / "nokmem.repo").read_text()
    assert "\ngpgcheck=1\nrepo_gpgcheck=1\n" in text and f"gpgkey={URL}/RPM-GPG-KEY" in text
    times = {int(path.stat().st_mtime) for path in (folder / "packages").iterdir()}
    assert times == {EPOCH}


def content(folder: Path) -> dict[str, bytes]:
    """All that is in a repository, whoever is to see it or not."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_another_file_under_the_same_name_is_refused(rpms: list[Path], tmp_path: Path) -> None:
    folder, other = tmp_path / "repo", tmp_path / "other" / rpms[0].name
    other.parent.mkdir()
    shutil.copy(rpms[1], other)
    good, bad = dist(rpms[0].parent, rpms[0]), dist(other.parent, other)
    with repository.hold(folder):
        with pytest.raises(PackageError, match="another package is there"):
            repository.grow(folder, [good, bad], None, URL)
        assert set(content(folder)) == {".lock"}, "of two in one run neither is added"
        repository.grow(folder, [good], None, URL)
        before = content(folder)
        with pytest.raises(PackageError, match="another package is there"):
            repository.grow(folder, [dist(rpms[1].parent, rpms[1]), bad], None, URL)
        assert content(folder) == before


def test_a_folder_without_packages_is_told_apart(rpms: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    with repository.hold(folder), pytest.raises(PackageError, match="no packages") as caught:
        repository.grow(folder, [dist(rpms[0].parent, *rpms), dist(tmp_path)], None, URL)
    assert "./run package" in caught.value.next_step
    assert set(content(folder)) == {".lock"}


def test_a_package_that_changes_while_it_is_copied_is_refused(
    rpms: list[Path], tmp_path: Path
) -> None:
    folder, known = tmp_path / "repo", dist(rpms[0].parent, *rpms)
    rpms[1].write_bytes(rpms[1].read_bytes() + b"x")
    with repository.hold(folder), pytest.raises(PackageError, match=rpms[1].name):
        repository.grow(folder, [known], None, URL)
    assert set(content(folder)) == {".lock"}


def test_what_is_not_signed_is_not_in_a_signed_repository(
    home: Path, rpms: list[Path], tmp_path: Path
) -> None:
    one, folder = signer(home, "good"), tmp_path / "repo"
    one.sign_rpms(rpms[:1])
    signer(home, "twin one").sign_rpms(rpms[1:2])
    with repository.hold(folder):
        repository.grow(folder, [dist(rpms[0].parent, rpms[0])], one, URL)
        before = content(folder)
        with pytest.raises(PackageError) as caught:
            repository.grow(folder, [dist(rpms[0].parent, *rpms)], one, URL)
    assert rpms[0].name not in caught.value.fact
    assert all(path.name in caught.value.fact for path in rpms[1:])
    assert content(folder) == before, "what is refused is not left behind"


def test_a_signed_repository_takes_nothing_without_its_key(
    home: Path, rpms: list[Path], tmp_path: Path
) -> None:
    one, folder = signer(home, "good"), tmp_path / "repo"
    one.sign_rpms(rpms)
    with repository.hold(folder):
        repository.grow(folder, [dist(rpms[0].parent, rpms[0])], one, URL)
        before = content(folder)
        with pytest.raises(PackageError, match="this repository is signed"):
            repository.grow(folder, [dist(rpms[0].parent, *rpms)], None, URL)
        with pytest.raises(PackageError, match="not signed by"):
            repository.grow(folder, [], signer(home, "twin one"), URL)
    assert content(folder) == before


def test_an_index_believes_no_earlier_one(home: Path, rpms: list[Path], tmp_path: Path) -> None:
    """A package that was signed again has the same size, and here the same time too."""
    one, folder = signer(home, "good"), tmp_path / "repo"
    again = Path(shutil.copy(rpms[0], tmp_path))
    one.sign_rpms(rpms)
    with repository.hold(folder):
        repository.grow(folder, [dist(rpms[0].parent, rpms[0])], one, URL)
        place = folder / "packages" / rpms[0].name
        before = place.stat()
        time.sleep(1)  # or it would be the same signature
        one.sign_rpms([again])
        shutil.copyfile(again, place)
        os.utime(place, (EPOCH, EPOCH))
        assert place.stat().st_size == before.st_size and sha256_of(place) != sha256_of(rpms[0])
        repository.grow(folder, [dist(rpms[1].parent, rpms[1])], one, URL)
    assert yum.listed(folder)[f"packages/{place.name}"] == sha256_of(place)


def test_without_a_key_it_says_what_that_means(rpms: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    with repository.hold(folder):
        assert repository.grow(folder, [dist(rpms[0].parent, *rpms)], None, URL) == (3, 3)
    text = (folder / "nokmem.repo").read_text()
    assert text.startswith("# Not signed") and "gpgcheck=0\nrepo_gpgcheck=0" in text


def test_a_package_for_another_machine_is_refused(
    tools: None, rpms: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "repo"
    (tmp_path / "arm").mkdir()
    spec = tmp_path / "arm/three.spec"
    spec.write_text("Name: three\nVersion: 1\nRelease: 1\nSummary: s\nLicense: none\n"
                    "%description\nd\n%files\n")  # fmt: skip
    run("rpmbuild", "-bb", "--quiet", "--target", "aarch64-linux", spec,
        "--define", f"_topdir {tmp_path}/arm", "--define", f"_rpmdir {folder}/packages",
        "--define", "_rpmfilename %%{NAME}.rpm")  # fmt: skip
    known = dist(rpms[0].parent, *rpms)
    with repository.hold(folder):
        with pytest.raises(PackageError, match=r"three\.rpm: not for x86_64"):
            repository.grow(folder, [known], None, URL)
        (folder / "packages/three.rpm").write_text("no RPM at all")
        with pytest.raises(PackageError, match=r"three\.rpm: no RPM"):
            repository.grow(folder, [known], None, URL)
    assert set(content(folder)) == {".lock", "packages/three.rpm"}


def test_two_writers_and_a_killed_one(rpms: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    with repository.hold(folder):
        with pytest.raises(BusyError), repository.hold(folder):
            pass
        (folder / ".12345678.partial/repodata").mkdir(parents=True)
    with repository.hold(folder):
        assert not list(folder.glob(".*.partial"))


def test_a_place_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "repo").write_text("a file")
    with pytest.raises(MachineError, match="cannot be written"), repository.hold(tmp_path / "repo"):
        pass
