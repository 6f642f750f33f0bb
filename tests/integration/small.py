"""A Kubernetes and a runc that compile in a second: what a build does around the compilers, and
what goes wrong there, shows as well with them. They hold the texts that the checks look for."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

KEEP = 'var keep = []string{"memory.limit_in_bytes", "libcontainer/cgroups/fs."}\n'
KUBERNETES = {
    "Makefile": """\
kubelet:
	@%(before)s
	@. "$$KUBE_GIT_VERSION_FILE" && mkdir -p _output/local/bin/linux/amd64 && \\
	GO111MODULE=off go build -ldflags "-X main.version=$$KUBE_GIT_VERSION" \\
	-o _output/local/bin/linux/amd64/kubelet ./cmd
""",
    "cmd/main.go": 'package main\n\nimport "C"\n\nvar version string\n\n' + KEEP + """
func main() {
	print("Kubernetes " + version + "\\n")
	if version == "" {
		print(keep)
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


@dataclass(frozen=True)
class Small:
    """Two archives as options of the command line have them."""

    words: tuple[str, ...]


def archive(path: Path, files: dict[str, str]) -> tuple[str, str]:
    """A .tar.gz below one folder; its path and its sha256."""
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"top/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return str(path), hashlib.sha256(path.read_bytes()).hexdigest()


def make(folder: Path, *, kubelet: str = "true", runc: str = "true") -> Small:
    """Archives whose Makefiles run the given shell commands before they compile."""
    folder.mkdir(parents=True, exist_ok=True)
    words: list[str] = []
    for option, files, before in (("k8s", KUBERNETES, kubelet), ("runc", RUNC, runc)):
        filled = {
            name: text % {"before": before} if name == "Makefile" else text
            for name, text in files.items()
        }
        path, sha256 = archive(folder / f"{option}.tar.gz", filled)
        words += [f"--{option}-source", path, f"--{option}-sha256", sha256]
    return Small(("--runc", "1.0.0-rc10", "--toolchain", "debian", "--go", "distribution", *words))
