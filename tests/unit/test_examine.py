"""What a machine lacks, and what it can do without."""

from __future__ import annotations

from builders.steps.examine import Finding, lacking


def test_one_of_a_group_is_enough_and_what_is_optional_stands_in_nobodys_way() -> None:
    container = Finding("container", False, "none", group="builder")
    rootfs = Finding("rootfs", True, "yes", group="builder")
    mirror = Finding("git", False, "silent", optional=True)
    disk = Finding("disk", False, "full")
    assert lacking((container, rootfs, mirror)) == ()
    assert lacking((container, mirror)) == (container,)
    assert lacking((container, rootfs, disk)) == (disk,)
