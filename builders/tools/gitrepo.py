"""Git repositories, by GitPython: fetch one tag, say what a checkout is, archive one commit,
read tags and files.

What a tag means is decided by the commit id the caller has pinned; a repository can only have
that commit or not.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # or a machine without git cannot even plan
from git.cmd import Git
from git.exc import GitCommandError

from builders.errors import IntegrityError, MachineError, UnavailableError, UsageError
from builders.tools import process
from builders.tools.cache import CHUNK
from builders.tools.download import redacted, scrubbed, shown
from builders.tools.files import Program

ABSENT = "it is not there"
#: The first version that knows --path-format, and --initial-branch.
LEAST, LEAST_FOR_PATCHES = (2, 31), (2, 28)
#: Nothing of the user's or the machine's configuration takes part, and nobody is asked.
ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "GIT_ALLOW_PROTOCOL": "none",  # a partial clone would ask its origin for what it lacks
    # A server that says nothing for so many seconds is given up; one at work says it is alive.
    "GIT_HTTP_LOW_SPEED_LIMIT": "1",
    "GIT_HTTP_LOW_SPEED_TIME": "300",
}
FETCHED_BY = {"GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh"}
#: Where `requests` looks for the user's certificate authorities, in its order.
AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
#: What would make git work elsewhere, or trust anybody: a hook that calls us sets some of these.
INHERITED = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CEILING_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_SSL_NO_VERIFY",
    "GIT_WORK_TREE",
)
FULL = "No space left on device"
ATTEMPTS = 3
ANSWER_SECONDS = 20
TAIL_LINES = 20
#: What git says of a connection that may be there the next time.
BROKEN = re.compile(
    r"early EOF|unexpected disconnect|RPC failed|hung up|timed out|reset by peer|HTTP 5\d\d"
    r"|error: 5\d\d|transfer closed|too slow"
)
#: What git adds to whatever the other side or its ssh said.
NO_REASON = ("Could not read from remote", "Please make sure", "and the repository exists")
#: All that a git with GnuTLS says of a certificate, whatever is wrong with it.
NO_CAUSE = "server certificate verification failed"
NO_NEWS = re.compile("^unable to access '[^']*': ")
#: Upstream's attributes would change or leave out files on the way (export-subst fills
#: Kubernetes' version.sh in); these, in the repository itself, win over them.
ATTRIBUTES = "* -export-subst -export-ignore\n"


@dataclass(frozen=True)
class Checkout:
    """What a folder of the user's is: the commit it stands at, and whether files differ from it.
    A bare repository is never dirty."""

    head: str
    dirty: bool


@dataclass(frozen=True)
class Tagged:
    """The commit that a tag means, and its committer date in seconds since 1970."""

    commit: str
    epoch: int


@dataclass(frozen=True)
class Change:
    """What a commit made of a file."""

    commit: str
    path: str
    text: str


def holds(store: Path, commit: str) -> bool:
    """Whether a commit has been fetched into the store, whole, and is as it was written then;
    MachineError where git does not read the store for this user."""
    if not store.is_dir():
        return False
    try:
        sealed(store).rev_parse("--verify", "--quiet", f"refs/pinned/{commit}")
    except GitCommandError as error:
        if _advice(error):
            raise _unusable(store, error) from error
        return False
    return _undamaged(store)


def _undamaged(store: Path) -> bool:
    """Whether each pack and its index end with the hash of what comes before, as git wrote them."""
    indices = (store / "objects/pack").glob("*.idx")
    return all(_ends_well(path) for one in indices for path in (one, one.with_suffix(".pack")))


def _ends_well(path: Path) -> bool:
    digest = hashlib.sha1(usedforsecurity=False)
    try:
        left = path.stat().st_size - digest.digest_size
        with path.open("rb") as file:
            while left > 0 and (chunk := file.read(min(left, CHUNK))):
                digest.update(chunk)
                left -= len(chunk)
            return file.read() == digest.digest()
    except FileNotFoundError:
        return False


def fetch(
    store: Path,
    urls: Sequence[str],
    tag: str,
    commit: str,
    on_line: Callable[[str], None],
    say: Callable[[str], None],
) -> None:
    """Bring one tag, without history, into a bare repository shared by all versions, from the
    first of `urls` that has it; git's progress goes to `on_line`, what fails to `say`.

    Nothing is asked where the commit is there already; a damaged store goes, with all that is in
    it. IntegrityError where the tag is another commit, UnavailableError where nothing answers.
    Nobody else may be at work in the store.
    """
    clean(store)
    if holds(store, commit):
        return
    if not _undamaged(store):
        say(f"{store} is damaged, and made anew")
        shutil.rmtree(store)
    store.mkdir(parents=True, exist_ok=True)
    git = sealed(store)
    try:
        git.init("--quiet", "--bare", "--template=")
        git.config("fetch.unpackLimit", "1")  # a pack can be told whole without git
    except GitCommandError as error:
        raise _unusable(store, error) from error
    reasons = []
    for number, url in enumerate(urls):
        try:
            actual = _fetch_tag(git, url, tag, on_line)
        except GitCommandError as error:
            if FULL in str(error.stderr) or not os.access(store, os.W_OK):
                raise _unusable(store, error) from error
            reasons.append(_reason(error, url))
            if number + 1 < len(urls):
                say(f"{shown(url)}: {reasons[-1]}; asking {shown(urls[number + 1])}")
            continue
        if actual != commit:
            raise IntegrityError(
                f"tag {tag} moved: expected {commit}, got {actual}",
                place=shown(url),
                next_step="ask upstream why; do not change the pin to fit",
            )
        # A ref of its own says that the commit is here, whole, and keeps it.
        try:
            git.update_ref(f"refs/pinned/{commit}", commit)
        except GitCommandError as error:
            raise _unusable(store, error) from error
        return
    raise UnavailableError(
        f"the tag {tag} could not be fetched: {reasons[-1]}",
        place=", ".join(map(shown, urls)),
        next_step="check the address, the network and the proxy variables",
        detail=tuple(f"{shown(url)}: {why}" for url, why in zip(urls, reasons, strict=True))
        if len(reasons) > 1
        else (),
    )


def clean(store: Path) -> None:
    """Remove what a killed run left: its git, if that still waits for a server, its locks, and
    what it had received. Nobody else may be at work in the store."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[1:2] == [b"fetch"] and (entry / "cwd").samefile(store):
                os.kill(int(entry.name), signal.SIGKILL)
    for path in (*store.rglob("*.lock"), *store.rglob("tmp_*")):
        if path.is_file():
            path.unlink(missing_ok=True)


