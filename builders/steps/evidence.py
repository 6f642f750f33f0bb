"""Upstream's files at a tag -> facts -> data files: what the evidence says when it is read again.

Each parser takes the text of one file (or of one folder's files) and raises ValueError where it
does not understand it: a guess would become a fact. A data file keeps what stands in it before
its written part, such as comments, and what a person found out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from builders.errors import IntegrityError, UnavailableError, UsageError
from builders.model.toolchains import GoArchive
from builders.tools.gitrepo import Change, Tagged

RUNC = "github.com/opencontainers/runc"
CROSS = "build/build-image/cross/VERSION"
GODEPS = "Godeps/Godeps.json"
GO_MOD = "go.mod"
GOLANG_SH = "hack/lib/golang.sh"
INIT_SH = "hack/lib/init.sh"
CGROUPS = "libcontainer/cgroups/fs/"
VENDORED_CGROUPS = f"vendor/{RUNC}/{CGROUPS}"
#: What to read of a release; a folder stands for the files right in it.
KUBERNETES_FILES = (CROSS, GODEPS, GO_MOD, GOLANG_SH, INIT_SH, VENDORED_CGROUPS)
RUNC_FILES = ("VERSION", "Makefile", GO_MOD, CGROUPS)
#: git's pattern of the files in docker-library/golang that name archives and hashes.
DOCKERFILES = ":(glob)**/Dockerfile"
#: The releases that data/runc.toml holds: from the last one without the tag nokmem to those of 1.1.
RUNC_RELEASE = re.compile(r"v(1\.0\.0-rc([5-9]|\d\d)|1\.[01]\.\d+)")

#: Gives, of the files at a commit, those that are there, by path.
Reader = Callable[..., Mapping[str, str]]
A = TypeVar("A")
T = TypeVar("T")


@dataclass(frozen=True)
class Accounting:
    """How a libcontainer enables kernel-memory accounting: `nokmem` is "tag" (only in files that
    the tag nokmem leaves out), "absent" (whatever the tags are) or "not needed" (never).
    `shown_by` is the file that shows it, `begins` its first line."""

    nokmem: str
    shown_by: str
    begins: str


@dataclass(frozen=True)
class BuildTags:
    """What Kubernetes' build script gives the compiler: tags of its own, and whether it extracts
    more from GOFLAGS. `line` says so, or is "" where GOFLAGS is left to Go itself."""

    tags: tuple[str, ...]
    extracts: bool
    line: str


@dataclass(frozen=True)
class KubernetesEvidence:
    """What a tag of Kubernetes says; `vendored_by` is the file that names the vendored runc."""

    tag: str
    tagged: Tagged
    go: str
    vendored_runc: str
    vendored_by: str
    accounting: Accounting
    build_tags: BuildTags
    modules: str


@dataclass(frozen=True)
class RuncEvidence:
    """What a tag of runc says."""

    tag: str
    tagged: Tagged
    go: str
    prints: str
    default_tags: tuple[str, ...]
    accounting: Accounting


def kubernetes(
    minors: Iterable[str], tags: Mapping[str, Tagged], read: Reader, runc: Mapping[str, str]
) -> dict[str, list[KubernetesEvidence]]:
    """The releases of each minor among the tags, in order; `runc` maps runc's tags to commits."""
    found: dict[str, list[KubernetesEvidence]] = {minor: [] for minor in sorted(minors, key=_order)}
    wanted = re.compile(rf"v({'|'.join(map(re.escape, found))})\.(\d+)")
    for tag in _releases(tags, wanted, "--kubernetes"):
        files = read(tags[tag].commit, *KUBERNETES_FILES)
        vendored_by = GODEPS if GODEPS in files else GO_MOD
        revision_of = runc_of_godeps if GODEPS in files else runc_of_go_mod
        revision = _fact(revision_of, files.get(vendored_by), vendored_by, tag)
        found[tag[1:].rpartition(".")[0]].append(
            KubernetesEvidence(
                tag=tag,
                tagged=tags[tag],
                go=_fact(go_version, files.get(CROSS), CROSS, tag),
                vendored_runc=revision_name(revision, runc),
                vendored_by=vendored_by,
                accounting=_fact(
                    accounting, _sources(files, VENDORED_CGROUPS), VENDORED_CGROUPS, tag
                ),
                build_tags=_fact(build_tags, files.get(GOLANG_SH), GOLANG_SH, tag),
                modules=_fact(modules, files.get(INIT_SH), INIT_SH, tag),
            )
        )
    return found


