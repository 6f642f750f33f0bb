"""What preflight refuses, each by its name, on a real node that is really like that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from rollout.script import script
from tests.e2e.faults import QUICK, SMALL, UNIT, Struck
from tests.e2e.lab import KUBECONFIG, NETWORK
from tests.e2e.swap import DIST, KUBELET, SCRIPT
from tests.node import until
from tests.rollout import MANIFEST, Done, manifest

CERTIFICATE = "/opt/cert.pem"
OTHER = "/opt/other/nokmem-rollout"


@pytest.fixture(scope="module")
def staged(struck: Struck) -> Struck:
    struck.reset("old")
    assert struck.script("stage").code == 0
    return struck


@pytest.fixture
def small(staged: Struck) -> Iterator[Struck]:
    with staged.small():
        yield staged


def refuses(lab: Struck, name: str, words: str, *more: str, path: str = SCRIPT) -> Done:
    """Preflight says why, and apply leaves everything as it is."""
    before = lab.running()
    for command in ("preflight", "apply"):
        done = lab.script(command, *QUICK, *more, path=path)
        assert done.code == 20, done
        assert name in done.said["summary"].partition(":")[0].split(", "), done.said["summary"]
        assert words in done.finding(name), done.finding(name)
    assert lab.running() == before
    lab.node.run("cmp", KUBELET, "/opt/old/kubelet")
    return done


def test_nothing_is_wrong(staged: Struck) -> None:
    done = staged.script("preflight")
    assert (
        done.code == 0 and "would replace /usr/bin/kubelet, /usr/sbin/runc" in done.said["summary"]
    )
    assert not [row for row in done.said["findings"] if row["status"] == "refuse"]


def test_who_is_not_root(staged: Struck) -> None:
    staged.node.run("chmod", "0755", "/opt", DIST)
    said = staged.node.run(
        "busybox", "su", "-s", "/bin/sh", "nobody", "-c", f"bash {SCRIPT} preflight 2>&1; echo $?"
    )
    assert said.splitlines()[-2:] == ["refused: this must run as root", "20"]


# ---- kubelet


@pytest.mark.parametrize(
    ("before", "starts", "after", "words"),
    [
        ("cp /usr/bin/kubelet /opt/hyperkube", "/opt/hyperkube $KUBELET_ARGS", ":",
         "kubelet is a hyperkube (/opt/hyperkube)"),
        (":", "/usr/bin/docker run --rm kubelet", ":",
         "starts kubelet in a container (/usr/bin/docker)"),
        (r"""printf '#!/bin/sh\n/usr/bin/kubelet "$@"\n' >/opt/start; chmod +x /opt/start""",
         "/opt/start $KUBELET_ARGS", ":", "what kubelet.service runs is no kubelet"),
        (":", "/usr/bin/kubelet $KUBELET_ARGS", "systemctl stop kubelet",
         "kubelet.service does not run"),
        ("cp /usr/bin/kubelet /opt/kubelet", "/opt/kubelet $KUBELET_ARGS", "rm /opt/kubelet",
         "the running kubelet's file is gone: /opt/kubelet"),
    ],
)  # fmt: skip
def test_a_kubelet_that_is_not_replaced(
    before: str, starts: str, after: str, words: str, staged: Struck
) -> None:
    staged.node.run("sh", "-c", before)
    with staged.begun("ExecStart=", f"ExecStart={starts}"):
        staged.node.run("sh", "-c", after)
        refuses(staged, "kubelet", words)


def test_a_unit_that_is_not_there(staged: Struck) -> None:
    refuses(staged, "kubelet", "there is no k3s.service", "--unit", "k3s")


# ---- what the script brings


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"node": {"machine": "aarch64", "glibc": "2.17"}}, "machine", "are for aarch64"),
        ({"node": {"machine": "x86_64", "glibc": "2.99"}}, "glibc", "is older than 2.99"),
        ({"kubernetes": "v1.21.0"}, "version", "v1.20.2 would become v1.21.0: this is an upgrade"),
        ({"kubernetes": "v1.19.16"}, "version", "v1.20.2 would become the older v1.19.16"),
        ({}, "staged", "kubelet, runc: not staged"),
    ],
)
def test_a_build_that_is_not_for_this_node(
    changes: dict[str, object], name: str, words: str, staged: Struck
) -> None:
    staged.node.put(script(manifest(**changes)).encode(), OTHER)
    done = staged.script("preflight", path=OTHER)
    assert done.code == 20 and words in done.finding(name), done


def test_flags_that_the_new_kubelet_does_not_take(staged: Struck) -> None:
    """It is really asked: here a program that takes no flag of a kubelet."""
    rows = [dict(row) for row in MANIFEST.data["binaries"]]
    busybox = staged.node.run("sha256sum", "/bin/busybox").split()[0]
    size = staged.node.run("stat", "-c", "%s", "/bin/busybox")
    for row in rows:
        row.update(sha256=busybox, size=int(size))
        staged.node.run("mkdir", "-p", "/opt/other")
        staged.node.run("cp", "/bin/busybox", f"/opt/other/{row['name']}")
    staged.node.put(script(manifest(binaries=rows)).encode(), OTHER)
    try:
        assert staged.script("stage", path=OTHER).code == 0
        done = staged.script("preflight", path=OTHER)
        assert done.code == 20 and "applet not found" in done.finding("flags")
        assert "does not understand containers that run" in done.finding("mix")
    finally:
        assert staged.script("stage").code == 0


# ---- disks and files


def test_no_room(small: Struck) -> None:
    small.node.run("sh", "-c", f"head -c 200M /dev/zero >{SMALL}/filler")
    refuses(small, "space", f"{SMALL} has")


def test_read_only(small: Struck) -> None:
    small.node.run("mount", "-o", "remount,ro", SMALL)
    refuses(small, "writable", f"{SMALL} cannot be written")


@pytest.mark.parametrize("attribute", ["i", "a"])
def test_immutable(attribute: str, small: Struck) -> None:
    small.node.run("chattr", f"+{attribute}", f"{SMALL}/kubelet")
    refuses(small, "immutable", f"{SMALL}/kubelet has the attribute immutable or append-only")
    small.node.run("chattr", f"-{attribute}", f"{SMALL}/kubelet")


# ---- what a restart would need


def test_no_network_for_pods(staged: Struck) -> None:
    staged.node.run("mv", NETWORK, "/opt/network")
    try:
        refuses(staged, "cni", "there is no network configuration")
    finally:
        staged.node.run("mv", "/opt/network", NETWORK)


@pytest.fixture
def known(staged: Struck) -> Iterator[Struck]:
    """A kubelet that shows an API server a certificate, and asks in vain."""
    config = staged.node.read(KUBECONFIG).replace(
        "token: node", f"client-certificate: {CERTIFICATE}\n      client-key: /opt/key.pem"
    )
    staged.node.put(config.encode(), "/opt/kubeconfig")
    certify(staged, days=2)
    staged.stop()
    staged.start("old", "", "--kubeconfig=/opt/kubeconfig")
    until(lambda: staged.get("healthz") == "ok", "kubelet runs")
    yield staged
    staged.stop()
    staged.start("old")


def certify(lab: Struck, days: int) -> None:
    """Give the kubelet a certificate that ends in so many days."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    form = PrivateFormat.TraditionalOpenSSL
    lab.node.put(key.private_bytes(Encoding.PEM, form, NoEncryption()), "/opt/key.pem")
    lab.node.put(cert.public_bytes(Encoding.PEM), CERTIFICATE)


