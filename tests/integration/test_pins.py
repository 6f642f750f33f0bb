"""Real repositories, shaped like upstream's: `pins` sees what changed there and takes it over."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from builders.tools import process
from tests.conftest import ROOT
from tests.integration.test_gitrepo import git

CGROUPS = "libcontainer/cgroups/fs"
VENDORED = f"vendor/github.com/opencontainers/runc/{CGROUPS}"
KMEM = '// +build linux,!nokmem\n\npackage fs\n\nvar name = "memory.kmem.limit_in_bytes"\n'
ACCOUNTING = {"memory.go": "// +build linux\n\npackage fs\n", "kmem.go": KMEM}
GOLANG_SH = 'gotags="selinux,$(echo "${GOFLAGS:-}" | sed -e \'s|.*-tags=||\')"\n'


class Upstream:
    """Three repositories and a copy of the project that is to agree with them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.project = place / "project"
        shutil.copytree(ROOT / "builders", self.project / "builders")
        shutil.copy(ROOT / "tasks.py", self.project)
        self.data = self.project / "builders/model/data"
        for path in (self.data / "kubernetes").iterdir():
            if path.stem not in ("1.13", "1.20"):
                path.unlink()
        archives = (self.data / "go.toml").read_text().partition("[archives]\n")
        (self.data / "go.toml").write_text("".join(archives[:2]))
        for name in ("kubernetes", "runc", "golang"):
            git(place, "init", "--quiet", "--initial-branch=main", name)
        for version in ("1.0.0-rc7", "1.0.0-rc92", "1.0.0-rc95", "1.1.12"):
            self.runc(version)
        commit = git(place / "runc", "rev-parse", "v1.0.0-rc92^{commit}")
        self.kubernetes("v1.20.0", "1.15.5", f"v1.0.0-rc2.0.20200101000000-{commit[:12]}")
        self.kubernetes("v1.20.1", "1.15.5")
        for go in ("1.15.5", "1.15.8"):
            self.golang(go)

    def commit(self, name: str, files: Mapping[str, str], tag: str) -> None:
        folder = self.place / name
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--allow-empty", "-m", tag)
        git(folder, "tag", "-f", "-a", tag, "-m", tag)

    def kubernetes(self, tag: str, go: str, runc: str = "v1.0.0-rc92") -> None:
        files = {
            "build/build-image/cross/VERSION": f"v{go}-legacy-1\n",
            "go.mod": f"require github.com/opencontainers/runc {runc}\n",
            "hack/lib/golang.sh": GOLANG_SH,
            "hack/lib/init.sh": "export GO111MODULE=off\n",
            **{f"{VENDORED}/{name}": text for name, text in ACCOUNTING.items()},
        }
        self.commit("kubernetes", files, tag)

    def runc(self, version: str) -> None:
        files = {
            "VERSION": f"{version}\n",
            "Makefile": "BUILDTAGS ?= seccomp\n",
            "go.mod": "go 1.14\n",
            **{f"{CGROUPS}/{name}": text for name, text in ACCOUNTING.items()},
        }
        self.commit("runc", files, f"v{version}")

    def golang(self, version: str) -> None:
        minor, hash_of_it = version.rpartition(".")[0], f"{version[-1]}" * 64
        url = f"url='https://dl.google.com/go/go{version}.linux-amd64.tar.gz'; \\\n"
        text = f"{url}\tsha256='{hash_of_it}'; \\\n"
        self.commit("golang", {f"{minor}/buster/Dockerfile": text}, version)

    def pins(
        self, *words: str, of: tuple[str, ...] = ("kubernetes", "runc", "golang")
    ) -> tuple[int, str]:
        folders = [word for name in of for word in (f"--{name}", str(self.place / name))]
        invoke = [sys.executable, "-m", "invoke", "--search-root", str(self.project), "pins"]
        result, text = process.capture([*invoke, *folders, *words])
        return result.exit_code, text


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return Upstream(tmp_path)


