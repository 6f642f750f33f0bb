"""A proven build -> what its packages are called, say and need. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from builders.errors import FactsError, UsageError
from builders.model.artifact import PLAN, SCRIPT
from builders.model.reading import text

#: Of upstream's releases: v1.20.2, 1.0.3, 1.0.0-rc93.
UPSTREAM = re.compile(r"v?(\d+\.\d+\.\d+)(?:-(rc\d+))?")
#: The id of a kubelet's build: the revision of the series, and of a series of the user's own.
BUILD = re.compile(r"v[\d.]+\+nokmem\.(\d+)(?:\.([0-9a-f]{8}))?")
RELEASE = re.compile(r"[1-9][0-9]{0,5}(\.[0-9A-Za-z_]{1,32}){0,4}")
#: Below it each version has a folder; nothing else is owned but the state that triggers write.
PARENT, STATE = "/usr/libexec/nokmem", "/var/lib/nokmem"
DROP_INS, DROP_IN = "/usr/lib/systemd/system/kubelet.service.d", "10-nokmem-adoption.conf"
#: Stands in every header as the host that built it: which one it was is nobody's business.
HOST = "nokmem"
SUMMARIES = {
    "kubelet": ("Kubelet without kernel-memory accounting that restarts no container",
                "https://kubernetes.io"),
    "runc": ("Container runtime runc without kernel-memory accounting", "https://github.com/opencontainers/runc"),
    SCRIPT: ("Swaps kubelet and runc on a node, and proves it or rolls back",
             "https://kubernetes.io"),
}  # fmt: skip
SCRIPT_DESCRIPTION = (
    "Diagnoses whether a node leaks memory cgroups, replaces its kubelet and runc by those of "
    "kubelet-nokmem and runc-nokmem, proves the result or puts back what was there. It knows the "
    "hashes of the binaries of Kubernetes {kubernetes}. Installing this package changes nothing."
)
DESCRIPTION = (
    "{summary}, for nodes with Linux 3.10, which leaks the memory cgroup of every container that "
    "has this accounting. The binary stands ready below {folder}; installing this package swaps "
    "and restarts nothing. It was built beside Kubernetes {kubernetes}."
)


@dataclass(frozen=True)
class Platform:
    """What packages for a target must be like: see data/packages.toml."""

    machine: str
    dist: str
    rpmlib: frozenset[str]
    triggers: Mapping[str, tuple[str, ...]]
    requires: Mapping[str, Mapping[str, str]]


def platforms(data: Mapping[str, Any]) -> dict[str, Platform]:
    """The platforms by the name of their target, from data/packages.toml."""
    found = {}
    for name, fact in data.items():
        for evidence in ("rpmlib", "triggers"):
            text(fact, f"{evidence}_evidence")
        found[name] = Platform(
            text(fact, "machine"),
            text(fact, "dist"),
            frozenset(fact["rpmlib"]),
            {binary: tuple(names) for binary, names in fact["triggers"].items()},
            {binary: dict(fact[binary]["requires"]) for binary in SUMMARIES},
        )
    return found


@dataclass(frozen=True)
class PackagePlan:
    """One package: `values` are for the template, `sources` its files by their names, each with
    its place and mode; they come from the dist folder, or else from the templates."""

    name: str
    binary: str
    version: str
    release: str
    machine: str
    epoch: int
    sources: Mapping[str, tuple[str, str]]
    values: Mapping[str, Any]

    @property
    def file(self) -> str:
        return f"{self.name}-{self.version}-{self.release}.{self.machine}.rpm"


def rpm_version(upstream: str) -> str:
    """As rpm sorts it right: 1.0.0-rc9 -> 1.0.0~rc9, older than 1.0.0~rc10 and than 1.0.0.

    rpm knows the tilde from 4.10 on; EL7 has 4.11.
    """
    match = UPSTREAM.fullmatch(upstream)
    if match is None:
        raise FactsError(
            f"{upstream!r} is no version that a package can have",
            place="packages",
            next_step="build a release whose version is as 1.2.3 or 1.2.3-rc1",
        )
    return f"{match[1]}~{match[2]}" if match[2] else match[1]


def payload(binary: str, version: str) -> str:
    """Where the package of a binary puts it; `version` is upstream's."""
    return f"{PARENT}/{rpm_version(version)}/{binary}"


def package_plans(
    plan: Mapping[str, Any], platform: Platform, release: str = ""
) -> tuple[PackagePlan, ...]:
    """The packages of a build, from its plan.json. `release` replaces the revision of the series,
    which is what else tells two packages of one version apart."""
    if release and not RELEASE.fullmatch(release):
        raise UsageError(
            f"{release!r} is not a package's release",
            place="--release",
            next_step="write it as 1, 2 or 2.site",
        )
    kubelet = next(each for each in plan["components"] if each["name"] == "kubelet")
    script = {**kubelet, "name": SCRIPT}
    return tuple(_package(each, plan, platform, release) for each in (*plan["components"], script))


def _package(
    component: Mapping[str, Any], plan: Mapping[str, Any], platform: Platform, release: str
) -> PackagePlan:
    """One component's, or the node script's; of a kubelet the release names the revision of the
    patches, of a runc the Kubernetes that it was built beside: with another Go its bytes are
    others."""
    binary, version = component["name"], rpm_version(component["version"])
    beside = f"v{rpm_version(plan['kubernetes'])}"  # no word of a plan gets into a spec unread
    build = BUILD.fullmatch(component["build"])
    if build:
        revision = ".".join(filter(None, build.groups()))
    else:
        revision = f"1.{beside}" if binary == "runc" else "1"
    full = f"{release or revision}.{platform.dist}"
    folder = payload(binary, component["version"]).rpartition("/")[0]
    summary, url = SUMMARIES[binary]
    text = SCRIPT_DESCRIPTION if binary == SCRIPT else DESCRIPTION
    if binary == SCRIPT:
        sources, folders = {SCRIPT: (f"/usr/sbin/{SCRIPT}", "0755")}, [STATE]
    else:
        place = f"{folder}/{binary}"
        sources = {binary: (place, "0755"), PLAN: (f"{place}.plan.json", "0644")}
        folders = [PARENT, folder, STATE]
        if component["build"]:
            sources[DROP_IN] = (f"{DROP_INS}/{DROP_IN}", "0644")
            folders.append(DROP_INS)
    machine = "noarch" if binary == SCRIPT else platform.machine
    values: dict[str, Any] = {
        "machine": machine,
        "name": binary if binary == SCRIPT else f"{binary}-nokmem",
        "version": version,
        "release": full,
        "summary": summary,
        "url": url,
        "description": textwrap.fill(
            text.format(summary=summary, folder=folder, kubernetes=beside)
        ),
        # Not runc: whoever brings an engine's runc provides, obsoletes and conflicts with it.
        "provides": [f"kubelet = {version}-{full}"] if binary == "kubelet" else [],
        "requires": sorted(platform.requires[binary]),
        "triggers": platform.triggers.get(binary, ()),
        "sources": sources,
        "folders": folders,
        "state": STATE,
        "host": HOST,
        "date": datetime.fromtimestamp(plan["epoch"], timezone.utc).strftime("%a %b %d %Y"),
    }
    return PackagePlan(
        values["name"], binary, version, full, machine, plan["epoch"], sources, values
    )
