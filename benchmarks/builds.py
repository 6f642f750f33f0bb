"""What a build costs beside the compilers alone: `python -m benchmarks.builds`.

Everything is compiled with an empty Go cache in the embedded builder; sources and toolchain are
at hand. About fifteen minutes of two cores.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.measure import Cost, in_turns, run, said, table
from builders.model.artifact import SourceTree
from builders.model.plan import BuildPlan, BuildRequest
from builders.model.releases import Facts
from builders.model.resolve import resolve
from builders.steps.compile import compile_component
from builders.steps.sources import Debian
from builders.tools import rootfs
from builders.tools.builder import Limits
from builders.tools.cache import Cache

REQUEST = BuildRequest("v1.20.2", toolchain="debian", go="distribution")
BUILD = (
    sys.executable, "-m", "invoke", "build", "--k8s", REQUEST.kubernetes, "--toolchain", "debian",
    "--go", "distribution", "--builder", "rootfs", "--rebuild",
)  # fmt: skip


def fresh(cache: Cache, folder: Path) -> Cache:
    """A cache that has sources and toolchains and no compiled package."""
    folder.mkdir()
    for name in ("files", "trees", "git"):
        if (cache.root / name).exists():
            (folder / name).symlink_to(cache.root / name)
    return Cache(folder)


def by_hand(cache: Cache, plan: BuildPlan, names: tuple[str, ...], folder: Path) -> Cost:
    """The commands of a plan, one after the other in one room, and nothing around them."""
    place = Path(tempfile.mkdtemp(dir=folder))
    own = fresh(cache, place / "cache")
    began = time.monotonic()
    with rootfs.Rootfs(own).start(plan.toolchain.key, Limits()) as session:
        for component in (c for c in plan.components if c.name in names):
            source: SourceTree = Debian(cache, os.environ).tree(component, place)
            compile_component(component, source, {}, session, place, _nothing, _nothing)
    return Cost(time.monotonic() - began, 0)


def whole(cache: Cache, folder: Path, *more: str) -> Cost:
    """`./run build` with an empty Go cache."""
    place = Path(tempfile.mkdtemp(dir=folder))
    own = fresh(cache, place / "cache")
    return run((*BUILD, "--dist", str(place / "dist"), *more), {"NOKMEM_CACHE": str(own.root)})


def after(cache: Cache, folder: Path) -> tuple[Cost, Cost, Cost]:
    """With one cache: cold, then all compiled already, then the control, which has another tag."""
    own = fresh(cache, folder / "one")
    words = (*BUILD, "--dist", str(folder / "dist"))
    environment = {"NOKMEM_CACHE": str(own.root)}
    cold = run(words, environment)
    same = run(words, environment)
    return cold, same, run((*words, "--variant", "stock"), environment)


def _nothing(_: object) -> None:
    """Nobody looks."""


def main() -> None:
    cache = Cache.default(os.environ)
    plan = resolve(REQUEST, Facts())
    with tempfile.TemporaryDirectory(dir=cache.root) as name:
        folder = Path(name)
        hand, kubelet, build = in_turns(
            1,
            partial(by_hand, cache, plan, ("runc", "kubelet"), folder),
            partial(by_hand, cache, plan, ("kubelet",), folder),
            partial(whole, cache, folder),
        )
        cold, same, control = after(cache, folder)
        rootfs.Rootfs(cache)._remove(folder)
        folder.mkdir()
    table(
        [
            ("cold `build`, by the same commands typed by hand", ratio(build, hand), "1.03",
             f"{said(build)}; by hand {hand.seconds:.0f} s"),
            ("cold `build`, by kubelet alone", ratio(build, kubelet), "1.05",
             f"{said(build)}; kubelet alone {kubelet.seconds:.0f} s"),
            ("`build --rebuild`, all compiled already, by cold", ratio(same, cold), "-",
             f"{said(same)}; cold {said(cold)}"),
            ("the control after it (another tag), by cold", ratio(control, cold), "-",
             said(control)),
        ]
    )  # fmt: skip


def ratio(one: Cost, other: Cost) -> str:
    return f"{one.seconds / other.seconds:.2f}"


if __name__ == "__main__":
    main()
