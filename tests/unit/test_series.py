"""Patch series: each mail is listed once, serves some release, and says why it is there."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builders.errors import FactsError, IntegrityError
from builders.model.components import patches_for
from builders.model.releases import PATCHES, Facts
from builders.model.series import ADOPTION, load_series
from builders.tools import mails
from tests.unit.test_fuzz import proper

KNOWN = Facts().known
SERIES = PATCHES / "kubernetes/series.toml"


def test_no_patch_of_ours_is_an_orphan_and_each_says_why() -> None:
    facts = Facts()
    assert facts.patches
    for patch in facts.patches:
        assert patch.serves and patch.subject and not patch.own
        for version in patch.serves:
            assert patch in patches_for(facts, patch.component, version)


def test_every_release_that_needs_a_backport_has_one() -> None:
    facts = Facts()
    for release in facts.releases.values():
        brought = {patch.brings for patch in patches_for(facts, "kubernetes", release.version)}
        assert ("nokmem" in brought) == (release.mechanism == "backport"), release.version
        assert (ADOPTION in brought) == (not release.version.startswith("v1.9.")), release.version


def edit(old: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        text = (folder / "kubernetes/series.toml").read_text()
        assert old in text, "the edit no longer finds its place"
        (folder / "kubernetes/series.toml").write_text(text.replace(old, new))

    return change


def folders(component: Path) -> None:
    for mail in component.glob("*.patch"):
        mail.unlink()
        mail.mkdir()


HOLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "an unlisted mail": (lambda f: (f / "kubernetes/9.patch").touch(), "9.patch"),
    "a listed one that is not there": (edit('"0001-', '"0003-'), "not both and once"),
    "an unknown release": (edit("v1.13.12", "v1.13.99"), "is no known release: 'v1.13.99'"),
    "a range the wrong way round": (edit('"v1.9.0"\nuntil = "v1.13.12"',
                                         '"v1.13.0"\nuntil = "v1.12.0"'), "serves nothing"),
    "an unknown key": (edit("brings", "takes"), "unknown keys: takes"),
    "no reason": (edit("reason =", "rumour ="), "rumour"),
    "empty evidence": (edit('evidence = "', 'evidence = "" # '), "evidence"),
    "a folder for a mail": (
        lambda f: folders(f / "kubernetes"),
        "has no file to add",
    ),
    "a number for a tag": (edit('brings = "nokmem"', "brings = 5"), "brings must be a text"),
    "a file for a component": (lambda f: (f / "runc").touch(), "not a component: runc"),
    "no end of brackets": (
        lambda f: (f / "kubernetes/series.toml").write_text("a = " + "[" * 100_000),
        "cannot be read",
    ),
    "no mail": (lambda f: next((f / "kubernetes").glob("*.patch")).write_text("diff"), "not a mail"),
    "no component": (lambda f: (f / "kubelet").mkdir(), "not a component: kubelet"),
    "no series": (lambda f: (f / "kubernetes/series.toml").unlink(), "cannot be read"),
    "no folder": (shutil.rmtree, "no such folder"),
}  # fmt: skip


@pytest.mark.parametrize("hole", HOLES.values(), ids=HOLES.keys())
def test_a_hole_is_refused(hole: tuple[Callable[[Path], object], str], tmp_path: Path) -> None:
    damage, why = hole
    folder = tmp_path / "patches"
    shutil.copytree(PATCHES, folder)
    load_series(folder, KNOWN)
    damage(folder)
    with pytest.raises(FactsError) as caught:
        load_series(folder, KNOWN)
    assert why in caught.value.fact
    assert str(folder) in caught.value.place


def test_a_series_of_ones_own_comes_after_the_projects(tmp_path: Path) -> None:
    shutil.copytree(PATCHES, tmp_path / "own")
    found = patches_for(Facts(own_patches=tmp_path / "own"), "kubernetes", "v1.13.12")
    assert [patch.own for patch in found] == [False] * 4 + [True] * 4


def test_a_control_gets_the_users_patches_alone(tmp_path: Path) -> None:
    shutil.copytree(PATCHES, tmp_path / "own")
    facts = Facts(own_patches=tmp_path / "own")
    assert all(p.own for p in patches_for(facts, "kubernetes", "v1.13.12", "stock"))


#: What each revision of the series is made of, as the beginning of a hash over its patches.
REVISIONS = {1: "f400d39559b89ff6"}


def test_a_series_that_changed_has_another_revision() -> None:
    """Two kubelets of one id take each other for the same, and keep nothing of each other's."""
    patches = [p for p in Facts().patches if p.component == "kubernetes"]
    (revision,) = {p.revision for p in patches if p.brings == ADOPTION}
    digest = hashlib.sha256("".join(p.sha256 for p in patches).encode()).hexdigest()[:16]
    assert REVISIONS.get(revision) == digest, (
        f"the series is {digest} now: raise `revision` in patches/kubernetes/series.toml and "
        "note it in REVISIONS"
    )


@pytest.mark.parametrize(
    "path",
    [b"/etc/passwd", b"../x", b"a/../../x", b".git/config", b"a/.Git/hooks/x", b"\xff", b"a//b"],
)
def test_a_patch_may_not_leave_the_tree(path: bytes) -> None:
    assert mails.touched(b"--- a/a/b.go\n+++ b/a/b.go\n") == ["a/b.go"]
    with pytest.raises(IntegrityError, match="may not touch"):
        mails.touched(b"--- a/a/b.go\n+++ b/%s\n" % path)


def test_a_mail_names_what_it_changes_nothing_in() -> None:
    mail = b"diff --git a/a b/c b/a b/c\nold mode 100644\nnew mode 100755\n"
    assert mails.touched(mail) == ["a b/c"]
    with pytest.raises(IntegrityError, match="may not touch"):
        mails.touched(b"diff --git a/../x b/../x\n")
    assert mails.touched(b"diff --git a/x b/y\nrename from x\nrename to y\n") == ["x", "y"]


def test_a_long_mail_that_is_none_is_known_soon(tmp_path: Path) -> None:
    shutil.copytree(PATCHES, tmp_path / "own")
    mail = next((tmp_path / "own/kubernetes").glob("*.patch"))
    mail.write_text(f"From {'a' * 40} x\n" + "From: x\nDate: x\n" * 20_000)
    error = proper(lambda: load_series(tmp_path / "own", KNOWN))
    assert isinstance(error, FactsError) and "is not a mail" in error.fact