def _fetch_tag(git: Git, url: str, tag: str, on_line: Callable[[str], None]) -> str:
    """Fetch, again where the connection broke; the commit of the tag."""
    words = ["fetch", "--progress", "--no-tags", "--no-auto-gc", "--depth=1"]
    words += ["--", url, f"refs/tags/{tag}"]
    for attempt in range(ATTEMPTS):
        process = git.execute(
            ["git", *words], as_process=True, universal_newlines=True, env=FETCHED_BY
        )
        last: deque[str] = deque(maxlen=TAIL_LINES)
        with closing(process.stdout), closing(process.stderr):
            for line in process.stderr:  # universal newlines: a progress line ends in \r
                last.append(line.strip())
                on_line(scrubbed(line.strip()))
            try:
                process.wait()
            except GitCommandError as error:
                said = "\n".join(last)
                if attempt + 1 < ATTEMPTS and BROKEN.search(said):
                    time.sleep(0.5 * 2**attempt)
                    continue
                raise GitCommandError("fetch", error.status, said) from error
        break
    return str(git.rev_parse("FETCH_HEAD^{commit}"))


def why_not(urls: Sequence[str]) -> str | None:
    """None where one of the repositories answers within seconds, else the last one's reason."""
    reasons = [_why_not(url) for url in urls]
    return None if None in reasons else reasons[-1]


