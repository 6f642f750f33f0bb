"""The RPMs beside what EL7 nodes have: made twice, signed, served, installed, updated, removed.

rpm, dnf and their database are real, in a container; the engine's and Kubernetes' own packages are
stand-ins with the relations and the files of the real ones.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from builders.tools import container, process
from tests import debian, falsified
from tests.conftest import DATA, ROOT, VERSION, leave_out
from tests.e2e.conftest import run
from tests.integration.test_el7 import Quiet, make_key, serving

SCRIPT = "nokmem-rollout-1.20.2-1.el7.noarch"
KUBELET, RUNC = "kubelet-nokmem-1.20.2-1.el7.x86_64", "runc-nokmem-1.0.0~rc93-1.v1.20.2.el7.x86_64"
PAYLOAD = "/usr/libexec/nokmem"
STATE = "/var/lib/nokmem"
DROP_INS = "/usr/lib/systemd/system/kubelet.service.d"
RUNC_RELATIONS = "Provides: runc\nObsoletes: runc\nConflicts: runc"
#: name, version, release, files, relations
STAND_INS = (
    ("containerd.io", "1.2.6", "3.3.el7", "/usr/bin/runc", RUNC_RELATIONS),
    ("containerd.io", "1.2.13", "3.1.el7", "/usr/bin/runc", RUNC_RELATIONS),
    ("docker-ce", "18.09.9", "3.el7", "/usr/bin/dockerd", "Requires: containerd.io >= 1.2.2-3"),
    ("docker-ce", "19.03.15", "3.el7", "/usr/bin/dockerd", "Requires: containerd.io >= 1.2.2-3"),
    ("docker", "1.13.1", "209.el7", "/usr/libexec/docker/docker-runc-current", ""),
    ("kubelet", "1.20.2", "0", "/usr/bin/kubelet", ""),
    ("kubelet", "1.20.15", "0", "/usr/bin/kubelet", ""),
    ("kubeadm", "1.20.2", "0", f"{DROP_INS}/10-kubeadm.conf", "Requires: kubelet >= 1.13.0"),
    ("iptables", "1.4.21", "35.el7", "", ""),
    ("bash", "4.2.46", "34.el7", "", "Provides: /bin/sh"),
    *((name, "1", "1", "", "") for name in
      ("conntrack-tools", "coreutils", "ebtables", "ethtool", "findutils", "gawk", "grep",
       "iproute", "sed", "socat", "util-linux")),
    ("systemd", "219", "78.el7", "", ""),
)  # fmt: skip
NEEDED = ("conntrack-tools", "ebtables", "ethtool", "iproute", "iptables", "socat", "util-linux")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("gnupg") / "home"
    make_key(home, "site")
    return home


def package(clone: Path, dist: Path, *words: str, **environment: str) -> None:
    code, text = run(clone, "package", "--dist", str(dist), *words, **environment)
    assert code == 0, text


@pytest.fixture(scope="module")
def packaged(
    clone: Path, built: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    dist = tmp_path_factory.mktemp("packaged") / VERSION
    shutil.copytree(built, dist)
    package(clone, dist, "--sign", "site", GNUPGHOME=str(keys))
    return dist


def index(clone: Path, dist: Path, folder: Path, keys: Path | None, url: str = "") -> str:
    sign = ("--sign", "site") if keys else ()
    code, text = run(
        *(clone, "repo", "--dist", str(dist), "--folder", str(folder), "--url", url, *sign),
        GNUPGHOME=str(keys or folder),
    )
    assert code == 0, text
    return text


def hashes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_packages_and_index_are_the_same_elsewhere_at_another_time(
    clone: Path, built: Path, tmp_path: Path
) -> None:
    made = []
    for number, (builder, ahead) in enumerate((("container", "+0"), ("rootfs", "+400d"))):
        dist = tmp_path / f"{number}" / f"{'x' * number * 40}" / VERSION
        shutil.copytree(built, dist)
        faked = ("faketime", "-f", ahead)
        with_name = ("unshare", "--uts", "sh", "-c", f'hostname host{number} && exec "$0" "$@"')
        argv = (*with_name, *faked, str(clone / "run"))
        for words in (
            ("package", "--dist", str(dist), "--builder", builder),
            ("repo", "--dist", str(dist), "--folder", str(tmp_path / f"repo{number}"),
             "--url", "https://yum.example/nokmem"),
        ):  # fmt: skip
            done, text = process.capture([*argv, *words], environment=os.environ, timeout=300)
            assert done.ok, text
        made.append({**hashes(dist), **hashes(tmp_path / f"repo{number}")})
    assert made[0] == made[1]
    assert sum(name.endswith(".rpm") for name in made[0]) == 6


def test_a_signed_folder_is_reproduced_and_a_falsified_one_is_not(
    clone: Path, packaged: Path, tmp_path: Path
) -> None:
    code, text = run(clone, "reproduce", "--dist", str(packaged), "--builder", "rootfs")
    assert code == 0, text
    assert text.count("\nsame ") == 10 and "all 10 files are the same again" in text
    # a package that somebody made of other things, and wrote into all papers
    dist = tmp_path / VERSION
    shutil.copytree(packaged, dist)
    (path,) = dist.glob("runc*.rpm")
    old, content = hashlib.sha256(path.read_bytes()).hexdigest(), bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    falsified.fit(dist)
    code, text = run(clone, "verify", "--dist", str(dist))
    assert code == 9 and "FAIL  packages.provenance.json" in text, text
    paper, new = dist / "packages.provenance.json", hashlib.sha256(content).hexdigest()
    paper.write_text(paper.read_text().replace(old, new))
    falsified.fit(dist)
    code, text = run(clone, "reproduce", "--dist", str(dist), "--builder", "rootfs")
    assert code == 9 and "\nDIFFERS" in text, text
    assert f"{path.name}: not the same again" in text


class Machine:
    """A container with rpm and dnf, whose database knows no package yet."""

    def __init__(self, room: Container) -> None:
        self._room = room

    def run(self, *argv: str, check: bool = True) -> str:
        words = ("docker", "exec", str(self._room.id), *argv)
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"{argv}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def put(self, path: str, content: bytes) -> None:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        assert self._room.put_archive("/", stream.getvalue())

    def rpm(self, verb: str, *packages: str) -> str:
        return self.run("rpm", *verb.split(), *(f"/stand-ins/{name}.rpm" for name in packages))

    def dnf(self, *words: str, check: bool = True) -> str:
        return self.run("dnf", "--assumeyes", "--disablerepo=*", "--enablerepo=nokmem",
                        "--setopt=keepcache=0", *words, check=check)  # fmt: skip


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    problem = container.why_not()
    if problem is not None:
        leave_out(request, "container", problem.fact)
    image = debian.image(request, "nokmem/test-rpm", ("dnf", "rpm"))
    with closing(docker.from_env(timeout=600)) as engine:
        room = engine.containers.run(
            image, ["sleep", "infinity"], init=True, network_mode="host", detach=True,
            labels={"io.nokmem.test": "rpm"},
        )  # fmt: skip
        try:
            one = Machine(room)
            one.put("/etc/rpm/macros", b"%_dbpath /var/lib/rpm\n")
            one.put("/stand-in.spec", (DATA / "stand-ins/stand-in.spec").read_bytes())
            for name, version, release, files, relations in STAND_INS:
                definitions = {
                    "n": name, "v": version, "r": release, "_topdir": "/build",
                    "_rpmdir": "/stand-ins", "_rpmfilename": "%%{NAME}-%%{VERSION}.rpm",
                    **({"paths": files} if files else {}),
                    **({"relations": relations} if relations else {}),
                }  # fmt: skip
                words = [w for k, v in definitions.items() for w in ("--define", f"{k} {v}")]
                one.run("rpmbuild", "-bb", "--quiet", "--target=x86_64", *words, "/stand-in.spec")
            one.rpm("-i", "bash-4.2.46")
            yield one
        finally:
            room.remove(force=True, v=True)


@pytest.fixture
def node(machine: Machine) -> Machine:
    """With docker-ce, kubelet and kubeadm, and with what kubelet's own package needs."""
    machine.rpm("-i", "containerd.io-1.2.6", "docker-ce-18.09.9", "kubelet-1.20.2",
                "kubeadm-1.20.2", "iptables-1.4.21", *(f"{n}-1" for n in NEEDED if n != "iptables"))  # fmt: skip
    return machine


