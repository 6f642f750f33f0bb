"""The real runc, built by both builders; and every check seen to reject something real."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shutil
import socket
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builders import pipeline
from builders.errors import CompileError, ProofError
from builders.model.artifact import Binary, CheckReport, SourceTree
from builders.model.plan import BuildPlan, ComponentPlan
from builders.model.releases import Facts
from builders.steps import checks, modules
from builders.steps.checks import Expected
from builders.steps.compile import compile_component
from builders.steps.sources import Debian, Places
from builders.supply import Options, Supply
from builders.tools import confined, process, rootfs
from builders.tools.builder import Builder, Limits, Session
from builders.tools.cache import Cache, sha256_of
from builders.tools.terminal import Terminal
from tests.conftest import REQUEST, ROOT

TARGET = Facts().targets["el7"]
Compile = Callable[[Builder, ComponentPlan, str], Binary]


def runc_of(plan: BuildPlan) -> ComponentPlan:
    return next(component for component in plan.components if component.name == "runc")


@pytest.fixture(scope="module")
def compile_runc(
    plan: BuildPlan, provider: Debian, tmp_path_factory: pytest.TempPathFactory
) -> Compile:
    """Compile a component into a folder of its own."""

    def make(builder: Builder, component: ComponentPlan, key: str) -> Binary:
        folder = tmp_path_factory.mktemp("out")
        provider.fetch(component, lambda _: None, lambda _: None)
        tree = provider.tree(component, folder)
        with builder.start(key, Limits()) as session:
            binary = compile_component(
                component, tree, {}, session, folder, lambda _: None, lambda _: None
            )
        return dataclasses.replace(binary, modules=modules.vendored(component, tree, {}))

    return make


@pytest.fixture(scope="module")
def nokmem(rootfs_builder: Builder, plan: BuildPlan, compile_runc: Compile) -> Binary:
    return compile_runc(rootfs_builder, runc_of(plan), plan.toolchain.key)


@pytest.fixture(scope="module")
def stock(rootfs_builder: Builder, stock_plan: BuildPlan, compile_runc: Compile) -> Binary:
    return compile_runc(rootfs_builder, runc_of(stock_plan), stock_plan.toolchain.key)


@pytest.fixture
def session(rootfs_builder: Builder, plan: BuildPlan) -> Iterator[Session]:
    with rootfs_builder.start(plan.toolchain.key, Limits()) as session:
        yield session


def expected(plan: BuildPlan, sha256: str) -> Expected:
    component = runc_of(plan)
    return Expected("runc", component.linking, False, component.prints, sha256)


def prove(binary: Binary, plan: BuildPlan) -> CheckReport:
    """Ask everything as `verify` does, --version included."""
    asked_again = dataclasses.replace(binary, says=None)
    return checks.prove([(asked_again, expected(plan, binary.sha256))], TARGET)


def failed(report: CheckReport) -> set[str]:
    return {check.name for check in report.failures}


def test_nokmem_passes_every_check(nokmem: Binary, plan: BuildPlan) -> None:
    report = prove(nokmem, plan)
    assert report.failures == ()
    assert [check.name for check in report.checks] == [
        "hash", "architecture", "linking", "libraries", "glibc", "libseccomp", "nokmem", "modules",
        "version",
    ]  # fmt: skip


def test_a_module_that_the_list_lacks_is_told_by_the_binary(
    nokmem: Binary, plan: BuildPlan
) -> None:
    """Of Debian's package that has it in a vendor folder, and of one that is a package of its own."""
    names = [module.path for module in nokmem.modules]
    for name in ("github.com/urfave/cli", "golang.org/x/sys"):
        assert name in names
        rest = tuple(module for module in nokmem.modules if module.path != name)
        report = prove(dataclasses.replace(nokmem, modules=rest), plan)
        assert "modules" in failed(report) and name in report.failures[0].found


