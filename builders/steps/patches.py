"""Source and patches -> the files that change. Strict: what does not apply exactly is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from builders.errors import IntegrityError
from builders.model.plan import ComponentPlan
from builders.model.series import Patch
from builders.tools import mails


@dataclass(frozen=True)
class Patched:
    """What patches make of a source: `files` by path, None where one is gone, a Program where one
    may be executed; `commit` is the id of the last one as a commit on nothing but the touched
    files."""

    files: dict[str, bytes | None]
    commit: str


Read = Callable[[Iterable[str]], dict[str, bytes | None]]


def apply(component: ComponentPlan, patches: Iterable[Patch], read: Read, folder: Path) -> Patched:
    """Apply a component's patches to those files of its source that they touch.

    `read` gives the content of the source's plain files by path, None where there is none;
    `folder` is empty scratch.

    IntegrityError names release, patch, file and line.
    """
    patches = list(patches)
    if not patches:
        return Patched({}, "")
    paths = sorted({path for patch in patches for path in mails.touched(patch.body)})
    files = read(paths)
    try:
        commit, changed = mails.apply(
            folder, files, [(patch.name, patch.body) for patch in patches]
        )
    except IntegrityError as error:
        raise IntegrityError(
            f"{component.name} {component.version}: {error.fact}",
            place=error.place,
            next_step=error.next_step,
            detail=error.detail,
        ) from error
    return Patched(changed, commit)