@pytest.fixture
def served(clone: Path, packaged: Path, keys: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    with serving(partial(Quiet, directory=str(tmp_path / "repo"))) as host:
        index(clone, packaged, tmp_path / "repo", keys, f"http://{host}")
        yield f"http://{host}", tmp_path / "repo"


def add_repository(node: Machine, folder: Path) -> None:
    node.put("/etc/yum.repos.d/nokmem.repo", (folder / "nokmem.repo").read_bytes())


def swap(node: Machine) -> None:
    """As the node script does it: a copy is renamed into place, and its hash noted."""
    for source, place in ((f"{PAYLOAD}/1.20.2/kubelet", "/usr/bin/kubelet"),
                          (f"{PAYLOAD}/1.0.0~rc93/runc", "/usr/bin/runc")):  # fmt: skip
        node.run("sh", "-c", f"cp {source} {place}.new && mv {place}.new {place}")
        node.run("sh", "-c", f"sha256sum {place} >>{STATE}/swapped")


def test_beside_an_engine_and_kubernetes(node: Machine, served: tuple[str, Path]) -> None:
    add_repository(node, served[1])
    before = node.run("sh", "-c", f"cat /usr/bin/runc /usr/bin/kubelet {DROP_INS}/10-kubeadm.conf")
    node.dnf("install", "kubelet-nokmem", "runc-nokmem")
    assert set(node.run("rpm", "-qa", "*-nokmem").split()) == {KUBELET, RUNC}
    after = node.run("sh", "-c", f"cat /usr/bin/runc /usr/bin/kubelet {DROP_INS}/10-kubeadm.conf")
    assert after == before, "an installation swaps nothing"
    assert (
        node.run("rpm", "-q", "--whatprovides", "runc").strip()
        == "containerd.io-1.2.6-3.3.el7.x86_64"
    )
    places = [f"{PAYLOAD}/1.20.2/kubelet", f"{PAYLOAD}/1.0.0~rc93/runc",
              f"{DROP_INS}/10-nokmem-adoption.conf", STATE]  # fmt: skip
    modes = node.run("stat", "-c", "%a %U:%G %n", *places).splitlines()
    assert modes == [f"{mode} root:root {place}"
                     for mode, place in zip(("755", "755", "644", "755"), places, strict=True)]  # fmt: skip
    assert not node.run("rpm", "-V", "kubelet-nokmem", "runc-nokmem", "kubelet", "kubeadm",
                        "containerd.io")  # fmt: skip
    assert (
        "nokmem"
        not in node.run("rpm", "-q", "--whatrequires", "kubelet-nokmem", check=False).split()[0]
    )

    swap(node)
    node.rpm("-U", "containerd.io-1.2.13", "docker-ce-19.03.15")
    drift = node.run("cat", f"{STATE}/drift")
    assert drift.split()[1::2] and set(drift.split()[1::2]) == {"/usr/bin/runc"}
    node.rpm("-U", "kubelet-1.20.15")
    assert "/usr/bin/kubelet" in node.run("cat", f"{STATE}/drift")
    # what cannot be written down must not end the update of an engine
    node.run("sh", "-c", f"rm {STATE}/drift && mkdir {STATE}/drift")
    node.rpm("-U --force", "containerd.io-1.2.13")

    node.dnf("remove", "kubelet-nokmem", "runc-nokmem")
    left = node.run("sh", "-c", f"find {PAYLOAD} {STATE} {DROP_INS}", check=False)
    assert "kubelet.plan.json" not in left and f"{PAYLOAD}/1" not in left
    assert f"{DROP_INS}/10-kubeadm.conf" in left and "nokmem-adoption" not in left
    assert f"{STATE}/swapped" in left, "what the node script knows stays"
    assert "No such file" not in node.run("cat", "/usr/bin/kubelet", "/usr/bin/runc")


def test_rpmlint_has_nothing_to_say_that_is_not_argued(
    request: pytest.FixtureRequest, packaged: Path
) -> None:
    rpmlint = process.find("rpmlint")
    if rpmlint is None:
        leave_out(request, "rpmlint", "not installed")
    packages = [str(path) for path in sorted(packaged.glob("*.rpm"))]
    config = ROOT / "builders/templates/rpmlint.toml"
    _, text = process.capture([str(rpmlint), "--config", str(config), *packages], timeout=120)
    assert "3 packages" in text and " E: " not in text and " W: " not in text, text
    _, text = process.capture([str(rpmlint), *packages], timeout=120)
    assert "statically-linked-binary" in text, "it looks"


def test_the_script_and_its_binaries_by_packages(node: Machine, served: tuple[str, Path]) -> None:
    add_repository(node, served[1])
    node.rpm("-i", *(f"{n}-1" for n in ("coreutils", "findutils", "gawk", "grep", "sed")))
    node.rpm("-i", "systemd-219")
    node.dnf("install", "nokmem-rollout", "kubelet-nokmem", "runc-nokmem")
    assert node.run("rpm", "-q", "nokmem-rollout").strip() == SCRIPT
    said = node.run("nokmem-rollout", "stage")
    assert "holds kubelet and runc of v1.20.2+nokmem.1" in said
    assert node.run("sh", "-c", f"cmp {PAYLOAD}/1.20.2/kubelet {STATE}/staged/*/kubelet") == ""
    node.dnf("remove", "nokmem-rollout")
    assert "nokmem-rollout" not in node.run("ls", "/usr/sbin")


def test_beside_the_docker_of_centos(machine: Machine, served: tuple[str, Path]) -> None:
    add_repository(machine, served[1])
    machine.rpm("-i", "docker-1.13.1")
    machine.dnf("install", "runc-nokmem")
    machine.run("sh", "-c", f"cd {STATE} && echo {'0' * 64}  {STAND_INS[4][3]} >swapped")
    machine.rpm("-U --force", "docker-1.13.1")
    assert STAND_INS[4][3] in machine.run("cat", f"{STATE}/drift")


def test_another_release_and_back(
    node: Machine, clone: Path, packaged: Path, keys: Path, served: tuple[str, Path], tmp_path: Path
) -> None:
    _, folder = served
    add_repository(node, folder)
    node.dnf("install", "kubelet-nokmem")
    second = tmp_path / VERSION
    shutil.copytree(packaged, second)
    package(clone, second, "--release", "2", "--sign", "site", GNUPGHOME=str(keys))
    text = index(clone, second, folder, keys, served[0])
    assert "6 packages, 3 of them new; signed" in text
    node.dnf("--refresh", "upgrade", "kubelet-nokmem")
    assert "kubelet-nokmem-1.20.2-2.el7" in node.run("rpm", "-q", "kubelet-nokmem")
    node.dnf("downgrade", "kubelet-nokmem")
    assert node.run("rpm", "-q", "kubelet-nokmem").strip() == KUBELET


@pytest.mark.parametrize("harm", ["package", "index", "unsigned"])
def test_what_is_not_as_it_was_signed_is_not_installed(
    node: Machine, clone: Path, built: Path, served: tuple[str, Path], harm: str, tmp_path: Path
) -> None:
    url, folder = served
    (path,) = (folder / "packages").glob("kubelet*")
    if harm == "package":
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)
    elif harm == "index":
        about = folder / "repodata/repomd.xml"
        about.write_text(about.read_text().replace("sha256", "sha512", 1))
    else:  # another one, not signed, in an index that is not signed either
        dist = tmp_path / VERSION
        shutil.copytree(built, dist)
        package(clone, dist)
        mark = (folder / "nokmem.repo").read_bytes()
        shutil.rmtree(folder)
        index(clone, dist, folder, None, url)
        assert b"gpgcheck=0" in (folder / "nokmem.repo").read_bytes()
        (folder / "nokmem.repo").write_bytes(mark)
    add_repository(node, folder)
    text = node.dnf("install", "kubelet-nokmem", check=False)
    assert "Complete!" not in text
    assert "not installed" in node.run("rpm", "-q", "kubelet-nokmem", check=False)


def test_versions_sort_as_upstream_made_them(machine: Machine) -> None:
    """rpm's own comparison of the table in the documents."""
    rising = (
        *("1.0.0~rc6", "1.0.0~rc9", "1.0.0~rc10", "1.0.0~rc93", "1.0.0", "1.0.3", "1.1.12"),
        *("1.9.11", "1.10.0", "1.20.2", "1.20.15", "1.21.0"),
    )
    pairs = list(itertools.pairwise(rising))
    for low, high in pairs:
        said = machine.run("rpm", "--eval", f'%{{lua: print(rpm.vercmp("{low}", "{high}"))}}')
        assert said.strip() == "-1", (low, high)
    releases = ("1.v1.20.2.el7", "1.v1.20.15.el7", "2.el7", "10.el7")
    for low, high in itertools.pairwise(releases):
        said = machine.run("rpm", "--eval", f'%{{lua: print(rpm.vercmp("{low}", "{high}"))}}')
        assert said.strip() == "-1", (low, high)
