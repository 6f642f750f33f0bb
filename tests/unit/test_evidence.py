"""What each file of upstream's means, in every form that a release has had it in."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping

import pytest

from builders.errors import IntegrityError, NokmemError, UnavailableError, UsageError
from builders.model.releases import DATA
from builders.model.toolchains import GoArchive
from builders.steps import evidence
from builders.steps.evidence import Accounting, BuildTags
from builders.tools.gitrepo import Change, Tagged

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COMMIT = "f000fe11ece1" + "0" * 28
GATED = '// +build linux,!nokmem\n\npackage fs\n\nconst limit = "memory.kmem.limit_in_bytes"\n'
OPEN = '// +build linux\n\npackage fs\n\nconst limit = "memory.kmem.limit_in_bytes"\n'
PLAIN = "// +build linux\n\npackage fs\n"
SED = """gotags="selinux,notest,$(echo "${GOFLAGS:-}" | sed -e 's|.*-tags=\\([^-]*\\).*|\\1|')\""""


@pytest.mark.parametrize(
    ("text", "go"),
    [
        ("v1.12.5-1\n", "1.12.5"),
        ("v1.15.0-1\n", "1.15.0"),
        ("v1.15.8-legacy-1\n", "1.15.8"),
        ("v1.21.0-go1.16.9-buster.0\n", "1.16.9"),
    ],
)
def test_go_of_the_cross_image(text: str, go: str) -> None:
    assert evidence.go_version(text) == go


def test_runc_of_godeps_is_one_commit_of_all_its_packages() -> None:
    rows = [
        {"ImportPath": "github.com/opencontainers/runc/libcontainer", "Rev": COMMIT},
        {"ImportPath": "github.com/opencontainers/runc/libcontainer/cgroups", "Rev": COMMIT},
        {"ImportPath": "github.com/opencontainers/runc-elsewhere", "Rev": "0" * 40},
    ]
    assert evidence.runc_of_godeps(json.dumps({"Deps": rows})) == COMMIT
    rows[1]["Rev"] = "1" * 40
    with pytest.raises(ValueError, match="not one commit"):
        evidence.runc_of_godeps(json.dumps({"Deps": rows}))


@pytest.mark.parametrize(
    ("line", "revision"),
    [
        ("require github.com/opencontainers/runc v1.0.0-rc92", "v1.0.0-rc92"),
        ("\tgithub.com/opencontainers/runc v1.0.2 // indirect", "v1.0.2"),
        ("\tgithub.com/opencontainers/runc v1.0.0-rc2.0.20190611121236-6cc515888830", "6cc515888830"),
        ("\tgithub.com/opencontainers/runc v0.1.1\n)\nreplace (\n"
         "\tgithub.com/opencontainers/runc => github.com/opencontainers/runc v1.0.0-rc10", "v1.0.0-rc10"),
    ],
)  # fmt: skip
def test_runc_of_go_mod(line: str, revision: str) -> None:
    other = "\tgithub.com/opencontainers/runtime-spec v1.0.3"
    assert evidence.runc_of_go_mod(f"module k8s.io/kubernetes\n{other}\n{line}\n") == revision


def test_a_commit_is_called_by_its_tag_where_it_has_one() -> None:
    tags = {"v1.0.0-rc8": "1" * 40, "v1.0.0-rc9": COMMIT}
    assert evidence.revision_name(COMMIT[:12], tags) == "v1.0.0-rc9"
    assert evidence.revision_name("2" * 40, tags) == "2" * 12
    assert evidence.revision_name("v1.0.0-rc.100", tags) == "v1.0.0-rc.100"


