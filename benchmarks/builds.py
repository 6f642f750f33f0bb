"""What a build costs beside the compilers alone, cold and after a change: `python -m
benchmarks.builds`.

Everything is compiled in the embedded builder, cold with an empty Go cache; sources and toolchain
are at hand. About fifteen minutes of two cores a round, of which there are three.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.measure import Cost, in_turns, medians, ratio, run, said, table
from builders.model.plan import BuildRequest
from builders.model.releases import Facts
from builders.model.resolve import resolve
from builders.steps.compile import compile_component
from builders.steps.sources import Debian
from builders.tools import rootfs
from builders.tools.builder import Limits
from builders.tools.cache import Cache

REQUEST = BuildRequest("v1.20.2", toolchain="debian", go="distribution")
BUILD = (
    sys.executable, "tasks.py", "build", "--k8s", REQUEST.kubernetes, "--toolchain", "debian",
    "--go", "distribution", "--builder", "rootfs", "--rebuild",
)  # fmt: skip
ROUNDS = 3
#: A line of kubelet that a user's own patch changes.
CHANGED, LINE = "pkg/kubelet/kubelet.go", "Starting kubelet main sync loop"


@contextmanager
def empty(cache: Cache) -> Iterator[Cache]:
    """A cache that has sources and toolchains and no compiled package."""
    with tempfile.TemporaryDirectory(dir=cache.root) as name:
        for kept in ("files", "trees", "git"):
            if (cache.root / kept).exists():
                Path(name, kept).symlink_to(cache.root / kept)
        yield Cache(Path(name))
        rootfs.remove(Path(name, "go"))


def by_hand(cache: Cache, *names: str) -> None:
    """The commands of a plan, one after the other in one room, and nothing around them: nothing is
    kept for a next time."""
    plan = resolve(REQUEST, Facts())
    with (
        empty(cache) as own,
        tempfile.TemporaryDirectory() as place,
        rootfs.Rootfs(own).start(plan.toolchain.key, Limits()) as session,
    ):
        for component in (c for c in plan.components if c.name in names):
            source = Debian(cache, os.environ, lambda _: None).tree(component, Path(place))
            plain = dataclasses.replace(component, generate=())
            compile_component(plain, source, {}, session, Path(place), _nothing, _nothing)


def whole(cache: Cache) -> Cost:
    """`./run build`, cold."""
    with empty(cache) as own, tempfile.TemporaryDirectory() as dist:
        return run((*BUILD, "--dist", dist), {"NOKMEM_CACHE": str(own.root)})


def after(cache: Cache) -> list[Cost]:
    """With one cache: cold, all compiled already, another patch, the control (another tag)."""
    with empty(cache) as own, tempfile.TemporaryDirectory() as name:
        words = (*BUILD, "--dist", f"{name}/dist")
        first, second = (patch(cache, Path(name, letter), letter) for letter in "ab")
        return [
            run((*words, *more), {"NOKMEM_CACHE": str(own.root)})
            for more in (
                ("--patches", first),
                ("--patches", first),
                ("--patches", second),
                ("--variant", "stock"),
            )
        ]


def patch(cache: Cache, folder: Path, word: str) -> str:
    """A series of a user's own, whose one mail changes one line of kubelet."""
    component = next(c for c in resolve(REQUEST, Facts()).components if c.name == "kubelet")
    debian = Debian(cache, os.environ, lambda _: None)
    content = debian.read(component, [CHANGED], Path())[CHANGED] or b""
    old = content.decode().splitlines(keepends=True)
    new = [line.replace(LINE, f"{LINE} {word}") for line in old]
    diff = difflib.unified_diff(old, new, f"a/{CHANGED}", f"b/{CHANGED}")
    series = folder / "kubernetes"
    series.mkdir(parents=True)
    (series / "0001.patch").write_text(
        f"From {'0' * 40} Mon Sep 17 00:00:00 2001\nFrom: Somebody <somebody@example.org>\n"
        f"Date: Mon, 2 Nov 2020 00:00:00 +0000\nSubject: [PATCH] Say {word}\n\n---\n"
        f"diff --git a/{CHANGED} b/{CHANGED}\n{''.join(diff)}"
    )
    (series / "series.toml").write_text(
        f'[[patches]]\nfile = "0001.patch"\nfrom = "{REQUEST.kubernetes}"\n'
        f'until = "{REQUEST.kubernetes}"\nreason = "a measure"\nevidence = "none"\n'
    )
    return str(folder)


def _nothing(_: object) -> None:
    """Nobody looks."""


def main() -> None:
    cache = Cache.default(os.environ)
    hand = (sys.executable, "-m", "benchmarks.builds")
    typed, kubelet, build = in_turns(
        ROUNDS,
        partial(run, (*hand, "runc", "kubelet")),
        partial(run, (*hand, "kubelet")),
        partial(whole, cache),
    )
    cold, same, changed, control = medians(after(cache) for _ in range(ROUNDS))
    table(
        [
            ("cold `build`, by the same commands typed by hand", ratio(build, typed), "1.03",
             f"{said(build)}; by hand {said(typed)}"),
            ("cold `build`, by kubelet alone", ratio(build, kubelet), "1.05",
             f"{said(build)}; kubelet alone {said(kubelet)}"),
            ("a changed patch, by cold", ratio(changed, cold), "0.15",
             f"{said(changed)}; cold {said(cold)}"),
            ("`build --rebuild`, all compiled already, by cold", ratio(same, cold), "-",
             said(same)),
            ("the control after it (another tag), by cold", ratio(control, cold), "-",
             said(control)),
        ]
    )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:]:
        by_hand(Cache.default(os.environ), *sys.argv[1:])
    else:
        main()
