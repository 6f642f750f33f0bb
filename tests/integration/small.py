"""A Kubernetes and a runc that compile in a second: what a build does around the compilers, and
what goes wrong there, shows as well with them. They hold the texts that the checks look for."""

from __future__ import annotations

import difflib
import hashlib
import io
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

HOOKS = ROOT / "patches/kubernetes/0002-kubelet-call-adoption.patch"
STAMP = "pkg/kubelet/adoption/stamp.go"
KEEP = 'var keep = []string{"memory.limit_in_bytes", "libcontainer/cgroups/fs."}\n'
KUBERNETES = {
    "Makefile": """\
kubelet: generated_files
	@%(before)s
	@[ ! -e %(stamp)s ] || sed 's/^package.*/package main/' %(stamp)s >cmd/zz_stamp.go
	@. "$$KUBE_GIT_VERSION_FILE" && mkdir -p _output/local/bin/linux/amd64 && \\
	GO111MODULE=off go build -ldflags "-X main.version=$$KUBE_GIT_VERSION" \\
	-o _output/local/bin/linux/amd64/kubelet ./cmd

.PHONY: generated_files
generated_files: cmd/zz_generated.go
cmd/zz_generated.go: pkg/api/types.go
	@%(generate)s
	@echo "generating of $$(cat pkg/api/*.txt pkg/base/*.go)"
	@echo 'package main; var types = `'"$$(cat pkg/api/*.txt pkg/base/*.go)"'`' >$@
""",
    # as upstream's: what a rule names is not all that is read
    "pkg/api/types.go": '// +k8s:mark\npackage api; import _ "k8s.io/kubernetes/pkg/base"\n',
    "pkg/api/note.txt": "text\n",
    "pkg/base/base.go": "package base // plain\n",
    "hack/run-in-gopath.sh": """\
mkdir -p _output/go/src/k8s.io && ln -sfn "$PWD" _output/go/src/k8s.io/kubernetes
cd _output/go/src/k8s.io/kubernetes && GO111MODULE=off GOPATH=${PWD%/src/*} exec "$@"
""",
    "cmd/main.go": 'package main\n\nimport "C"\n\nvar Build, version string\n\n' + KEEP + """
func main() {
	print("Kubernetes " + version + "\\n")
	if version == "" {
		print(keep, types, "nokmem_adoption_build_info", Build)
	}
}
""",
}  # fmt: skip
RUNC = {
    "Makefile": """\
static:
	@%(before)s
	CGO_ENABLED=0 go build $(EXTRA_FLAGS) -tags "$(BUILDTAGS)" \\
	-ldflags "-X main.commit=$(COMMIT)" -o runc .
""",
    "main.go": "package main\n\nvar commit string\n\n" + KEEP + """
func main() {
	print("runc version 1.0.0-rc10\\ncommit: " + commit + "\\n")
	if commit == "" {
		print(keep)
	}
}
""",
}  # fmt: skip


def hooked() -> dict[str, str]:
    """Of the files into which the project's own patch hooks, the lines that it looks for."""
    found = {}
    for part in HOOKS.read_text().partition("\n-- \n")[0].split("\ndiff --git a/")[1:]:
        lines: list[str] = []
        for start, hunk in re.findall(r"^@@ -(\d+).*\n((?:[ +-].*(?:\n|$))*)", part, re.M):
            lines += [""] * (int(start) - 1 - len(lines))
            lines += [line[1:] for line in hunk.splitlines() if line[0] != "+"]
        found[part.split()[0]] = "\n".join([*lines, "", ""])
    return found


@dataclass(frozen=True)
class Small:
    """Two archives as options of the command line have them."""

    words: tuple[str, ...]


def series(folder: Path, name: str, old: str, new: str) -> str:
    """A series of a user's own, whose one mail changes a text in a file of Kubernetes."""
    before = KUBERNETES[name].splitlines(keepends=True)
    after = KUBERNETES[name].replace(old, new).splitlines(keepends=True)
    diff = "".join(difflib.unified_diff(before, after, f"a/{name}", f"b/{name}"))
    mails = folder / "kubernetes"
    mails.mkdir(parents=True)
    (mails / "0001.patch").write_text(
        f"From {'0' * 40} Mon Sep 17 00:00:00 2001\nFrom: Somebody <somebody@example.org>\n"
        "Date: Mon, 2 Nov 2020 00:00:00 +0000\nSubject: [PATCH] Change\n\n---\n"
        f"diff --git a/{name} b/{name}\n{diff}"
    )
    (mails / "series.toml").write_text(
        '[[patches]]\nfile = "0001.patch"\nfrom = "v1.20.2"\nuntil = "v1.20.2"\n'
        'reason = "a test"\nevidence = "none"\n'
    )
    return str(folder)


def archive(path: Path, files: dict[str, str], age: int = 0) -> tuple[str, str]:
    """A .tar.gz below one folder, all of it of that time; its path and its sha256."""
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"top/{name}")
            member.size, member.mtime = len(text.encode()), age
            tar.addfile(member, io.BytesIO(text.encode()))
    return str(path), sha256(path)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make(
    folder: Path,
    *,
    kubelet: str = "true",
    runc: str = "true",
    generate: str = "true",
    age: int = 0,
) -> Small:
    """Archives whose Makefiles run the given shell commands before they compile or generate."""
    folder.mkdir(parents=True, exist_ok=True)
    words: list[str] = []
    for option, files, before in (("k8s", KUBERNETES | hooked(), kubelet), ("runc", RUNC, runc)):
        values = {"before": before, "generate": generate, "stamp": STAMP}
        filled = {
            name: text % values if name == "Makefile" else text for name, text in files.items()
        }
        path, digest = archive(folder / f"{option}.tar.gz", filled, age)
        words += [f"--{option}-source", path, f"--{option}-sha256", digest]
    return Small(("--runc", "1.0.0-rc10", "--toolchain", "debian", "--go", "distribution", *words))