@pytest.mark.parametrize(
    ("constraint", "left_out"),
    [
        ("// +build linux,!nokmem", True),
        ("// +build linux\n// +build !nokmem", True),
        ("// +build linux,!nokmem darwin,!nokmem", True),
        ("// +build linux,!nokmem darwin", False),
        ("// +build linux", False),
        ("// +build nokmem", False),
        ("//go:build linux && !nokmem", True),
        ("//go:build linux && (!nokmem)\n// +build linux", True),
        ("//go:build linux || !nokmem", False),
        ("//go:build linux", False),
        ("", False),
    ],
)
def test_build_constraints(constraint: str, left_out: bool) -> None:
    text = f"// Copyright\n\n{constraint}\n\npackage fs\n\n// +build !nokmem stands too late here\n"
    assert evidence.left_out_by_nokmem(text) is left_out


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"memory.go": OPEN}, Accounting("absent", "memory.go", "// +build linux")),
        (
            {"memory.go": PLAIN, "kmem.go": GATED, "kmem_disabled.go": "package fs\n"},
            Accounting("tag", "kmem.go", "// +build linux,!nokmem"),
        ),
        (
            {"memory.go": OPEN, "kmem.go": GATED},
            Accounting("absent", "memory.go", "// +build linux"),
        ),
        ({"memory.go": PLAIN}, Accounting("not needed", "memory.go", "// +build linux")),
    ],
)
def test_how_libcontainer_accounts(files: Mapping[str, str], found: Accounting) -> None:
    assert evidence.accounting(files) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('eval "goflags=(${GOFLAGS:-})"', BuildTags((), False, 'eval "goflags=(${GOFLAGS:-})"')),
        ("go build", BuildTags((), False, "")),
        (SED, BuildTags(("selinux", "notest"), True, SED)),
        (SED.replace(",notest", ""), BuildTags(("selinux",), True, SED.replace(",notest", ""))),
        ('gotags="selinux"', BuildTags(("selinux",), False, 'gotags="selinux"')),
    ],
)
def test_tags_of_the_build_script(line: str, found: BuildTags) -> None:
    assert evidence.build_tags(f"build() {{\n    local gotags\n    {line}\n}}\n") == found


def test_tags_of_runcs_makefile_are_those_of_its_first_assignment() -> None:
    text = "SHELL = sh\nBUILDTAGS ?= seccomp selinux\nBUILDTAGS += more\nnone:\n\tBUILDTAGS= make\n"
    assert evidence.default_tags(text) == ("seccomp", "selinux")
    assert evidence.default_tags("BUILDTAGS :=\nother:\n") == ()


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (evidence.go_version, "1.12.5"),
        (evidence.runc_of_godeps, "[]"),
        (evidence.runc_of_godeps, "{"),
        (evidence.runc_of_go_mod, "require github.com/opencontainers/runtime v1.0.0\n"),
        (evidence.accounting, {"kmem.go": GATED}),
        (evidence.accounting, {"memory.go": PLAIN, "x.go": "var EnableKernelMemoryAccounting"}),
        (evidence.build_tags, "go build ${GOFLAGS}"),
        (evidence.build_tags, f"{SED}\n{SED}\n"),
        (evidence.build_tags, "gotags=$(tags_of GOFLAGS)"),
        (evidence.go_directive, "module runc\n"),
        (evidence.default_tags, "all:\n"),
    ],
)
def test_what_is_not_understood_is_no_fact(parse: object, text: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)  # type: ignore[operator]


CASE = """\
ENV GOLANG_VERSION 1.15
RUN case "$arch" in \\
\t\tamd64) goRelArch='linux-amd64'; goRelSha256='{sha256}' ;; \\
\t\ti386) goRelArch='linux-386'; goRelSha256='{other}' ;; \\
"""
ADDRESS = """\
ENV GOLANG_VERSION 1.16.15
\t\t'amd64') \\
\t\t\turl='https://dl.google.com/go/go1.16.15.linux-amd64.tar.gz'; \\
\t\t\tsha256='{sha256}'; \\
\t\t\t;; \\
\t\t'i386') \\
\t\t\turl='https://dl.google.com/go/go1.16.15.linux-386.tar.gz'; \\
\t\t\tsha256='{other}'; \\
"""


def change(commit: str, form: str, sha256: str) -> Change:
    return Change(commit * 40, "1.x/Dockerfile", form.format(sha256=sha256 * 64, other="0" * 64))