def test_the_certificate_that_a_restart_would_load(known: Struck) -> None:
    """The kubelet that runs has long read it, and goes on."""
    assert known.script("preflight").finding("certificate").startswith("ok valid until")
    certify(known, days=-1)
    refuses(known, "certificate", "the certificate that a restart would load has expired")
    known.node.run("truncate", "-s", "100", CERTIFICATE)
    refuses(known, "certificate", "cannot be read")
    known.node.run("rm", "/opt/kubeconfig")
    refuses(known, "certificate", "cannot come back after any restart")


def test_what_changed_since_kubelet_began(staged: Struck) -> None:
    """And was not tried by it; what came with the packages is known."""
    flags, ours = "/etc/default/kubelet", f"{UNIT.rpartition('/')[0]}/10-nokmem-adoption.conf"
    staged.node.run("touch", "-d", "+1 hour", flags)
    refuses(staged, "config", f"not tried by it: {flags}")
    staged.node.run("touch", "-d", "@0", flags)
    for path, code in ((ours, 0), (UNIT, 20)):
        staged.node.put(b"[Service]\nNice=0\n", path)
        try:
            assert staged.script("preflight").code == code, path
        finally:
            staged.node.run("rm", path)


# ---- the engine and its runc


def test_a_container_that_the_new_runc_does_not_understand(staged: Struck) -> None:
    """By the state of one that no runc of any age wrote."""
    make = "mkdir -p /run/runc/of-another-age && echo [] >/run/runc/of-another-age/state.json"
    staged.node.run("sh", "-c", make)
    try:
        refuses(staged, "mix", "does not understand containers that run: of-another-")
    finally:
        staged.node.run("rm", "-r", "/run/runc/of-another-age")


def test_an_engine_with_selinux(staged: Struck) -> None:
    """This kernel has none: a docker that stands before the real one says so."""
    text = b'#!/bin/sh\ncase "$*" in *SecurityOptions*) echo "[name=selinux]" ;; *) exec /usr/bin/docker "$@" ;; esac\n'
    staged.node.put(text, "/opt/selinux/docker", 0o755)
    path = "/opt/selinux:/usr/sbin:/usr/bin:/sbin:/bin"
    done = staged.script("preflight", PATH=path)
    assert done.code == 20 and "without the selinux tag" in done.finding("selinux")
    assert staged.script("preflight", "--only", "kubelet", PATH=path).code == 0


def test_engine_and_kubelet_have_another_driver(staged: Struck) -> None:
    """An engine that was set anew under a kubelet that runs: a restart would end every pod."""
    settings = "/etc/docker/daemon.json"
    before = staged.node.read(settings)
    other = {**json.loads(before), "exec-opts": ["native.cgroupdriver=systemd"]}
    staged.node.put(json.dumps(other).encode(), settings)
    try:
        staged.node.run("systemctl", "restart", "docker")
        done = staged.script("preflight")
        assert done.code == 20 and "that of docker systemd" in done.finding("driver"), done
    finally:
        staged.node.put(before.encode(), settings)
        staged.node.run("systemctl", "restart", "docker")
        staged.settle()
