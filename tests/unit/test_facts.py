"""The data is whole, and a hole in it is refused with the file's name."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import pytest

from builders.errors import FactsError
from builders.model.reading import load_toml
from builders.model.releases import DATA, Facts

EDITS = {
    "a commit cut short": ("kubernetes/1.20.toml", 'commit = "f', 'commit = "'),
    "evidence taken away": ("kubernetes/1.20.toml", "nokmem =", "rumour ="),
    "a mechanism nobody knows": ("kubernetes/1.21.toml", '"not needed"', '"hope"'),
    "a range from nowhere": ("kubernetes/1.21.toml", 'from = "v1.21.2"', 'from = "v1.21.99"'),
    "releases out of order": ("kubernetes/1.20.toml", '"v1.20.15"', '"v1.20.0"'),
    "a minor without a runc": ("kubernetes.toml", '"1.14"', '"1.41"'),
    "a pair without a reason": ("kubernetes.toml", "reason =", "rumour ="),
    "a minor without a pair": ("kubernetes.toml", "current =", "currant ="),
    "a Go with half a hash": ("go.toml", 'sha256 = "de87', 'sha256 = "'),
    "a Go without evidence": ("go.toml", "evidence = \"docker-library/golang@cffc", "evidence = \" \" #"),
    "an image without a digest": ("el7.toml", 'digest = "sha256:', 'digest = "'),
    "a package without a reason": ("el7.toml", 'reason = "cgo"', 'reason = ""'),
    "a proof without a date": ("proofs.toml", 'date = "2026-11-20"', 'date = "soon"'),
    "empty evidence": ("targets.toml", 'glibc_evidence = "C', 'glibc_evidence = " " #'),
    "a release of another minor": ("kubernetes/1.20.toml", '"v1.20.2"', '"v1.19.2"'),
    "a hash with a wrong letter": ("debian/bookworm.toml", 'sha256 = "b83c', 'sha256 = "x83c'),
    "a path out of the archive": ("debian/bookworm.toml", 'path = "pool', 'path = "../pool'),
    "a package out of the lock": ("debian/bullseye.lock.toml", 'package = "rsync"', 'package = "r"'),
    "a source out of the lock": (
        "debian/bullseye.lock.toml",
        'package = "golang-github-opencontainers-runc-dev"',
        'package = "golang-x-dev"',
    ),
    "broken TOML": ("runc.toml", "[releases", "[[releases"),
    "a key taken away": ("runc.toml", "repository =", "repositories ="),
    "an unknown way of nokmem": ("runc.toml", 'nokmem = "tag" }', 'nokmem = "perhaps" }'),
    "a fault mended in no release": ("runc.toml", 'fixed_in = "1.1.12"', 'fixed_in = "9.9"'),
    "a fault of what is no release": ("runc.toml", '"1.0.0-rc9"]', '"1.0.0-rc09"]'),
    "a fix without evidence": ("debian/bullseye.toml", "fixes_evidence", "fixes_rumour"),
}  # fmt: skip


def load_all(folder: Path) -> Facts:
    facts = Facts(folder)
    assert facts.releases and facts.runcs and facts.repositories and facts.targets
    assert facts.toolchains and facts.debian_sources and facts.go_archives and facts.go_source
    assert facts.proofs
    return facts


def test_everything_loads() -> None:
    load_all(DATA)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_a_hole_is_refused(edit: tuple[str, str, str], tmp_path: Path) -> None:
    name, old, new = edit
    shutil.copytree(DATA, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / name).read_text()
    assert old in text, "the edit no longer finds its place"
    (tmp_path / name).write_text(text.replace(old, new))
    with pytest.raises(FactsError) as caught:
        load_all(tmp_path)
    user = name.replace(".lock", "")  # a lock is read for the facts that name its packages
    places = [str(tmp_path / name), str(tmp_path / user)]
    places += [
        str(path) for path in (tmp_path / "kubernetes").iterdir() if name == "kubernetes.toml"
    ]
    assert caught.value.place in places


def test_every_release_has_its_runc_by_every_pair() -> None:
    facts = load_all(DATA)
    for release, pair in product(facts.releases.values(), ("", "article", "current")):
        assert facts.runc(release.runc(pair)).nokmem in ("tag", "not needed")


def test_every_patch_release_of_every_minor_is_there() -> None:
    """v1.22.17 is the last one that exists and is not here."""
    last = {9: 11, 10: 13, 11: 10, 12: 10, 13: 12, 14: 10, 15: 12, 16: 15, 17: 17, 18: 20, 19: 16,
            20: 15, 21: 14, 22: 16}  # fmt: skip
    wanted = [f"v1.{minor}.{patch}" for minor, end in last.items() for patch in range(end + 1)]
    assert list(load_all(DATA).releases) == wanted


def test_facts_that_are_known_from_elsewhere() -> None:
    """The article's pair, and both ends of the tag's life."""
    facts = load_all(DATA)
    assert facts.release("v1.15.3").go == "1.12.9"
    mechanisms = {v: facts.release(v).mechanism for v in ("v1.13.12", "v1.14.0", "v1.21.1")}
    assert mechanisms == {"v1.13.12": "backport", "v1.14.0": "tag", "v1.21.1": "tag"}
    assert facts.release("v1.21.2").mechanism == "not needed"


def test_a_proof_is_of_something_known() -> None:
    facts = load_all(DATA)
    for proof in facts.proofs:
        known = facts.runcs if proof.component == "runc" else facts.releases
        assert proof.release in known


def test_every_package_says_what_it_is_for() -> None:
    reasons = load_toml(DATA / "debian/bullseye.toml")["packages"]
    assert all(reason.strip() for reason in reasons.values())


def test_no_mirror_is_written_down() -> None:
    for path in DATA.rglob("*.toml"):
        lines = path.read_text().splitlines()
        assert not [
            x
            for x in lines
            if "://" in x
            and not x.startswith(
                ("repository = ", "source = ", "url = ", "  rpm-software", 'key = "file:')
            )
        ], path
