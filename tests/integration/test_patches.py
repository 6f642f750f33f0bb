"""Real mails on real files, by git: exact or refused, and the same commit everywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pytest

from builders import pipeline
from builders.errors import IntegrityError
from builders.model.plan import BuildRequest, ComponentPlan
from builders.model.releases import PATCHES, Facts
from builders.model.series import ADOPTION, Patch
from builders.steps import patches
from builders.tools import gitrepo, mails
from builders.tools.files import Program
from tests.integration.test_gitrepo import git

FILES = {"a.go": "one\ntwo\nthree\nfour\nfive\n", "gone.go": "x\n", "sub/b.go": "b\n"}


@pytest.fixture
def component() -> ComponentPlan:
    return pipeline.plan(BuildRequest("v1.15.3")).components[1]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "tree")
    return folder


def mail(repository: Path, changes: dict[str, str | None], subject: str = "change") -> Patch:
    """What git format-patch makes of a change on top of the repository."""
    for name, text in changes.items():
        path = repository / name
        path.parent.mkdir(exist_ok=True)
        path.unlink() if text is None else path.write_text(text)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "-m", subject)
    body = git(repository, "format-patch", "-1", "-U1", "--stdout").encode() + b"\n"
    return Patch(
        "kubernetes", f"{subject}.patch", "0" * 64, subject, "", "", (), "", 0, False, body
    )


def read(paths: Iterable[str]) -> dict[str, bytes | None]:
    return {path: FILES[path].encode() if path in FILES else None for path in paths}


def apply(component: ComponentPlan, folder: Path, *series: Patch) -> patches.Patched:
    folder.mkdir()
    return patches.apply(component, series, read, folder)


def test_what_changes_appears_and_goes_is_handed_on(
    component: ComponentPlan, repository: Path, tmp_path: Path
) -> None:
    changed = FILES["a.go"].replace("three", "3")
    series = mail(repository, {"a.go": changed, "gone.go": None, "new/c.go": "c\n"})
    done = apply(component, tmp_path / "w", series)
    assert done.files == {"a.go": changed.encode(), "gone.go": None, "new/c.go": b"c\n"}


def test_mails_build_on_each_other_and_give_the_same_commit_anywhere(
    component: ComponentPlan, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = mail(repository, {"a.go": FILES["a.go"].replace("three", "3")}, "first")
    second = mail(repository, {"a.go": FILES["a.go"].replace("three", "3").replace("four", "4")})
    here = apply(component, tmp_path / "w", first, second)
    assert here.files["a.go"] == b"one\ntwo\n3\n4\nfive\n"
    monkeypatch.setenv("GIT_AUTHOR_NAME", "somebody else")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert apply(component, tmp_path / "elsewhere", first, second) == here
    with pytest.raises(IntegrityError, match="does not apply"):
        apply(component, tmp_path / "other order", second, first)


def test_a_line_above_moves_a_hunk_but_changed_context_refuses_it(
    component: ComponentPlan, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = mail(repository, {"a.go": FILES["a.go"].replace("four", "4")})
    monkeypatch.setitem(FILES, "a.go", "zero\n" + FILES["a.go"])
    done = apply(component, tmp_path / "moved", series)
    assert done.files["a.go"] == b"zero\none\ntwo\nthree\n4\nfive\n"
    monkeypatch.setitem(FILES, "a.go", FILES["a.go"].replace("three", "THREE"))
    with pytest.raises(
        IntegrityError, match=r"kubelet v1\.15\.3: change\.patch does not apply"
    ) as no:
        apply(component, tmp_path / "fuzzy", series)
    assert no.value.place == "a.go:3", "the file and the hunk"


def test_programs_appear_move_and_cease_to_be(
    component: ComponentPlan, repository: Path, tmp_path: Path
) -> None:
    """Of what changes the mode alone too, or the name."""
    for name, mode in (("gone.go", 0o755), ("sub/b.go", 0o755)):
        (repository / name).chmod(mode)
    git(repository, "commit", "--quiet", "-a", "-m", "programs")
    before = git(repository, "rev-parse", "HEAD")
    (repository / "a.go").chmod(0o755)
    (repository / "gone.go").chmod(0o644)
    (repository / "sub/b.go").rename(repository / "c.go")
    (repository / "new.sh").touch(0o755)
    series = mail(repository, {"new.sh": "true\n"})

    def look(paths: Iterable[str]) -> dict[str, bytes | None]:
        return gitrepo.read(repository, before, paths)

    assert isinstance(look(["sub/b.go"])["sub/b.go"], Program)
    (tmp_path / "w").mkdir()
    found = patches.apply(component, [series], look, tmp_path / "w").files
    assert found == {
        "a.go": FILES["a.go"].encode(), "c.go": b"b\n", "gone.go": b"x\n", "new.sh": b"true\n",
        "sub/b.go": None,
    }  # fmt: skip
    programs = [name for name, content in found.items() if isinstance(content, Program)]
    assert programs == ["a.go", "c.go", "new.sh"]


@pytest.mark.parametrize("kind", ["link", "submodule"])
def test_what_is_no_plain_file_is_refused(
    kind: str, component: ComponentPlan, repository: Path, tmp_path: Path
) -> None:
    if kind == "link":
        (repository / "new").symlink_to("/etc/passwd")
    else:
        (repository / "new").mkdir()
        head = git(repository, "rev-parse", "HEAD")
        git(repository, "update-index", "--add", "--cacheinfo", f"160000,{head},new")
    with pytest.raises(IntegrityError, match="neither links nor submodules") as caught:
        apply(component, tmp_path / "w", mail(repository, {}))
    assert caught.value.place == "new"


def test_what_is_in_already_is_said_to_be(
    component: ComponentPlan, repository: Path, tmp_path: Path
) -> None:
    series = mail(repository, {"a.go": FILES["a.go"].replace("four", "4")})
    with pytest.raises(IntegrityError, match="is applied already"):
        apply(component, tmp_path / "twice", series, series)


def test_a_file_that_should_be_new_and_is_there_is_refused(
    component: ComponentPlan, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = mail(repository, {"c.go": "c\n"})
    monkeypatch.setitem(FILES, "c.go", "there\n")
    with pytest.raises(IntegrityError, match="does not apply") as caught:
        apply(component, tmp_path / "w", series)
    assert caught.value.place == "c.go"


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", ".git/hooks/post-commit"])
def test_a_mail_that_reaches_out_of_the_tree_is_refused(
    name: str, component: ComponentPlan, repository: Path, tmp_path: Path
) -> None:
    series = mail(repository, {"c.go": "c\n"})
    hostile = series.body.replace(b"b/c.go", f"b/{name}".encode()).replace(
        b"a/c.go", f"a/{name}".encode()
    )
    with pytest.raises(IntegrityError, match="may not touch"):
        apply(component, tmp_path / "w", dataclasses.replace(series, body=hostile))
    assert not (tmp_path / "out").exists()


def test_no_hook_of_the_users_runs(
    component: ComponentPlan, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "template/hooks"
    hooks.mkdir(parents=True)
    (hooks / "applypatch-msg").write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    (hooks / "applypatch-msg").chmod(0o755)
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(tmp_path / "template"))
    apply(component, tmp_path / "w", mail(repository, {"c.go": "c\n"}))
    assert not (tmp_path / "ran").exists()


def test_a_folder_is_a_mail_that_adds_its_files(tmp_path: Path) -> None:
    (adoption,) = [p for p in Facts().patches if p.brings == ADOPTION]
    folder = PATCHES / "kubernetes" / adoption.name
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert mails.touched(adoption.body) == names
    _, changed = mails.apply(tmp_path, dict.fromkeys(names), [(adoption.name, adoption.body)])
    assert changed == {name: (folder / name).read_bytes() for name in names}
