"""What a machine lacks, and what it can do without."""

from __future__ import annotations

from functools import partial

import pytest

from builders.steps import examine
from builders.steps.examine import Finding, Probe, lacking
from builders.tools import gitrepo, process


def test_one_of_a_group_is_enough_and_what_is_optional_stands_in_nobodys_way() -> None:
    container = Finding("container", False, "none", group="builder")
    rootfs = Finding("rootfs", True, "yes", group="builder")
    mirror = Finding("git", False, "silent", optional=True)
    disk = Finding("disk", False, "full")
    assert lacking((container, rootfs, mirror)) == ()
    assert lacking((container, mirror)) == (container,)
    assert lacking((container, rootfs, disk)) == (disk,)


def test_a_machine_without_git_is_told_so_in_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "find", lambda _: None)
    ask = partial(gitrepo.why_not, ["https://git.example/kubernetes.git"])
    row = examine._probe(Probe("source git kubelet", "git.example", ask, ""))
    assert row.optional and row.found.startswith("git is not installed")
    assert lacking([examine._git(), row]) == (examine._git(),)
    assert "apt-get install git" in examine._git().next_step


@pytest.mark.parametrize(
    ("said", "ok", "optional"),
    [
        ("git version 2.31.0", True, True),
        ("git version 3.0", True, True),
        ("git version 2.30.2", False, True),
        ("git version 1.8.3.1", False, False),
        ("", False, False),
    ],
)
def test_a_git_that_is_too_old_is_named(
    said: str, ok: bool, optional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian 11's is enough for patches, and so for what the distribution holds."""
    monkeypatch.setattr(process, "find", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(process, "capture", lambda _: (None, said))
    row = examine._git()
    assert (row.ok, row.optional, "2.31 is needed" in row.found) == (ok, optional, not ok)
