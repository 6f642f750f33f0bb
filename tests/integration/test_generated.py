"""What upstream generates is kept for the next room: used where it is right, and never else."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path, PurePosixPath

import pytest

from builders import pipeline
from builders.model.plan import GENERATED
from builders.tools import process
from builders.tools.builder import Builder, Limits, Session
from tests.conftest import REQUEST, ROOT, VERSION
from tests.integration import small
from tests.integration.test_bad_days import Run

#: What happens in a room is the same in both; that both keep and find it is seen by the others.
embedded = pytest.mark.parametrize("builder", ["rootfs"], indirect=True)
PLAIN, CHANGED = "// plain", "// changed"
BASE = ("pkg/base/base.go", "plain", "changed")


class Bench:
    """Builds of one small Kubernetes that was never built before, by one builder."""

    def __init__(self, builder: Builder, folder: Path, before: str = "true") -> None:
        self._builder, self._folder, self.before = builder, folder, before
        mark = f"true {secrets.token_hex(8)}"  # in the Makefile, and so in the archive's hash
        self._small = small.make(folder / "archives", generate=f"{before} && {mark}")
        words = ("plan", "--k8s", VERSION, *self._small.words, "--format", "json")
        result, text = process.capture([sys.executable, str(ROOT / "tasks.py"), *words])
        assert result.ok, text
        (kubelet,) = (one for one in json.loads(text)["components"] if one["name"] == "kubelet")
        self._kept = PurePosixPath(kubelet["generated"]).name

    def start(self, dist: str, *more: str) -> Run:
        words = ("--builder", self._builder.name, "--dist", str(self._folder / dist), "--rebuild")
        return Run("build", "--k8s", VERSION, *self._small.words, *words, *more)

    def end(self, run: Run, dist: str) -> tuple[bytes, str]:
        """The kubelet and the log."""
        assert run.end() == 0, run.text
        place = self._folder / dist / VERSION
        return (place / "kubelet").read_bytes(), (place / "build.log").read_text()

    def build(self, *more: str) -> tuple[bytes, str]:
        return self.end(self.start("dist", *more), "dist")

    def patched(self, name: str, old: str, new: str) -> tuple[bytes, str]:
        folder = self._folder / secrets.token_hex(4)
        return self.build("--patches", small.series(folder, name, old, new))

    def kept(self, what: str = "") -> list[str]:
        """What is kept of this very Kubernetes."""
        there = self.inside("ls", GENERATED)
        return [name for name in there if name == f"{self._kept}{what}"]

    def inside(self, *argv: str) -> list[str]:
        """What a command prints in a room of this builder."""
        lines: list[str] = []
        key = pipeline.plan(REQUEST).toolchain.key
        session: Session
        with self._builder.start(key, Limits()) as session:
            session.run(["install", "-d", GENERATED], environment={})
            session.run(argv, environment={}, on_line=lines.append)
        return lines


@pytest.fixture
def bench(builder: Builder, tmp_path: Path) -> Bench:
    return Bench(builder, tmp_path)


def test_it_is_generated_once(bench: Bench) -> None:
    first, log = bench.build()
    assert PLAIN in log and PLAIN.encode() in first
    again, log = bench.build()
    assert "generating" not in log and again == first


@embedded
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [BASE, ("pkg/api/note.txt", "text", "changed"), ("cmd/main.go", "main()", "main() /*+k8s:*/")],
    ids=["a package that a marked one imports", "no Go file", "a mark"],
)
def test_a_patch_on_what_it_is_made_of_makes_it_anew(
    name: str, old: str, new: str, bench: Bench
) -> None:
    plain, _ = bench.build()
    changed, log = bench.patched(name, old, new)
    assert log.count("generating of") == 1 and f"may depend on the patches: {name}" in log
    assert (new.encode() in changed) == (name != "cmd/main.go")
    again, log = bench.build()
    assert "generating" not in log and again == plain, "a patch got into what is kept"


def test_another_patch_lets_it_be(bench: Bench) -> None:
    bench.build()
    changed, log = bench.patched("cmd/main.go", '"Kubernetes "', '"Kubernetes " + ""')
    assert "generating" not in log and PLAIN.encode() in changed


@embedded
def test_a_first_build_with_such_a_patch_keeps_nothing(bench: Bench) -> None:
    _, log = bench.patched(*BASE)
    assert CHANGED in log and PLAIN not in log
    assert not bench.kept()


@embedded
@pytest.mark.parametrize(
    "damage",
    [
        ["truncate", "-s", "-9", "{}"],
        ["dd", "if=/dev/zero", "of={}", "bs=1", "seek=90", "count=9", "conv=notrunc"],
    ],
    ids=["cut", "other bytes"],
)
def test_a_damaged_one_is_made_anew(damage: list[str], bench: Bench) -> None:
    first, _ = bench.build()
    (mine,) = bench.kept()
    bench.inside(*(word.format(f"{GENERATED}/{mine}") for word in damage))
    assert bench.inside("gzip", "-t", f"{GENERATED}/{mine}"), "it is not damaged"
    again, log = bench.build()
    assert PLAIN in log and again == first
    again, log = bench.build()
    assert "generating" not in log and again == first


def test_what_is_read_is_asked_once(bench: Bench) -> None:
    """And again where the answer is damaged: half of it would miss what a patch touches."""
    other = ("cmd/main.go", '"Kubernetes "', '"Kubernetes " + ""')
    bench.patched(*other)
    (mine,) = bench.kept(".reads.gz")
    asked = bench.inside("stat", "-c", "%i", f"{GENERATED}/{mine}")
    _, log = bench.patched(*BASE)
    assert log.count("generating of") == 1 and f"may depend on the patches: {BASE[0]}" in log
    assert bench.inside("stat", "-c", "%i", f"{GENERATED}/{mine}") == asked
    bench.inside("truncate", "-s", "-9", f"{GENERATED}/{mine}")
    _, log = bench.patched(*BASE)
    assert log.count("generating of") == 1 and f"may depend on the patches: {BASE[0]}" in log
    assert bench.inside("stat", "-c", "%i", f"{GENERATED}/{mine}") != asked


def test_two_builds_at_once_keep_one(builder: Builder, tmp_path: Path) -> None:
    bench = Bench(builder, tmp_path, before="sleep 3")
    runs = {dist: bench.start(dist) for dist in ("a", "b")}
    built = [bench.end(run, dist) for dist, run in runs.items()]
    assert all(PLAIN in log for _, log in built) and built[0][0] == built[1][0]
    assert len(bench.kept()) == 1
    again, log = bench.build()
    assert "generating" not in log and again == built[0][0]


@embedded
def test_what_cannot_be_generated_before_the_patches_is_after_them(
    builder: Builder, tmp_path: Path
) -> None:
    bench = Bench(builder, tmp_path, before="grep changed cmd/main.go")
    built, log = bench.patched("cmd/main.go", "func main", "// changed\nfunc main")
    assert "nothing is generated before the patches: kubelet" in log
    assert PLAIN.encode() in built and not bench.kept()


@embedded
def test_what_nobody_used_for_days_goes(bench: Bench) -> None:
    old, young = f"{GENERATED}/old.tar.gz", f"{GENERATED}/young.tar.gz"
    bench.inside("touch", "-d", "7 days ago", old)
    bench.inside("touch", "-d", "3 days ago", young)
    bench.build()
    there = bench.inside("ls", GENERATED)
    assert "old.tar.gz" not in there and "young.tar.gz" in there
    bench.inside("rm", young)


@embedded
def test_where_nothing_says_what_is_read_a_patch_has_it_made_anew(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(small.KUBERNETES, "hack/run-in-gopath.sh", "exit 1\n")
    bench = Bench(builder, tmp_path)
    bench.build()
    _, log = bench.patched("cmd/main.go", '"Kubernetes "', '"Kubernetes " + ""')
    assert "nothing is generated before the patches" in log and log.count("generating of") == 1
