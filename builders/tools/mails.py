"""Patches as mails, by `git am`: applied strictly, under a fixed name and date."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from git.exc import GitCommandError

from builders.errors import IntegrityError
from builders.tools.files import Program
from builders.tools.gitrepo import sealed, succeeds

#: Who commits a patched tree; with the author's date as the committer's, ids are stable.
IDENTITY = {
    "GIT_AUTHOR_NAME": "nokmem",
    "GIT_AUTHOR_EMAIL": "nokmem@localhost",
    "GIT_AUTHOR_DATE": "2000-01-01T00:00:00Z",
    "GIT_COMMITTER_NAME": "nokmem",
    "GIT_COMMITTER_EMAIL": "nokmem@localhost",
    "GIT_COMMITTER_DATE": "2000-01-01T00:00:00Z",
}
TAIL_LINES = 20
#: What a file is by its mode in git, None where it is gone.
KINDS: dict[str, type[bytes] | None] = {"100644": bytes, "100755": Program, "000000": None}
#: A file that is empty, or of which a mail changes the mode alone, is named nowhere else.
BOTH = re.compile(rb"^diff --git a/([^\n\t]+)$", re.M)
TOUCHED = re.compile(rb"^(?:--- a/|\+\+\+ b/|(?:rename|copy) (?:from|to) )([^\s\"][^\n\t]*)$", re.M)


def apply(
    scratch: Path, files: Mapping[str, bytes | None], mails: Iterable[tuple[str, bytes]]
) -> tuple[str, dict[str, bytes | None]]:
    """Apply `git format-patch` mails, strictly and in order, to the files they touch.

    `files` has every path that a mail names, None where it is not there yet. Returns the id of
    the last commit, which is the same wherever the same mails meet the same files, and the files
    that changed, None where one is gone. IntegrityError names mail, file and line, or what is no
    plain file.
    """
    git = sealed(scratch)
    git.update_environment(**IDENTITY)
    git.init("--quiet", "--initial-branch=patched", "--template=")
    for path, content in files.items():
        if content is not None:
            (scratch / path).parent.mkdir(parents=True, exist_ok=True)
            (scratch / path).write_bytes(content)
            (scratch / path).chmod(0o755 if isinstance(content, Program) else 0o644)
    git.add("--all")
    git.commit("--quiet", "--allow-empty", "-m", "the files that patches touch")
    base = str(git.rev_parse("HEAD"))
    for name, mail in mails:
        letter = scratch / ".git" / "mail"
        letter.write_bytes(mail)
        try:
            git.am("--quiet", "--committer-date-is-author-date", "--no-3way", str(letter))
        except GitCommandError as error:
            already = succeeds(git, "apply", "--reverse", "--check", str(letter))
            raise IntegrityError(
                f"{name} is applied already" if already else f"{name} does not apply",
                place=_refused(error),
                next_step="patches/*/series.toml says which releases a patch serves",
                detail=tuple(_said(error).splitlines()[-TAIL_LINES:]),
            ) from error
    words = ["git", "diff", "--raw", "-z", "--no-renames", base, "HEAD"]
    rows = str(git.execute(words)).split("\0")
    changed: dict[str, bytes | None] = {}
    for meta, name in zip(rows[::2], rows[1::2], strict=False):
        mode = meta.split()[1]
        if mode not in KINDS:
            raise IntegrityError(
                "patches may make neither links nor submodules",
                place=name,
                next_step="let them make plain files",
            )
        kind = KINDS[mode]
        changed[name] = kind((scratch / name).read_bytes()) if kind else None
    return str(git.rev_parse("HEAD")), changed


def touched(mail: bytes) -> list[str]:
    """Every path that a mail's diffs name, and perhaps some more; sorted.

    IntegrityError for one that leaves the tree, or gets into a repository's own folder.
    """
    found = set()
    names = TOUCHED.findall(mail)
    for both in BOTH.findall(mail):
        name = both[: (len(both) - len(b" b/")) // 2]
        names += [name] if both == name + b" b/" + name else []
    for raw in names:
        path = raw.decode(errors="replace")
        if path.encode() != raw or {"", "..", ".git"} & set(path.lower().split("/")):
            raise IntegrityError(
                "a patch may not touch such a path",
                place=path,
                next_step="make it by git format-patch, in the source's own tree",
            )
        found.add(path)
    return sorted(found)


def _refused(error: GitCommandError) -> str:
    """The file and line that git names, as path:line."""
    found = re.search(r"patch failed: (\S+:\d+)", _said(error)) or re.search(
        r"error: (\S+): ", _said(error)
    )
    return found[1] if found else "the mail itself"


def _said(error: GitCommandError) -> str:
    return str(error.stderr or error).removeprefix("stderr: ").strip(" \n'")