def runc(tags: Mapping[str, Tagged], read: Reader) -> list[RuncEvidence]:
    """Every release of runc among the tags that the data holds, in order."""
    found = []
    for tag in _releases(tags, RUNC_RELEASE, "--runc"):
        files = read(tags[tag].commit, *RUNC_FILES)
        found.append(
            RuncEvidence(
                tag=tag,
                tagged=tags[tag],
                go=_fact(go_directive, files.get(GO_MOD), GO_MOD, tag) if GO_MOD in files else "",
                prints=_fact(str.strip, files.get("VERSION"), "VERSION", tag),
                default_tags=_fact(default_tags, files.get("Makefile"), "Makefile", tag),
                accounting=_fact(accounting, _sources(files, CGROUPS), CGROUPS, tag),
            )
        )
    return found


def go_archives(changes: Iterable[Change], wanted: Iterable[str]) -> list[GoArchive]:
    """The archives of these Go versions, each with the oldest evidence there is, in order.

    `changes` are those of docker-library/golang's Dockerfiles, oldest first. IntegrityError where
    two of them disagree, UnavailableError where none names a version.
    """
    found: dict[str, tuple[str, str]] = {}
    for change in changes:
        evidence = f"docker-library/golang@{change.commit[:12]}: {change.path}"
        for name, sha256 in archives(change.text).items():
            first = found.setdefault(name, (sha256, evidence))
            if first[0] != sha256:
                raise IntegrityError(
                    f"the hash of {name} changed from {first[0]} to {sha256}",
                    place=f"{first[1]}, {evidence}",
                    next_step="ask upstream which one is right",
                )
    rows = [GoArchive(go, *found.get(_go_name(go), ("", ""))) for go in sorted(wanted, key=_order)]
    missing = [row.version for row in rows if not row.sha256]
    if missing:
        raise UnavailableError(
            f"no Dockerfile ever named a hash of Go {', '.join(missing)}",
            place="--golang",
            next_step="give a repository of docker-library/golang with its whole history",
        )
    return rows


def go_version(cross_version: str) -> str:
    """The Go version of build/build-image/cross/VERSION.

    It reads v1.12.5-1 (Go, then the image's revision), in late 1.19 and 1.20 v1.15.8-legacy-1,
    in late 1.21 and 1.22 v1.21.0-go1.16.9-buster.0 (Kubernetes, Go, Debian).
    """
    text = cross_version.strip()
    found = re.search(r"-go(\d+\.\d+(?:\.\d+)?)-", text) or re.fullmatch(
        r"v(\d+\.\d+\.\d+)(?:-legacy)?-\d+", text
    )
    if not found:
        raise ValueError(f"{text!r} names no Go in a way that is known")
    return found[1]


def runc_of_godeps(godeps: str) -> str:
    """The commit of runc that Godeps/Godeps.json vendors."""
    try:
        rows = [(f"{row['ImportPath']}/", str(row["Rev"])) for row in json.loads(godeps)["Deps"]]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"this is no list of dependencies: {error!r}") from error
    commits = {commit for path, commit in rows if path.startswith(f"{RUNC}/")}
    if len(commits) != 1:
        raise ValueError(f"runc has not one commit, but {sorted(commits)}")
    commit = commits.pop()
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise ValueError(f"{commit!r} is no commit")
    return commit