def test_archives_come_with_the_oldest_evidence_in_order_of_versions() -> None:
    changes = [change("1", ADDRESS, "a"), change("2", CASE, "b"), change("3", ADDRESS, "a")]
    changes.append(Change("4" * 40, "tip/Dockerfile", "FROM buildpack-deps\n"))
    assert evidence.go_archives(changes, {"1.16.15", "1.15.0"}) == [
        GoArchive("1.15.0", "b" * 64, "docker-library/golang@222222222222: 1.x/Dockerfile"),
        GoArchive("1.16.15", "a" * 64, "docker-library/golang@111111111111: 1.x/Dockerfile"),
    ]


def test_a_hash_that_changed_or_is_nowhere_is_refused() -> None:
    with pytest.raises(IntegrityError, match=r"go1\.15\.linux-amd64\.tar\.gz changed"):
        evidence.go_archives([change("1", CASE, "a"), change("2", CASE, "b")], {"1.15.0"})
    with pytest.raises(UnavailableError, match=r"1\.15\.1, 1\.15\.10"):
        evidence.go_archives([change("1", CASE, "a")], {"1.15.10", "1.15.1", "1.15.0"})


def tree(**changed: str | None) -> dict[str, str]:
    files = {
        evidence.CROSS: "v1.15.0-1\n",
        evidence.GO_MOD: "require github.com/opencontainers/runc v1.0.0-rc92\n",
        evidence.GOLANG_SH: f"{SED}\n",
        evidence.INIT_SH: "#!/usr/bin/env bash\n# off\n",
        f"{evidence.VENDORED_CGROUPS}memory.go": PLAIN,
        f"{evidence.VENDORED_CGROUPS}kmem.go": GATED,
        f"{evidence.VENDORED_CGROUPS}kmem_test.go": OPEN,
        f"{evidence.VENDORED_CGROUPS}README": '"memory.kmem.limit_in_bytes"',
    }
    merged = {**files, **{getattr(evidence, name): text for name, text in changed.items()}}
    return {path: text for path, text in merged.items() if text is not None}


def read_again(trees: Mapping[str, dict[str, str]]) -> list[evidence.KubernetesEvidence]:
    tags = {tag: Tagged(tag, 1600000000) for tag in trees}
    found = evidence.kubernetes(["1.20"], tags, lambda commit, *_: trees[commit], {})
    return found["1.20"]


def test_what_changes_within_a_minor_is_written_from_where_it_changes() -> None:
    later = tree(GOLANG_SH='gotags="selinux"\n', INIT_SH="  export GO111MODULE=auto\n")
    later[f"{evidence.VENDORED_CGROUPS}kmem.go"] = PLAIN
    trees = {"v1.20.10": later, "v1.20.9": tree(), "v1.20.0-rc.1": {}, "v1.19.0": {}}
    old = '# a comment\nminor = "1.20"\n\n[evidence]\nall = "gone"\n'
    expected = """\
        # a comment
        minor = "1.20"

        [evidence]
        commit = "git rev-parse TAG^{commit}; epoch is its committer date"
        go = "build/build-image/cross/VERSION at TAG"
        vendored_runc = "go.mod at TAG"
        nokmem = "vendor/github.com/opencontainers/runc/libcontainer/cgroups/fs/kmem.go at TAG begins '// +build linux,!nokmem'; from v1.20.10: vendor/github.com/opencontainers/runc/libcontainer/cgroups/fs/memory.go at TAG begins '// +build linux'; neither it nor a file beside it names memory.kmem.limit_in_bytes"
        kubelet_tags = \'\'\'hack/lib/golang.sh at TAG: SED; from v1.20.10: hack/lib/golang.sh at TAG: gotags="selinux"\'\'\'
        modules = 'hack/lib/init.sh at TAG: what it exports as GO111MODULE'

        # in order of patch release; a release keeps the last value above it
        [[nokmem]]
        from = "v1.20.9"
        mechanism = "tag"

        [[nokmem]]
        from = "v1.20.10"
        mechanism = "not needed"

        [[kubelet_tags]]
        from = "v1.20.9"
        tags = ["selinux", "notest"]
        extracts = true

        [[kubelet_tags]]
        from = "v1.20.10"
        tags = ["selinux"]
        extracts = false

        [[modules]]
        from = "v1.20.9"
        value = ""

        [[modules]]
        from = "v1.20.10"
        value = "auto"

        [releases]
        "v1.20.9" = { commit = "v1.20.9", epoch = 1600000000, go = "1.15.0", vendored_runc = "v1.0.0-rc92" }
        "v1.20.10" = { commit = "v1.20.10", epoch = 1600000000, go = "1.15.0", vendored_runc = "v1.0.0-rc92" }
        """
    written = evidence.kubernetes_text(old, read_again(trees))
    assert written == textwrap.dedent(expected).replace("SED", SED)