def _why_not(url: str) -> str | None:
    words = ["git", "ls-remote", "--quiet", "--heads", "--", url, "no-such-branch-is-meant"]
    try:
        sealed(Path.cwd()).execute(words, kill_after_timeout=ANSWER_SECONDS, env=FETCHED_BY)
    except GitCommandError as error:
        return _reason(error, url)
    return None


def look(folder: Path) -> Checkout:
    """What a folder is; UsageError where it is no repository."""
    git = sealed(folder)
    try:
        head = str(git.rev_parse("HEAD^{commit}"))
        bare = str(git.rev_parse("--is-bare-repository")) == "true"
        dirty = not bare and bool(git.status("--porcelain"))
    except (GitCommandError, OSError) as error:
        raise UsageError(
            f"this is no repository with a commit: {_reason(error, '')}",
            place=str(folder),
            next_step=_advice(error) or "give a checkout or a bare repository",
        ) from error
    return Checkout(head, dirty)


def archive(folder: Path, commit: str, destination: Path) -> None:
    """Write the tree of a commit as a tar; the working tree plays no part."""
    try:
        git = _apart(folder, destination.with_suffix(".git"))
        with destination.open("wb") as file:
            git.archive("--format=tar", commit, output_stream=file)
    except GitCommandError as error:
        raise _incomplete(folder, f"commit {commit}", error) from error


def _apart(folder: Path, scratch: Path) -> Git:
    """A repository that has the objects of another one, and none of its refs and settings."""
    scratch.mkdir()
    git = sealed(scratch)
    objects = str(sealed(folder).rev_parse("--path-format=absolute", "--git-path", "objects"))
    git.init("--quiet", "--bare", "--template=")
    (scratch / "info").mkdir()
    (scratch / "info/attributes").write_text(ATTRIBUTES)
    (scratch / "objects/info/alternates").write_text(f"{objects}\n")
    return git


def pack(folder: Path, commits: Iterable[str], destination: Path) -> None:
    """Write the trees of commits, without their history, as one pack; nothing in it depends on
    what else the repository holds, or how.

    UnavailableError where one is not in the repository, whole.
    """
    words = ["git", "pack-objects", "--quiet", "--stdout", "--window=0", "--no-reuse-object"]
    with tempfile.TemporaryFile() as listed, destination.open("wb") as file:
        try:
            git = _apart(folder, destination.with_suffix(".git"))  # tags would come first
            git.rev_list("--objects", "--no-walk", *sorted(commits), output_stream=listed)
            listed.seek(0)
            git.execute(words, istream=listed, output_stream=file)
        except GitCommandError as error:
            raise _incomplete(folder, "a commit", error) from error


def adopt(
    store: Path, packed: Path, tagged: Mapping[str, str], room: Path, say: Callable[[str], None]
) -> None:
    """Bring commits, by their tags, out of a pack into a store, as `fetch` brings them; an empty
    folder `room` is used on the way.

    IntegrityError where the pack has not all that they hold. Nobody else may be at work in the
    store.
    """
    git = sealed(room)
    git.init("--quiet", "--bare", "--template=")
    try:
        with packed.open("rb") as file:
            git.execute(["git", "index-pack", "--stdin"], istream=file)
        (room / "shallow").write_text("".join(f"{commit}\n" for commit in sorted(tagged.values())))
        for tag, commit in tagged.items():
            git.update_ref(f"refs/tags/{tag}", commit)
        git.rev_list(
            "--objects", "--quiet", *tagged.values()
        )  # reads each tree, asks for each file
    except GitCommandError as error:
        raise IntegrityError(
            f"its pack does not hold what it should: {_reason(error, '')}",
            place=str(packed),
            next_step="make it again",
        ) from error
    for tag, commit in tagged.items():
        fetch(store, [str(room)], tag, commit, lambda _: None, say)