def runc_of_go_mod(go_mod: str) -> str:
    """The runc that go.mod vendors: its tag, or 12 digits of its commit.

    A replacement wins over a requirement. A commit without a tag reads
    v1.0.0-rc2.0.20190611121236-6cc515888830: a tag before it, a date, and 12 digits.
    """
    name = re.escape(RUNC)
    found = re.search(rf"\b{name} => {name} (v\S+)", go_mod) or re.search(
        rf"^\s*(?:require )?{name} (v\S+)", go_mod, re.MULTILINE
    )
    if not found:
        raise ValueError("runc is not required")
    untagged = re.search(r"\d{14}-([0-9a-f]{12})$", found[1])
    return untagged[1] if untagged else found[1]


def revision_name(revision: str, tags: Mapping[str, str]) -> str:
    """A tag, or a commit of at least 12 digits, by the name it is known by: its tag, else 12
    digits."""
    if revision.startswith("v"):
        return revision
    return next((tag for tag, commit in tags.items() if commit.startswith(revision)), revision[:12])


def accounting(files: Mapping[str, str]) -> Accounting:
    """What libcontainer/cgroups/fs does, given its Go files by name.

    Accounting is switched on by a write to memory.kmem.limit_in_bytes, whose name stands in the
    file that writes it; files that only read usage put the name together at run time.
    """
    if "memory.go" not in files:
        raise ValueError("memory.go is not there")
    writers = [name for name in sorted(files) if '"memory.kmem.limit_in_bytes"' in files[name]]
    unconditional = [name for name in writers if not left_out_by_nokmem(files[name])]
    if not writers and any("EnableKernelMemoryAccounting" in text for text in files.values()):
        raise ValueError("accounting is named, and nothing writes memory.kmem.limit_in_bytes")
    if not writers:
        nokmem, shown_by = "not needed", "memory.go"
    elif unconditional:
        nokmem, shown_by = "absent", unconditional[0]
    else:
        nokmem, shown_by = "tag", writers[0]
    return Accounting(nokmem, shown_by, files[shown_by].strip().partition("\n")[0])


def left_out_by_nokmem(go_file: str) -> bool:
    """Whether the build constraints before the package clause leave a file out under nokmem."""
    header = re.split(r"^package\b", go_file, maxsplit=1, flags=re.MULTILINE)[0]
    for line in header.splitlines():
        # The old form: a blank means or, a comma means and; several lines are joined by and.
        old = re.match(r"//\s*\+build\s+(.+)", line)
        if old and all("!nokmem" in option.split(",") for option in old[1].split()):
            return True
        new = re.match(r"//go:build\s+([^|]+)$", line)
        if new and "!nokmem" in re.split(r"[\s()]+", new[1]):
            return True
    return False


def build_tags(golang_sh: str) -> BuildTags:
    """The tags that the build script puts before those it extracts from GOFLAGS with sed.

    Before it extracted any it handed GOFLAGS on (up to 1.13), or left it to Go (from 1.14 on).
    """
    lines = [line.strip() for line in golang_sh.splitlines() if re.match(r"\s*gotags=", line)]
    if not lines:
        handed_on = re.search(r"eval \"goflags=\(\$\{GOFLAGS:-\}\)\"", golang_sh)
        if not handed_on and "GOFLAGS" in golang_sh:
            raise ValueError("GOFLAGS is used in a way that is not known")
        return BuildTags((), False, handed_on[0] if handed_on else "")
    found = re.match(r'gotags="([\w,]*?),?(\$\(|")', lines[0])
    if not found or len(lines) > 1:
        raise ValueError(f"gotags is assigned in a way that is not known: {lines}")
    tags = tuple(tag for tag in found[1].split(",") if tag)
    return BuildTags(tags, "GOFLAGS" in lines[0] and "sed" in lines[0], lines[0])


def modules(init_sh: str) -> str:
    """What the build script exports as GO111MODULE, or ""."""
    found = re.findall(r"^\s*export GO111MODULE=(\w+)\s*$", init_sh, re.M)
    if len(set(found)) > 1 or ("GO111MODULE=" in init_sh and not found):
        raise ValueError(f"GO111MODULE is exported in a way that is not known: {found}")
    return found[0] if found else ""


