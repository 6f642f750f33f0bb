"""What every level shares: leaving out aloud, and the real builders."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from builders import pipeline
from builders.model.plan import BuildPlan, BuildRequest
from builders.model.releases import RECIPES
from builders.steps import toolchain
from builders.steps.sources import Debian
from builders.tools import apt, container, rootfs
from builders.tools.builder import Builder
from builders.tools.cache import Cache

VERSION = "v1.20.2"
#: What the distribution alone can build, with nothing left to what a machine can reach.
REQUEST = BuildRequest(VERSION, toolchain="debian", go="distribution")
DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).parents[1]
HOW = {
    "container": "start an engine, then run the tests again",
    "faketime": "apt-get install faketime",
    "gawk": "apt-get install gawk",
    "gpg": "apt-get install gpg gpg-agent",
    "root": "run as root",
    "docker-registry": "apt-get install docker-registry, or give the machine a Debian mirror",
    "rpm": "apt-get install rpm gpg gpg-agent",
    "rpmlint": "apt-get install rpmlint",
    "rootfs": "run as root, or give this user subordinate ids; `./run doctor` says which",
    "compose": "apt-get install docker-compose, or give docker its compose plugin",
    "images": "apt-get install debootstrap, then run these tests once as root; their image stays",
    "registry": "use an engine on this machine, which finds a registry that listens on it",
    "shellcheck": "apt-get install shellcheck",
    "vault": "apt-get install dnf createrepo-c rpm gpg gpg-agent, then run these tests as root",
    "network": "give the machine a Debian mirror; `./run doctor` says which",
}
#: Modules whose tests each provoke a fault, but for those that are marked as calm.
FAULTS = {
    *("test_bad_days", "test_clock", "test_fuzz", "test_publish", "test_rollout_faults"),
    *("test_servers", "test_signals", "test_sources", "test_supply"),
}
_left_out: set[str] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--everything", action="store_true", help="what cannot run is a failure")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "calm: provokes no fault, among tests that do")
    config.addinivalue_line("markers", "fault: provokes a fault")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in FAULTS and not item.get_closest_marker("calm"):
            item.add_marker("fault")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what was left out and how to have it."""
    levels = {Path(arg).name for arg in config.args}
    out = terminalreporter
    passed = [report.nodeid for report in out.stats.get("passed", []) if "fault" in report.keywords]
    if passed:
        out.section("faults")
        kinds = len({name.partition("[")[0] for name in passed})
        out.line(f"{kinds} kinds of fault provoked and survived, in {len(passed)} cases")
    if "e2e" not in levels and "tests" not in levels:
        out.section("left out")
        out.line("e2e: real kubelet builds, several minutes of two cores: ./run test --everything")
    for what in sorted(_left_out):
        out.line(f"{what}: {HOW[what]}")


def leave_out(request: pytest.FixtureRequest, what: str, why: str) -> NoReturn:
    """Skip, named in the summary; or fail where everything was asked for."""
    if request.config.getoption("--everything"):
        pytest.fail(f"{what} is needed for --everything: {why}")
    _left_out.add(what)
    pytest.skip(f"{what}: {why}")


def as_root(request: pytest.FixtureRequest) -> None:
    """Leave a test out that mounts, or gives files away, where nobody may."""
    if os.geteuid() != 0:
        leave_out(request, "root", "files must be given away, or a disk mounted")


@pytest.fixture(scope="session")
def plan() -> BuildPlan:
    return pipeline.plan(REQUEST)


@pytest.fixture(scope="session")
def stock_plan() -> BuildPlan:
    return pipeline.plan(dataclasses.replace(REQUEST, variant="stock"))


@pytest.fixture(scope="session")
def cache() -> Cache:
    """The machine's own cache: what a build here would use."""
    return Cache.default(os.environ)


@pytest.fixture(scope="session")
def provider(request: pytest.FixtureRequest, cache: Cache) -> Debian:
    if not all(apt.mirrors(os.environ).values()):
        leave_out(request, "network", "this machine knows no Debian mirror")
    return Debian(cache, os.environ, lambda _: None)


def _ready(builder: Builder, plan: BuildPlan, cache: Cache, provider: Debian) -> None:
    wanted = plan.toolchain
    toolchain.ensure(
        builder,
        wanted,
        cache,
        RECIPES,
        os.environ,
        lambda: provider.fetch_files(wanted.packages, lambda _: None),
        lambda _: None,
    )


@pytest.fixture(scope="session")
def rootfs_builder(
    request: pytest.FixtureRequest, plan: BuildPlan, cache: Cache, provider: Debian
) -> rootfs.Rootfs:
    problem = rootfs.why_not()
    if problem is not None:
        leave_out(request, "rootfs", problem.fact)
    builder = rootfs.Rootfs(cache)
    _ready(builder, plan, cache, provider)
    return builder


@pytest.fixture(scope="session")
def container_builder(
    request: pytest.FixtureRequest, plan: BuildPlan, cache: Cache, provider: Debian
) -> Iterator[container.ContainerBuilder]:
    problem = container.why_not()
    if problem is not None:
        leave_out(request, "container", problem.fact)
    builder = container.ContainerBuilder(cache)
    _ready(builder, plan, cache, provider)
    yield builder
    builder.close()


@pytest.fixture(scope="session", params=["rootfs", "container"])
def builder(request: pytest.FixtureRequest) -> Iterator[Builder]:
    """Each builder in turn."""
    yield request.getfixturevalue(f"{request.param}_builder")
