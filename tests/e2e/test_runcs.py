"""Runc by runc: one starts containers, another is renamed into its place and manages them, and back.

By itself this takes those that this level builds, the node's own and bullseye's. NOKMEM_RUNCS names
others, of releases that this machine need not be able to build: a folder with RELEASE/runc, and
RELEASE-stock/runc where containers are to be started by another build of it. All pairs are tried, and
the table is left in that folder as matrix.md; what was tried earlier, in matrix.json, stays in it:

    NOKMEM_RUNCS=runcs ./run test --level e2e --select "test_runcs and test_mix and alone"
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from builders.tools import apt, archives
from builders.tools.cache import Cache
from builders.tools.download import Downloader
from tests.conftest import DATA
from tests.node import Node, until

FOLDER = os.environ.get("NOKMEM_RUNCS", "")
MIX = "/opt/mix.sh"
DAEMON = "/etc/docker/daemon.json"
#: A runc's file, with the bytes of one that ends at once.
BROKEN = b"#!/bin/sh\nexit 1\n"
#: Keeps the start of a container's process as text, as runc did up to rc3.
AGED = b"""#!/bin/sh
/opt/runcs/engine/runc "$@" || exit
case " $* " in *" run "*)
    sed -i 's/"init_process_start":\\([0-9][0-9]*\\)/"init_process_start":"\\1"/' /run/mix/root/*/state.json ;;
esac
"""
OK = "ok\n"
Pair = tuple[str, str]


class Way(NamedTuple):
    """Who calls runc, and how it makes cgroups."""

    caller: str
    driver: str


WAYS = [Way(caller, driver) for driver in ("cgroupfs", "systemd") for caller in ("alone", "shim")]


class Runcs:
    """A node with several runcs, one of which is in /usr/sbin at a time."""

    def __init__(self, node: Node, files: dict[str, Path]) -> None:
        self.node = node
        self.pairs = pairs(set(files))
        self._driver = "cgroupfs"
        node.put(DATA / "mix.sh", MIX, 0o755)
        node.run("make-images")
        rootfs = "mkdir /opt/rootfs; docker export $(docker create app:1) | tar -xC /opt/rootfs"
        node.run("sh", "-c", f"{rootfs}; docker ps -aq | xargs docker rm")
        node.run("mkdir", "-p", "/opt/runcs/engine")
        node.run("cp", "/usr/sbin/runc", "/opt/runcs/engine/runc")
        for name, file in files.items():
            self.put(name, file)

    def put(self, name: str, file: Path | bytes) -> None:
        self.node.put(file, f"/opt/runcs/{name}/runc", 0o755)

    def drive(self, way: Way) -> None:
        """Let the engine make cgroups that way."""
        if way.caller == "shim" and way.driver != self._driver:
            settings = json.loads(self.node.read(DAEMON))
            settings["exec-opts"] = [f"native.cgroupdriver={way.driver}"]
            self.node.put(json.dumps(settings).encode(), DAEMON)
            self.node.run("systemctl", "restart", "docker")
            self._driver = way.driver
        asked = ("docker", "info", "--format", "{{.CgroupDriver}}")
        until(lambda: self.node.run(*asked, check=False).strip() == self._driver, "its driver")

    def mix(self, way: Way, *words: str) -> str:
        """What mix.sh says, in a minute and some time to clean up."""
        patience = ("timeout", "--kill-after=30", "60")
        return self.node.run(*patience, MIX, *way, *words, check=False)


@pytest.fixture(scope="module")
def runcs(request: pytest.FixtureRequest, node: Node) -> Runcs:
    if FOLDER:
        files = {file.parent.name: file for file in Path(FOLDER).glob("*/runc")}
    else:
        files = {name: request.getfixturevalue(name) / "runc" for name in ("built", "stock")}
        files["bullseye"] = request.getfixturevalue("bullseye")
    return Runcs(node, files)