def go_directive(go_mod: str) -> str:
    """The language version that a go.mod asks for."""
    return _search(r"^go (\S+)$", go_mod, "there is no go line")


def default_tags(makefile: str) -> tuple[str, ...]:
    """The build tags of runc's Makefile: the first assignment counts, later ones add to it."""
    found = _search(r"^BUILDTAGS[ \t]*[:?]?=(.*)$", makefile, "BUILDTAGS is not assigned")
    return tuple(found.split())


def archives(dockerfile: str) -> dict[str, str]:
    """The sha256 of Go's archives for linux-amd64 by their names, of a Dockerfile.

    Up to 2020 the version is a variable and the hash stands in a case; then the whole address
    stands before the hash. One that builds Go from source names no such archive.
    """
    version = re.search(r"^ENV GOLANG_VERSION (\d+(?:\.\d+)+)$", dockerfile, re.MULTILINE)
    case = re.search(r"goRelArch='linux-amd64'; goRelSha256='([0-9a-f]{64})'", dockerfile)
    if version and case:
        return {f"go{version[1]}.linux-amd64.tar.gz": case[1]}
    address = r"/(go[\d.]+\.linux-amd64\.tar\.gz)'; \\\s+sha256='([0-9a-f]{64})'"
    return dict(re.findall(address, dockerfile))


def kubernetes_text(old: str, releases: Sequence[KubernetesEvidence]) -> str:
    """The data file of one minor, from [evidence] to its end written anew; releases in order.

    Where there are none it only loses its releases: what showed the rest can be read nowhere.
    """
    if not releases:
        return _before(old, "[releases]\n") + "[releases]\n"
    lines = [
        "[evidence]",
        'commit = "git rev-parse TAG^{commit}; epoch is its committer date"',
        f'go = "{CROSS} at TAG"',
        f"vendored_runc = {_toml(_since(releases, lambda r: f'{r.vendored_by} at TAG'))}",
        f"nokmem = {_toml(_since(releases, lambda r: _accounting_evidence(r.accounting)))}",
        f"kubelet_tags = {_toml(_since(releases, lambda r: _tags_evidence(r.build_tags)))}",
        f"modules = '{INIT_SH} at TAG: what it exports as GO111MODULE'",
        "",
        "# in order of patch release; a release keeps the last value above it",
    ]
    # Without the tag, a patch has to bring it.
    mechanisms = {"absent": "backport"}
    for tag, nokmem in _changes(releases, lambda r: r.accounting.nokmem):
        mechanism = mechanisms.get(nokmem, nokmem)
        lines += ["[[nokmem]]", f'from = "{tag}"', f'mechanism = "{mechanism}"', ""]
    for tag, (tags, extracts) in _changes(
        releases, lambda r: (r.build_tags.tags, r.build_tags.extracts)
    ):
        lines += ["[[kubelet_tags]]", f'from = "{tag}"', f"tags = {_toml(tags)}"]
        lines += [f"extracts = {_toml(extracts)}", ""]
    for tag, value in _changes(releases, lambda r: r.modules):
        lines += ["[[modules]]", f'from = "{tag}"', f'value = "{value}"', ""]
    lines.append("[releases]")
    for r in releases:
        row = {"commit": r.tagged.commit, "epoch": r.tagged.epoch, "go": r.go}
        lines.append(_row(r.tag, {**row, "vendored_runc": r.vendored_runc}))
    return _before(old, "[evidence]\n") + "\n".join(lines) + "\n"


def runc_text(old: str, releases: Iterable[RuncEvidence]) -> str:
    """data/runc.toml, its releases written anew."""
    head, rest = _before(old, "[releases]\n"), old.partition("[releases]\n")[2]
    lines = [
        _row(
            r.tag.removeprefix("v"),
            {
                "commit": r.tagged.commit,
                "epoch": r.tagged.epoch,
                "go": r.go,
                "prints": r.prints,
                "default_tags": r.default_tags,
                "nokmem": r.accounting.nokmem,
            },
        )
        for r in releases
    ]
    _, blank, after = rest.partition("\n\n")
    return head + "[releases]\n" + "\n".join(lines) + (blank + after if blank else "\n")


