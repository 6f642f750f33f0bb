"""Git repositories, by GitPython: fetch one tag, say what a checkout is, archive one commit.

What a tag means is decided by the commit id the caller has pinned; a repository can only have
that commit or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from git.cmd import Git
from git.exc import GitCommandError

from builders.errors import IntegrityError, UnavailableError, UsageError
from builders.tools.download import redacted

#: Nothing of the user's or the machine's configuration takes part, and nobody is asked.
ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
}
#: Upstream's attributes would change or leave out files on the way (export-subst fills
#: Kubernetes' version.sh in); these, in the repository itself, win over them.
ATTRIBUTES = "* -export-subst -export-ignore\n"


@dataclass(frozen=True)
class Checkout:
    """What a folder of the user's is: the commit it stands at, and whether files differ from it.
    A bare repository is never dirty."""

    head: str
    dirty: bool


def fetch(store: Path, url: str, tag: str, commit: str) -> None:
    """Bring one tag, without history, into a bare repository shared by all versions.

    Nothing is asked where the commit is there already. IntegrityError where the tag is another
    commit, UnavailableError where nothing answers.
    """
    git = _git(store)
    if not store.is_dir():
        store.mkdir(parents=True)
        git.init("--quiet", "--bare")
    if _ok(git, "rev-parse", "--verify", "--quiet", f"refs/pinned/{commit}"):
        return
    try:
        git.fetch("--quiet", "--no-tags", "--depth=1", url, f"refs/tags/{tag}")
        actual = str(git.rev_parse("FETCH_HEAD^{commit}"))
    except GitCommandError as error:
        raise UnavailableError(
            f"the tag {tag} could not be fetched: {_reason(error, url)}",
            place=redacted(url) if "://" in url else url,
            next_step="check the address, the network and the proxy variables",
        ) from error
    if actual != commit:
        raise IntegrityError(
            f"tag {tag} moved: expected {commit}, got {actual}",
            place=redacted(url) if "://" in url else url,
            next_step="ask upstream why; do not change the pin to fit",
        )
    # A ref of its own says that the commit is here, whole, and keeps it.
    git.update_ref(f"refs/pinned/{commit}", commit)


def look(folder: Path) -> Checkout:
    """What a folder is; UsageError where it is no repository."""
    git = _git(folder)
    try:
        head = str(git.rev_parse("HEAD^{commit}"))
        bare = str(git.rev_parse("--is-bare-repository")) == "true"
        dirty = not bare and bool(git.status("--porcelain"))
    except (GitCommandError, OSError) as error:
        raise UsageError(
            f"this is no repository with a commit: {_reason(error, '')}",
            place=str(folder),
            next_step="give a checkout or a bare repository",
        ) from error
    return Checkout(head, dirty)


def archive(folder: Path, commit: str, destination: Path) -> None:
    """Write the tree of a commit as a tar; the working tree plays no part."""
    scratch = destination.with_suffix(".git")
    scratch.mkdir()
    git = _git(scratch)
    try:
        objects = str(_git(folder).rev_parse("--path-format=absolute", "--git-path", "objects"))
        git.init("--quiet", "--bare")
        (scratch / "info/attributes").write_text(ATTRIBUTES)
        (scratch / "objects/info/alternates").write_text(f"{objects}\n")
        with destination.open("wb") as file:
            git.archive("--format=tar", commit, output_stream=file)
    except GitCommandError as error:
        raise UnavailableError(
            f"commit {commit} cannot be read whole: {_reason(error, '')}",
            place=str(folder),
            next_step="fetch it into that repository: git fetch <upstream> tag <tag>, "
            "without --filter",
        ) from error


def _git(folder: Path) -> Git:
    git = Git(str(folder))
    git.update_environment(**ENVIRONMENT)
    return git


def _ok(git: Git, *words: str) -> bool:
    try:
        git.execute(["git", *words])
    except GitCommandError:
        return False
    return True


def _reason(error: Exception, url: str) -> str:
    """git's last line without the address, which could hold a password."""
    text = str(getattr(error, "stderr", None) or error)
    lines = [line.strip(" '") for line in text.splitlines() if line.strip(" '")]
    last = lines[-1].removeprefix("stderr: ").strip("'") if lines else type(error).__name__
    return last.replace(url, redacted(url)) if url else last