def tree(folder: Path, commit: str) -> dict[str, tuple[bool, bytes]]:
    """Each plain file of a commit, by its path: whether it is a program, and its content."""
    git = sealed(folder)
    try:
        listing = str(git.ls_tree("-r", "-z", "--full-tree", commit))
        rows = [row.partition("\t") for row in listing.split("\0") if row.startswith("100")]
        found = _blobs(git, {meta.split()[2] for meta, _, _ in rows})
    except (GitCommandError, LookupError) as error:
        raise _incomplete(folder, f"commit {commit}", error) from error
    return {path: (meta.startswith("100755"), found[meta.split()[2]]) for meta, _, path in rows}


def epoch(folder: Path, commit: str) -> int:
    """When a commit was made, in seconds since 1970."""
    return int(_listed(folder, "show", "--no-patch", "--format=%ct", commit)[0])


def tags(folder: Path) -> dict[str, Tagged]:
    """Every tag of a commit, by name; UsageError where the folder is no repository."""
    dates = _listed(folder, "rev-list", "--no-walk", "--timestamp", "--tags")
    if not dates:  # show-ref would fail, and say nothing
        return {}
    epochs = {commit: int(epoch) for epoch, commit in (row.split(" ") for row in dates)}
    # A tag may be of a tag: for-each-ref follows that only once.
    rows = [row.split(" ") for row in _listed(folder, "show-ref", "--tags", "--dereference")]
    commits = {ref.removeprefix("refs/tags/").removesuffix("^{}"): commit for commit, ref in rows}
    return {tag: Tagged(at, epochs[at]) for tag, at in commits.items() if at in epochs}


def read(folder: Path, commit: str, paths: Iterable[str]) -> dict[str, bytes | None]:
    """The content of plain files of a commit; None where it has no such file, a Program where it
    may be executed.

    UnavailableError where the commit or a file's content is not in the repository.
    """
    found: dict[str, bytes | None] = dict.fromkeys(paths)
    return found | _files(folder, commit, tuple(found))


def texts(folder: Path, commit: str, *paths: str) -> dict[str, str]:
    """Those of the files that a commit has, by path; `folder/` means each file right in it.

    Nothing else of the commit's content need be there. UnavailableError where one of them is not.
    """
    files = _files(folder, commit, paths)
    return {path: content.decode("utf-8", "replace") for path, content in files.items()}


def _files(folder: Path, commit: str, paths: Iterable[str]) -> dict[str, bytes]:
    git = sealed(folder)
    try:
        listing = str(git.ls_tree("-z", "--full-tree", commit, "--", *paths))
        rows = [row.partition("\t") for row in listing.split("\0") if row.startswith("100")]
        blobs = {path: meta.split() for meta, _, path in rows}
        found = _blobs(git, (blob for _, _, blob in blobs.values()))
    except (GitCommandError, LookupError) as error:
        raise _incomplete(folder, f"commit {commit}", error) from error
    kinds = {"100755": Program}
    return {path: kinds.get(mode, bytes)(found[blob]) for path, (mode, _, blob) in blobs.items()}


def history(folder: Path, pattern: str) -> list[Change]:
    """What became of the files that match, from the first commit to HEAD; the pattern is git's.

    UsageError where the folder is no repository, UnavailableError where a file is not there.
    """
    words = ["--reverse", "--format=%H", "--raw", "--no-abbrev", "--no-renames", "--diff-filter=AM"]
    rows: list[tuple[str, str, str]] = []
    commit = ""
    for line in _listed(folder, "log", *words, "HEAD", "--", pattern):
        if line.startswith(":"):
            meta, _, path = line.partition("\t")
            rows.append((commit, path, meta.split()[3]))
        elif line:
            commit = line
    try:
        found = _blobs(sealed(folder), {blob for _, _, blob in rows})
    except (GitCommandError, LookupError) as error:
        raise _incomplete(folder, "the history", error) from error
    return [
        Change(commit, path, found[blob].decode("utf-8", "replace")) for commit, path, blob in rows
    ]


def _listed(folder: Path, *words: str) -> list[str]:
    """The lines that git answers about a folder of the user's."""
    try:
        if not folder.is_dir():  # git would be started elsewhere, and answer for that place
            raise NotADirectoryError("there is no such folder")
        return str(sealed(folder).execute(["git", *words])).splitlines()
    except (GitCommandError, OSError) as error:
        raise UsageError(
            f"this cannot be read as a repository: {_reason(error, '')}",
            place=str(folder),
            next_step=_advice(error) or "give a checkout or a bare repository",
        ) from error


