"""What the modules of this level share: a fresh clone, and what is built in it, once a session."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

from builders.model.plan import BuildPlan
from builders.model.releases import Facts
from builders.steps.compile import compile_component
from builders.steps.sources import Debian
from builders.tools import container, process, rootfs
from builders.tools.builder import Limits
from builders.tools.cache import sha256_of
from tests import debian
from tests.conftest import ROOT, VERSION, leave_out
from tests.e2e.faults import Struck
from tests.node import PACKAGES, Node

MINUTES = 60
#: What this machine may reach decides nothing here.
PINNED = ("--k8s", VERSION, "--toolchain", "debian", "--go", "distribution")

PROOFS = {(p.component, p.release, p.source): p.sha256 for p in Facts().proofs}
#: What a build of that gives, anywhere.
PROVEN = {
    "kubelet": PROOFS["kubernetes", VERSION, "debian"],
    "runc": PROOFS["runc", "1.0.0-rc93", "debian"],
}


def run(clone: Path, *words: str, **more: str) -> tuple[int, str]:
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("NOKMEM_", "PIP_", "DOCKER_", "XDG_", "SSL_", "HOME", "PATH"))
        or name.lower().endswith("_proxy")
    }
    result, text = process.capture(
        [str(clone / "run"), *words],
        environment={**passed, "CI": "true", **more},
        timeout=30 * MINUTES,
    )
    return result.exit_code, text


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone in another folder; its .venv is made by ./run itself."""
    folder = tmp_path_factory.mktemp("a fresh clone") / "nokmem"
    git = process.require("git", "to clone the project")
    result = process.run([git, "clone", "--quiet", f"file://{ROOT}", str(folder)])
    assert result.ok, result.tail
    return folder


def build(request: pytest.FixtureRequest, clone: Path, folder: str, *words: str) -> Path:
    """What `./run build` leaves in a folder of the clone."""
    problem = rootfs.why_not()
    if problem is not None:
        leave_out(request, "rootfs", problem.fact)
    dist = clone / folder
    code, text = run(clone, "build", *PINNED, "--builder", "rootfs", "--dist", str(dist), *words)
    assert code == 0, text
    return dist / (f"{VERSION}-stock" if "stock" in words else VERSION)


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest, clone: Path) -> Path:
    return build(request, clone, "dist")


@pytest.fixture(scope="session")
def stock(request: pytest.FixtureRequest, clone: Path) -> Path:
    """The control: the same without any patch of the project's."""
    return build(request, clone, "dist", "--variant", "stock")


@pytest.fixture(scope="session")
def kubelets(
    request: pytest.FixtureRequest, clone: Path, built: Path, stock: Path
) -> dict[str, Path]:
    """The kubelet, the stock one, and both as if of another age (tests/data/old-hash)."""
    aged = ("--patches", str(clone / "tests/data/old-hash"))
    folders = {
        "new": built,
        "new-stock": stock,
        "old": build(request, clone, "dist-old", *aged),
        "old-stock": build(request, clone, "dist-old", *aged, "--variant", "stock"),
    }
    return {name: folder / "kubelet" for name, folder in folders.items()}


class Sums(NamedTuple):
    """What Swap.hashes gives of a node that is wholly old, or new."""

    old: tuple[str, ...]
    new: tuple[str, ...]


@pytest.fixture(scope="session")
def sums(built: Path, stock: Path) -> Sums:
    old, new = sha256_of(stock / "kubelet"), sha256_of(built / "kubelet")
    return Sums((old, old, sha256_of(stock / "runc")), (new, new, sha256_of(built / "runc")))


@pytest.fixture(scope="module")
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node for the tests of one module."""
    problem = container.why_not()
    if problem is not None:
        leave_out(request, "container", problem.fact)
    with closing(Node(debian.image(request, "nokmem/test-node", PACKAGES))) as node:
        yield node


@pytest.fixture(scope="module")
def struck(node: Node, built: Path, stock: Path) -> Struck:
    """The node, in a run of which anything may happen."""
    kubelets = {"new": built / "kubelet", "old": stock / "kubelet"}
    return Struck(node, kubelets, built, stock / "runc")


@pytest.fixture(scope="session")
def servers(
    rootfs_builder: rootfs.Rootfs,
    stock_plan: BuildPlan,
    provider: Debian,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Path]:
    """What a kubelet needs of a control plane, from the tree that the kubelet is from."""
    names = ("kube-apiserver", "kube-controller-manager")
    folder, scratch = tmp_path_factory.mktemp("servers"), tmp_path_factory.mktemp("source")
    (kubelet,) = (c for c in stock_plan.components if c.name == "kubelet")
    outputs = [str(PurePosixPath(kubelet.output).with_name(name)) for name in names]
    server = dataclasses.replace(
        kubelet, name=names[0], command=("make", *names), output=outputs[0]
    )
    with rootfs_builder.start(stock_plan.toolchain.key, Limits()) as session:
        tree = provider.tree(server, scratch)
        compile_component(server, tree, {}, session, folder, lambda _: None, lambda _: None)
        session.get(outputs[1], folder / names[1])
    return [folder / name for name in names]