def go_text(old: str, rows: Iterable[GoArchive]) -> str:
    """data/go.toml, its archives written anew."""
    lines = [_row(row.version, {"sha256": row.sha256, "evidence": row.evidence}) for row in rows]
    return _before(old, "[archives]\n") + "[archives]\n" + "\n".join(lines) + "\n"


def _releases(tags: Iterable[str], wanted: re.Pattern[str], option: str) -> list[str]:
    found = sorted(filter(wanted.fullmatch, tags), key=_order)
    if not found:
        raise UsageError(
            "no tag here is one of its releases",
            place=option,
            next_step="give upstream's repository, with its tags: git fetch --tags",
        )
    return found


def _fact(parse: Callable[[A], T], given: A | None, path: str, tag: str) -> T:
    """What a file says; UnavailableError with file and tag where it does not."""
    try:
        if given is None:
            raise ValueError("the file is not there")
        return parse(given)
    except ValueError as error:
        raise UnavailableError(
            f"a fact cannot be read: {error}",
            place=f"{path} at {tag}",
            next_step="look whether this is upstream's tree; if upstream writes it in a new way, "
            "builders/steps/evidence.py has to learn it",
        ) from error


def _sources(files: Mapping[str, str], folder: str) -> dict[str, str]:
    """The Go files right in a folder, by name, without tests."""
    return {
        path.removeprefix(folder): text
        for path, text in files.items()
        if path.startswith(folder) and path.endswith(".go") and not path.endswith("_test.go")
    }


def _changes(
    releases: Iterable[KubernetesEvidence], fact: Callable[[KubernetesEvidence], Any]
) -> list[tuple[str, Any]]:
    """A fact at the first release and wherever it changes, with the tag of that release."""
    found: list[tuple[str, Any]] = []
    for release in releases:
        if not found or fact(release) != found[-1][1]:
            found.append((release.tag, fact(release)))
    return found


def _since(
    releases: Iterable[KubernetesEvidence], evidence: Callable[[KubernetesEvidence], str]
) -> str:
    (_, first), *later = _changes(releases, evidence)
    return "; ".join([first, *(f"from {tag}: {text}" for tag, text in later)])


def _accounting_evidence(fact: Accounting) -> str:
    shown = f"{VENDORED_CGROUPS}{fact.shown_by} at TAG begins '{fact.begins}'"
    return {
        "tag": shown,
        "absent": f"{shown} and writes memory.kmem.limit_in_bytes",
        "not needed": f"{shown}; neither it nor a file beside it names memory.kmem.limit_in_bytes",
    }[fact.nokmem]


def _tags_evidence(fact: BuildTags) -> str:
    line = fact.line or "assigns no gotags and leaves GOFLAGS to Go itself"
    return f"{GOLANG_SH} at TAG: {line}"


def _before(text: str, heading: str) -> str:
    return text.partition(heading)[0]


def _row(key: str, values: Mapping[str, object]) -> str:
    return f'"{key}" = {{ {", ".join(f"{name} = {_toml(values[name])}" for name in values)} }}'


def _toml(value: object) -> str:
    """A value as TOML on one line; texts as literals where that spares escapes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(part) for part in value)}]"
    text = str(value)
    if text.isprintable() and not re.search(r'["\\]', text):
        return f'"{text}"'
    if text.isprintable() and "'" not in text:
        return f"'{text}'"
    if text.isprintable() and "'''" not in text and not text.endswith("'"):
        return f"'''{text}'''"
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _order(version: str) -> tuple[tuple[int, ...], float]:
    """Sorts tags and versions: a candidate comes before its release."""
    numbers, _, candidate = version.removeprefix("v").partition("-rc")
    return tuple(int(part) for part in numbers.split(".")), float(candidate or "inf")


def _go_name(version: str) -> str:
    return GoArchive(version, "", "").name


def _search(pattern: str, text: str, otherwise: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if not found:
        raise ValueError(otherwise)
    return found[1]