def _blobs(git: Git, names: Iterable[str]) -> dict[str, bytes]:
    """Contents by object id, all in one go; LookupError where one is missing."""
    names = list(names)
    with tempfile.TemporaryFile() as asked:
        asked.write("".join(f"{name}\n" for name in names).encode())
        asked.seek(0)
        output = git.execute(
            ["git", "cat-file", "--batch"],
            istream=asked,
            stdout_as_string=False,
            strip_newline_in_stdout=False,
        )
    found: dict[str, bytes] = {}
    at = 0
    for name in names:
        end = output.index(b"\n", at)
        header = output[at:end].decode().split()
        if header[1] == "missing":
            raise LookupError(f"{name} is missing")
        at = end + 1 + int(header[2])
        found[name] = output[end + 1 : at]
        at += 1  # the line's end that git puts behind each
    return found


def _incomplete(folder: Path, what: str, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"{what} cannot be read whole: {_reason(error, '').replace('not a tree object', ABSENT)}",
        place=str(folder),
        next_step=_advice(error)
        or "fetch it into that repository: git fetch <upstream> tag <tag>, without --filter",
    )


def _unusable(store: Path, error: GitCommandError) -> MachineError:
    """What is wrong with a store itself, not with what it is to be filled from."""
    full = FULL in str(error.stderr)
    return MachineError(
        "the disk of the cache is full" if full else f"git has no use of it: {_reason(error, '')}",
        place=str(store),
        next_step=("free some room there" if full else "run as its owner")
        + ", or name another cache with NOKMEM_CACHE",
    )


def _advice(error: Exception) -> str:
    """What to do about a folder that git does not read for this user; "" where it is not that."""
    return "run as the folder's owner, or change that" if "dubious ownership" in str(error) else ""


class _Mortal(Git):
    """git that does not outlive whoever waits for it, nor does what it has started."""

    def execute(self, *words: Any, **how: Any) -> Any:
        try:
            return super().execute(*words, start_new_session=True, **how)
        except KeyboardInterrupt:
            process.end_sessions()
            raise


def sealed(folder: Path) -> Git:
    """git at work in a folder, with nothing of the user's configuration or environment."""
    for name in INHERITED:
        os.environ.pop(name, None)
    process.require("git", "to read repositories")
    git = _Mortal(str(folder))
    git.update_environment(**ENVIRONMENT, **_authorities(os.environ))
    return git


def _authorities(environment: Mapping[str, str]) -> dict[str, str]:
    """Let git believe whom downloads believe, unless the user told git itself."""
    if "GIT_SSL_CAINFO" in environment or "GIT_SSL_CAPATH" in environment:
        return {}
    bundle = next((environment[name] for name in AUTHORITIES if environment.get(name)), "")
    if not bundle:
        return {}
    return {"GIT_SSL_CAPATH" if Path(bundle).is_dir() else "GIT_SSL_CAINFO": bundle}


def succeeds(git: Git, *words: str) -> bool:
    """Whether a git command ends well."""
    try:
        git.execute(["git", *words])
    except GitCommandError:
        return False
    return True


def _reason(error: Exception, url: str) -> str:
    """What git first calls fatal, else its last line; without what addresses could hold."""
    text = str(getattr(error, "stderr", None) or error).replace("stderr: ", "")
    lines = [line.strip(" \t'") for line in text.splitlines()]
    told = [line for line in lines if line and not any(word in line for word in NO_REASON)]
    fatal = [line for line in told if line.startswith("fatal: ")]
    reason = [*fatal[:1], *told[-1:], type(error).__name__][0].removeprefix("fatal: ")
    reason = NO_NEWS.sub("", reason.replace(url, redacted(url)) if url else reason)
    reason = reason.replace(
        NO_CAUSE, f"{NO_CAUSE}: its authority, its name or this machine's clock"
    )
    return scrubbed(reason)