@pytest.fixture(scope="session")
def bullseye(
    request: pytest.FixtureRequest, cache: Cache, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The runc of another Debian, out of its package."""
    request.getfixturevalue("provider")  # says so where there is no mirror
    with Downloader(apt.proxies(os.environ)) as downloader:
        mirrors, keyring = apt.mirrors(os.environ), apt.keyring(os.environ)
        archive = apt.Archive(downloader, mirrors, keyring)
        found = apt.find(archive.index("bullseye", "main/binary-amd64/Packages"), "runc")
        assert found is not None
        places = archive.urls("bullseye", found["Filename"])
        archives.obtain(cache, found["SHA256"], places, downloader, lambda *_: None, print)
    file = tmp_path_factory.mktemp("bullseye") / "runc"
    with apt.deb_data(cache.file(found["SHA256"])) as tar:
        member = tar.extractfile("./usr/sbin/runc")
        assert member is not None
        file.write_bytes(member.read())
    return file


def age(release: str) -> tuple[list[int], float]:
    """Sorts releases: a candidate comes before what it was one for."""
    numbers, _, candidate = release.partition("-rc")
    return [int(number) for number in numbers.split(".")], float(candidate or "inf")


def pairs(names: set[str]) -> list[Pair]:
    """Who starts, and who is renamed into its place; of each that starts, first itself."""
    if not FOLDER:
        others = ("engine", "bullseye", "stock")
        return [pair for other in others for pair in ((other, "built"), ("built", other))]
    releases = sorted((name for name in names if not name.endswith("-stock")), key=age)
    starting = {name: f"{name}-stock" if f"{name}-stock" in names else name for name in releases}
    return [
        (starting[first], second)
        for first in releases
        for second in sorted(releases, key=lambda second: second != first)
    ]


def is_itself(pair: Pair) -> bool:
    first, second = pair
    return first.removesuffix("-stock") == second


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_mix(runcs: Runcs, way: Way) -> None:
    """State, exec, pause, resume, kill and delete of what another started, and back in the middle.

    What a release cannot do here with containers of its own tells nothing of a mix.
    """
    runcs.drive(way)
    said: dict[Pair, str] = {}
    unable = set()
    for pair in runcs.pairs:
        if pair[0] not in unable:
            said[pair] = runcs.mix(way, *pair)
            if is_itself(pair) and said[pair] != OK:
                unable.add(pair[0])
            if FOLDER:
                keep(Path(FOLDER), way, said)
    failed = {pair: text for pair, text in said.items() if text != OK}
    assert {pair: text for pair, text in failed.items() if not is_itself(pair)} == {}
    assert OK in said.values()


def keep(folder: Path, way: Way, said: dict[Pair, str]) -> None:
    """What was said of each pair, beside what earlier runs left; and the table of it all."""
    file = folder / "matrix.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    results[" ".join(way)] = {" ".join(pair): text for pair, text in said.items()}
    file.write_text(json.dumps(results, indent=1))
    (folder / "matrix.md").write_text(table(results))


def table(results: dict[str, dict[str, str]]) -> str:
    """A line for each runc that started containers: how many managed them, and which did not."""
    rows = [["started by", *(f"{caller}, {driver}" for caller, driver in WAYS)], ["---"] * 5]
    for first in dict.fromkeys(pair.split()[0] for said in results.values() for pair in said):
        row = [first]
        for way in WAYS:
            said = results.get(" ".join(way), {})
            own = {pair: text for pair, text in said.items() if pair.startswith(f"{first} ")}
            failed = [" ".join(text.split("\n")[0].split()) for text in own.values() if text != OK]
            count = f"{len(own) - len(failed)} of {len(own)}" if own else "not run"
            row.append("; ".join((count, *failed)))
        rows.append(row)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


@pytest.mark.parametrize(("way", "count"), [(WAYS[0], 30), (WAYS[3], 8)], ids=["alone", "shim"])
def test_no_start_fails_while_runc_is_renamed(runcs: Runcs, way: Way, count: int) -> None:
    runcs.drive(way)
    said = runcs.mix(way, "--starts", str(count), "engine", runcs.pairs[-1][0])
    renames = re.fullmatch(r"(\d+) renames\n", said)
    assert renames is not None, said
    assert int(renames[1]) > count


def test_a_state_of_another_age_is_no_mix(runcs: Runcs) -> None:
    """`state` is enough to see it, as the node script does."""
    runcs.put("aged", AGED)
    said = runcs.mix(WAYS[0], "aged", "engine")
    assert said.startswith("engine: say that it is running\n")
    assert "init_process_start" in said
    assert runcs.mix(WAYS[0], "engine", "engine") == OK


@pytest.mark.parametrize("way", [WAYS[0], WAYS[3]], ids=["alone", "shim"])
def test_a_broken_runc_is_no_mix(runcs: Runcs, way: Way) -> None:
    runcs.drive(way)
    runcs.put("broken", BROKEN)
    assert runcs.mix(way, "engine", "broken").startswith("broken: say that it is running\n")
    assert runcs.mix(way, "broken", "engine").startswith("broken: start\n")
    assert runcs.mix(way, "engine", "engine") == OK


def test_a_broken_runc_is_seen_among_starts(runcs: Runcs) -> None:
    runcs.put("broken", BROKEN)
    said = runcs.mix(WAYS[0], "--starts", "20", "engine", "broken")
    assert said.startswith("one of both: ")