def test_a_minor_without_a_release_only_loses_its_releases() -> None:
    old = (DATA / "kubernetes/1.9.toml").read_text()
    written = evidence.kubernetes_text(old, [])
    assert old.startswith(written) and written.endswith("[releases]\n")


@pytest.mark.parametrize("name", ["CROSS", "GO_MOD", "GOLANG_SH", "INIT_SH"])
@pytest.mark.parametrize("text", [None, "GOFLAGS and GO111MODULE= of another kind"])
def test_a_fact_that_cannot_be_read_is_named_with_file_and_tag(name: str, text: str | None) -> None:
    with pytest.raises(UnavailableError, match="a fact cannot be read") as caught:
        read_again({"v1.20.3": tree(**{name: text})})
    assert caught.value.place == f"{getattr(evidence, name)} at v1.20.3"
    assert caught.value.next_step


def test_a_missing_folder_is_named() -> None:
    files = {p: t for p, t in tree().items() if not p.startswith(evidence.VENDORED_CGROUPS)}
    with pytest.raises(NokmemError) as caught:
        read_again({"v1.20.3": files})
    assert caught.value.place == f"{evidence.VENDORED_CGROUPS} at v1.20.3"


def test_a_repository_of_something_else_is_refused() -> None:
    with pytest.raises(UsageError, match="no tag here") as caught:
        evidence.runc({"v1.0.0-rc4": Tagged("", 0), "v1.2.0": Tagged("", 0)}, lambda *_: {})
    assert caught.value.place == "--runc"


def test_runcs_releases_are_written_among_what_a_person_wrote() -> None:
    files = {
        "VERSION": "1.0.0-rc10\n",
        "Makefile": "BUILDTAGS ?= seccomp\n",
        f"{evidence.CGROUPS}memory.go": OPEN,
    }
    tags = {
        tag: Tagged(COMMIT, 1) for tag in ("v1.0.0", "v1.0.0-rc90", "v1.0.0-rc9", "v1.1.0-rc.1")
    }
    found = evidence.runc(tags, lambda *_: files)
    assert [row.tag for row in found] == ["v1.0.0-rc9", "v1.0.0-rc90", "v1.0.0"]
    row = f'{{ commit = "{COMMIT}", epoch = 1, go = "", prints = "1.0.0-rc10", default_tags = ["seccomp"], nokmem = "absent" }}'
    old = '# why\n[releases]\n"gone" = {}\n\n# faults\n[[cves]]\n'
    assert (
        evidence.runc_text(old, found[:1])
        == f'# why\n[releases]\n"1.0.0-rc9" = {row}\n\n# faults\n[[cves]]\n'
    )


@pytest.mark.parametrize("revision", ["", "v1.0.0", "abc", "a" * 39])
def test_a_revision_that_is_no_commit_is_no_fact(revision: str) -> None:
    rows = {"Deps": [{"ImportPath": evidence.RUNC, "Rev": revision}]}
    with pytest.raises(ValueError, match="no commit"):
        evidence.runc_of_godeps(json.dumps(rows))


def test_brackets_without_end_are_no_list_of_dependencies() -> None:
    with pytest.raises(ValueError, match="no list"):
        evidence.runc_of_godeps("[" * 200_000)


@pytest.mark.parametrize("text", ["'" * 3 + '"', "a\nb", "\0\x7f", "\\", "'", '"', "", '"x' + "'"])
def test_any_text_reads_back_from_a_data_file(text: str) -> None:
    assert tomllib.loads(f"x = {evidence._toml(text)}") == {"x": text}