def test_what_upstream_changed_is_shown_and_written(upstream: Upstream) -> None:
    code, text = upstream.pins("--write")
    assert code == 0, text
    assert '-"v1.13.0" = ' in text and '-"1.0.0-rc5" = ' in text, "what is not upstream stays"
    code, text = upstream.pins()
    assert (code, text.count("as upstream"), "@@" in text) == (0, 4, False), text

    upstream.kubernetes("v1.20.1", "1.15.8")
    upstream.kubernetes("v1.20.2", "1.15.8")
    upstream.runc("1.0.0-rc93")
    git(upstream.place / "runc", "tag", "-a", "v1.0.0-rc94", "v1.0.0-rc93", "-m", "a tag of a tag")
    code, text = upstream.pins()
    assert code == 1, text
    moved = [line for line in text.splitlines() if '"v1.20.1"' in line]
    assert [line[0] for line in moved] == ["-", "+"]
    old, new = (git(upstream.place / "kubernetes", "rev-parse", r) for r in ("HEAD~2", "HEAD~1"))
    assert f'{old}", ' in moved[0] and 'go = "1.15.5"' in moved[0]
    assert f'{new}", ' in moved[1] and 'go = "1.15.8"' in moved[1]
    assert '\n+"v1.20.2" = ' in text and '\n-"v1.20.0"' not in text
    commit = git(upstream.place / "runc", "rev-parse", "HEAD")
    assert all(f'\n+"1.0.0-rc{n}" = {{ commit = "{commit}"' in text for n in (93, 94))
    assert f'\n+"1.15.8" = {{ sha256 = "{"8" * 64}", evidence = "docker-library/golang@' in text

    assert upstream.pins("--write")[0] == 0
    assert upstream.pins()[0] == 0
    assert upstream.pins(of=("kubernetes",))[0] == 0, "runc.toml names what is vendored, too"
    assert 'vendored_runc = "v1.0.0-rc92"' in (upstream.data / "kubernetes/1.20.toml").read_text()


def test_what_a_person_wrote_stays(upstream: Upstream) -> None:
    before = (upstream.data / "runc.toml").read_text()
    upstream.pins("--write")
    after = (upstream.data / "runc.toml").read_text()
    assert after.partition("[releases]")[0] == before.partition("[releases]")[0]
    assert after.partition("\n\n# Known")[2] == before.partition("\n\n# Known")[2]


def test_a_bare_clone_without_the_large_files_is_enough(upstream: Upstream) -> None:
    (upstream.place / "kubernetes/huge").write_text("not looked at\n")
    upstream.kubernetes("v1.20.2", "1.15.8")
    upstream.pins("--write")
    git(upstream.place, "clone", "--quiet", "--bare", "kubernetes", "bare")
    blob = git(upstream.place / "bare", "rev-parse", "v1.20.2:huge")
    (upstream.place / "bare/objects" / blob[:2] / blob[2:]).unlink()
    shutil.rmtree(upstream.place / "kubernetes")
    (upstream.place / "bare").rename(upstream.place / "kubernetes")
    code, text = upstream.pins(of=("kubernetes",))
    assert (code, text.count("as upstream")) == (0, 2), text


def test_a_file_that_is_not_there_is_named(upstream: Upstream) -> None:
    folder = upstream.place / "kubernetes"
    blob = git(folder, "rev-parse", "v1.20.1:hack/lib/golang.sh")
    (folder / ".git/objects" / blob[:2] / blob[2:]).unlink()
    code, text = upstream.pins(of=("kubernetes",))
    assert code == 5 and "cannot be read whole" in text and str(folder) in text, text


@pytest.mark.parametrize("option", ["kubernetes", "runc", "golang"])
def test_a_folder_that_is_no_repository_is_refused(option: str, upstream: Upstream) -> None:
    shutil.rmtree(upstream.place / option)
    code, text = upstream.pins(of=(option,))
    assert code == 2 and "no such folder" in text, text
    (upstream.place / option).mkdir()
    code, text = upstream.pins(of=(option,))
    assert code == 2 and "not a git repository" in text and str(upstream.place / option) in text, (
        text
    )