def test_stock_is_rejected_for_its_accounting(stock: Binary, plan: BuildPlan) -> None:
    report = prove(stock, plan)
    assert failed(report) == {"nokmem", "version"}
    assert "memory.kmem.limit_in_bytes" in report.failures[0].found
    assert report.failures[1].found == "not run: an earlier check failed"


def test_stock_is_a_control_that_works(stock: Binary, stock_plan: BuildPlan) -> None:
    item = dataclasses.replace(expected(stock_plan, stock.sha256), accounting=True)
    assert checks.prove([(stock, item)], TARGET).passed


def test_a_flipped_byte_is_rejected(nokmem: Binary, plan: BuildPlan, tmp_path: Path) -> None:
    damaged = tmp_path / "runc"
    content = bytearray(nokmem.path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    report = prove(dataclasses.replace(nokmem, path=damaged), plan)
    assert {"hash", "version"} <= failed(report)


def test_another_version_is_rejected(nokmem: Binary, plan: BuildPlan) -> None:
    other = dataclasses.replace(expected(plan, nokmem.sha256), prints=("runc version 9",))
    for binary in (nokmem, dataclasses.replace(nokmem, says=None)):
        report = checks.prove([(binary, other)], TARGET)
        assert failed(report) == {"version"}
        assert "runc version 1.0.0-rc93" in report.failures[0].found


def test_what_cannot_be_executed_is_rejected(
    nokmem: Binary, plan: BuildPlan, tmp_path: Path
) -> None:
    shutil.copyfile(nokmem.path, tmp_path / "runc")
    report = prove(dataclasses.replace(nokmem, path=tmp_path / "runc"), plan)
    assert [check.found for check in report.failures] == ["not executable"]


def test_an_elf_file_that_hides_what_it_needs_is_rejected(plan: BuildPlan, tmp_path: Path) -> None:
    """Without section headers it still runs, but nobody can say with which libraries."""
    content = bytearray(Path(sys.executable).resolve().read_bytes())
    content[0x28:0x30] = bytes(8)  # e_shoff
    content[0x3C:0x40] = bytes(4)  # e_shnum, e_shstrndx
    (tmp_path / "runc").write_bytes(content)
    (tmp_path / "runc").chmod(0o755)
    result, _ = process.capture([str(tmp_path / "runc"), "-c", "pass"])
    assert result.ok, "the premise: the loader does not mind"
    report = prove(Binary("runc", tmp_path / "runc", 1, sha256_of(tmp_path / "runc")), plan)
    assert report.failures[-1].found == "not a readable ELF file"


HOSTILE = ROOT / "tests/data/hostile.c"


def test_a_hostile_program_is_confined_and_outlives_nothing(
    session: Session, tmp_path: Path
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        port = str(listener.getsockname()[1]).encode()
        session.put(HOSTILE.read_bytes().replace(b"PORT)", port + b")"), "/build/c/main.c")
        environment = {"PATH": "/usr/bin", "TMPDIR": "/build/c"}
        argv = ["gcc", "-static", "-w", "-o", "/build/c/out", "/build/c/main.c"]
        assert session.run(argv, environment=environment).ok
        binary = fetched(session, "/build/c/out", tmp_path)
        result, text = confined.run(binary.path, ["--version"], timeout=20)
        hung, _ = confined.run(binary.path, ["hang"], timeout=2)
    assert hung.exit_code == 124
    assert result.ok, text
    answers = dict(line.split() for line in text.splitlines())
    assert set(answers) == {"read", "see", "write-usr", "write-root", "connect", "chroot"}
    assert set(answers.values()) == {"refused"}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert path.read_bytes().split(b"\0")[0] != b"/binary"


def go(session: Session, plan: BuildPlan, *words: str, **environment: str) -> None:
    base = dict(runc_of(plan).environment)
    session.run(["install", "-d", base["TMPDIR"]], environment=base)
    result = session.run(["go", *words], environment={**base, **environment})
    assert result.ok, result.tail


def fetched(session: Session, path: str, folder: Path) -> Binary:
    session.get(path, folder / "runc")
    (folder / "runc").chmod(0o755)
    return Binary("runc", folder / "runc", 1, sha256_of(folder / "runc"))


def test_another_architecture_is_rejected(
    session: Session, plan: BuildPlan, tmp_path: Path
) -> None:
    session.put(b"package main\nfunc main() {}\n", "/build/hello/main.go")
    go(
        session, plan, "build", "-o", "/build/hello/out", "/build/hello/main.go",
        GOARCH="arm64", CGO_ENABLED="0",
    )  # fmt: skip
    report = prove(fetched(session, "/build/hello/out", tmp_path), plan)
    assert {"architecture", "nokmem", "version"} <= failed(report)


def test_a_too_new_glibc_and_a_strange_library_are_rejected(
    session: Session, plan: BuildPlan, tmp_path: Path
) -> None:
    source = b"#include <unistd.h>\nint main(void) { char c; return getentropy(&c, 1); }\n"
    session.put(source, "/build/c/main.c")
    environment = {"PATH": "/usr/bin", "TMPDIR": "/build/c"}
    result = session.run(
        ["gcc", "-o", "/build/c/out", "/build/c/main.c", "-Wl,--no-as-needed", "-lresolv"],
        environment=environment,
    )
    assert result.ok, result.tail
    report = prove(fetched(session, "/build/c/out", tmp_path), plan)
    assert {"glibc", "libraries", "linking"} <= failed(report)
    found = {check.name: check.found for check in report.checks}
    assert found["glibc"] == "needs GLIBC_2.25, el7 has 2.17"
    assert "libresolv.so.2" in found["libraries"]


def test_a_runc_that_would_die_of_el7s_libseccomp_is_rejected(
    rootfs_builder: Builder, plan: BuildPlan, compile_runc: Compile
) -> None:
    component = runc_of(plan)
    command = [
        word.replace("-w -extldflags -static ", "").replace(" netgo osusergo", "")
        for word in component.command
    ]
    dynamic = dataclasses.replace(component, command=tuple(command), linking="dynamic")
    binary = compile_runc(rootfs_builder, dynamic, plan.toolchain.key)
    item = dataclasses.replace(expected(plan, binary.sha256), linking="dynamic")
    report = checks.prove([(binary, item)], TARGET)
    assert failed(report) == {"libseccomp"}
    assert "seccomp_api_get" in report.failures[0].found


def test_both_builders_give_the_same_bytes(
    container_builder: Builder, nokmem: Binary, plan: BuildPlan, compile_runc: Compile
) -> None:
    other = compile_runc(container_builder, runc_of(plan), plan.toolchain.key)
    assert other.sha256 == nokmem.sha256


def test_another_cache_and_folder_give_the_same_bytes(
    rootfs_builder: Builder,
    cache: Cache,
    nokmem: Binary,
    plan: BuildPlan,
    compile_runc: Compile,
    tmp_path: Path,
) -> None:
    other = Cache(tmp_path / "a cache elsewhere")
    (other.root / "trees").symlink_to(cache.root / "trees")
    builder = rootfs.Rootfs(other)
    assert compile_runc(builder, runc_of(plan), plan.toolchain.key).sha256 == nokmem.sha256
    rootfs.remove(other.go(plan.toolchain.key))


@pytest.fixture
def only_runc(monkeypatch: pytest.MonkeyPatch) -> Callable[[BuildPlan], None]:
    """Let the pipeline build a plan's runc alone: minutes less for the same way."""

    def use(plan: BuildPlan) -> None:
        reduced = dataclasses.replace(plan, components=(runc_of(plan),))
        monkeypatch.setattr(pipeline, "plan", lambda *_: reduced)
        monkeypatch.setattr(Supply, "settle", lambda *_: reduced)
        monkeypatch.setattr(pipeline, "script", lambda _: "it would name a kubelet")

    return use


def build(dist: Path, cache: Cache, builder: str = "rootfs") -> Path:
    return pipeline.build(
        REQUEST,
        Options(Places(os.environ), builder),
        dist,
        cache,
        Terminal(ci=True),
    ).place


def test_a_failed_build_leaves_the_earlier_one_whole(
    rootfs_builder: Builder,
    plan: BuildPlan,
    cache: Cache,
    only_runc: Callable[[BuildPlan], None],
    tmp_path: Path,
) -> None:
    only_runc(plan)
    (tmp_path / "v1.20.2.failed.log").write_text("of an earlier failure")
    place = build(tmp_path, cache)
    assert not (tmp_path / "v1.20.2.failed.log").exists()
    assert pipeline.verify(place)[1].passed
    before = {path.name: sha256_of(path) for path in place.iterdir()}

    broken = dataclasses.replace(runc_of(plan), command=("go", "build", "no/such/package"))
    only_runc(dataclasses.replace(plan, components=(broken,)))
    with pytest.raises(CompileError) as caught:
        build(tmp_path, cache)
    assert "no/such/package" in "\n".join(caught.value.detail)
    assert "GO111MODULE=off" in caught.value.place and "go build" in caught.value.place

    lost_tag = [word.replace("seccomp nokmem", "seccomp") for word in runc_of(plan).command]
    lost = dataclasses.replace(runc_of(plan), command=tuple(lost_tag))
    only_runc(dataclasses.replace(plan, components=(lost,)))
    with pytest.raises(ProofError) as refused:
        build(tmp_path, cache)
    assert any("memory.kmem.limit_in_bytes" in line for line in refused.value.detail)

    assert {path.name: sha256_of(path) for path in place.iterdir()} == before
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == ["v1.20.2", "v1.20.2.failed.log"]
    assert [p.name for p in tmp_path.glob(".*")] == [".v1.20.2.lock"]


def test_a_dist_is_verified_and_a_tampered_one_refused(
    rootfs_builder: Builder,
    plan: BuildPlan,
    stock: Binary,
    cache: Cache,
    only_runc: Callable[[BuildPlan], None],
    tmp_path: Path,
) -> None:
    only_runc(plan)
    place = build(tmp_path, cache)
    assert pipeline.verify(place)[1].passed
    size = (place / "runc").stat().st_size
    shutil.copyfile(stock.path, place / "runc")
    with pytest.raises(ProofError, match="runc: not of the size"):
        pipeline.verify(place)
    os.truncate(place / "runc", size)
    assert "hash" in failed(pipeline.verify(place)[1])


def test_auto_takes_the_engine_where_one_answers_and_says_so(
    container_builder: Builder, cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pipeline.choose("auto", cache, Terminal(ci=True)).name == "container"
    assert "because an engine answers" in capsys.readouterr().err


def test_auto_takes_the_embedded_builder_where_none_does(
    rootfs_builder: Builder,
    cache: Cache,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/socket")
    assert pipeline.choose("auto", cache, Terminal(ci=True)).name == "rootfs"
    assert "rootfs, because no engine answers" in capsys.readouterr().err


UPSTREAM = {
    "Makefile": 'static:\n\tgo build $(EXTRA_FLAGS) -tags "$(BUILDTAGS)" '
    '-ldflags "-X main.commit=$(COMMIT)" -o runc .\n',
    "main.go": 'package main\n\nvar commit, accounting string\n\nfunc main() '
    '{ println("runc version 1.0.0-rc10\\ncommit: " + commit + "\\n" + accounting) }\n',
    "kmem.go": '// +build !nokmem\n\npackage main\n\nfunc init() { accounting = "on" }\n',
}  # fmt: skip


VENDORED = {
    "Makefile": "static:\n\tCGO_ENABLED=1 go build -trimpath -mod=vendor $(EXTRA_FLAGS) "
    '-ldflags "-w -extldflags -static -X main.commit=$(COMMIT)" -o runc .\n',
    "go.mod": "module github.com/opencontainers/runc\n\ngo 1.14\n\nrequire x.example/y v0.1.0\n",
    "vendor/modules.txt": "# x.example/y v0.1.0\n## explicit\nx.example/y\n",
    "vendor/x.example/y/y.go": 'package y\n\n// #include <stdlib.h>\nimport "C"\n\n'
    "func Y() { C.free(nil) }\n",
    "main.go": 'package main\n\nimport "x.example/y"\n\nvar commit string\n\nfunc main() '
    '{ y.Y(); println("runc version 1.0.0-rc10\\ncommit: " + commit) }\n',
}


def test_what_cgo_compiles_names_no_temporary_folder(
    rootfs_builder: Builder, cache: Cache, tmp_path: Path
) -> None:
    """Go's -trimpath forgets the debug information of a vendored module's C: that is how runc
    from rc91 on got another hash with each cache."""
    decided = pipeline.plan(dataclasses.replace(REQUEST, runc="1.0.0-rc10"))
    with tarfile.open(tmp_path / "source.tar", "w") as tar:
        for name, text in VENDORED.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    tree = SourceTree("runc", tmp_path / "source.tar", strip=0)
    found = []
    for name in ("one", "other"):
        fresh = Cache(tmp_path / name)
        (fresh.root / "trees").symlink_to(cache.root / "trees")
        builder = rootfs.Rootfs(fresh)
        with builder.start(decided.toolchain.key, Limits()) as session:
            binary = compile_component(
                runc_of(decided), tree, {}, session, fresh.root, lambda _: None, lambda _: None
            )
        found.append(binary.sha256)
        rootfs.remove(fresh.go(decided.toolchain.key))
    assert found[0] == found[1]


@pytest.mark.parametrize(("variant", "accounting"), [("nokmem", ""), ("stock", "on")])
def test_a_source_with_a_makefile_is_built_by_it(
    variant: str,
    accounting: str,
    rootfs_builder: Builder,
    provider: Debian,
    tmp_path: Path,
) -> None:
    """Tag and commit reach the compiler through make, in a GOPATH, without go.mod and .git."""
    decided = pipeline.plan(dataclasses.replace(REQUEST, variant=variant, runc="1.0.0-rc10"))
    component = runc_of(decided)
    with tarfile.open(tmp_path / "source.tar", "w") as tar:
        for name, text in UPSTREAM.items():
            # New each time, or Go's cache would know the answer and compile nothing.
            body = f"{text}// {tmp_path}\n".encode() if name == "main.go" else text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    tree = SourceTree("runc", tmp_path / "source.tar", strip=0)
    packages: list[str] = []
    with rootfs_builder.start(decided.toolchain.key, Limits()) as session:
        binary = compile_component(
            component, tree, {}, session, tmp_path, lambda _: None, packages.append
        )
    assert binary.says == (*component.prints, accounting)
    assert "github.com/opencontainers/runc" in packages


def test_a_binary_that_prints_the_right_words_and_dies_is_rejected(
    session: Session, plan: BuildPlan, stock: Binary, tmp_path: Path
) -> None:
    """In the room where it was built its exit code counts, not only its words."""
    words = "\\n".join(runc_of(plan).prints)
    body = f"static:\n\tprintf '#!/bin/sh\\necho \"{words}\"; exit 3\\n' >runc\n\tchmod 755 runc\n"
    with tarfile.open(tmp_path / "source.tar", "w") as tar:
        member = tarfile.TarInfo("Makefile")
        member.size = len(body)
        tar.addfile(member, io.BytesIO(body.encode()))
    component = runc_of(pipeline.plan(dataclasses.replace(REQUEST, runc="1.0.0-rc10")))
    tree = SourceTree("runc", tmp_path / "source.tar", strip=0)
    binary = compile_component(
        component, tree, {}, session, tmp_path, lambda _: None, lambda _: None
    )
    assert binary.says is not None and binary.says[0] == "exit code 3"
    item = dataclasses.replace(expected(plan, stock.sha256), accounting=True)
    report = checks.prove([(dataclasses.replace(stock, says=binary.says), item)], TARGET)
    assert failed(report) == {"version"}
