"""A node on which one kubelet replaces another, standalone, with a folder of manifests."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rollout.script import script
from tests.conftest import VERSION
from tests.e2e import zoo
from tests.node import Node, until
from tests.rollout import MANIFEST

STATE = "/var/lib/kubelet/version-cache.json"
DROP_IN = "/etc/systemd/system/kubelet.service.d"
MANIFESTS = "/etc/kubernetes/manifests"
KUBECONFIG = "/etc/kubernetes/kubeconfig"
NETWORK = "/etc/cni/net.d/10-pods.conflist"
ARGUMENTS = (
    "--container-runtime=docker",
    f"--pod-manifest-path={MANIFESTS}",
    "--pod-infra-container-image=pause:1",
    "--network-plugin=cni",
    "--cni-bin-dir=/usr/lib/cni",
    f"--hostname-override={zoo.NODE}",
    "--cgroup-driver=cgroupfs",
    "--fail-swap-on=false",
    "--oom-score-adj=0",
    "--eviction-hard=memory.available<1Mi,nodefs.available<1Mi",
    "--image-gc-high-threshold=100",
    "--read-only-port=10255",
    "--file-check-frequency=1s",
    "--sync-frequency=1s",
    "--v=3",
)
#: The kubelet's line for each time that it decides about a pod, at --v=3.
DECIDES = "computePodActions got"


class Run(NamedTuple):
    """One running container."""

    id: str
    started: str
    restarts: int


#: Pod and container; the container of a sandbox is "POD".
Key = tuple[str, str]
Running = dict[Key, Run]


class Lab:
    """The node, the kubelets, and the pods that are asked of it."""

    arguments: tuple[str, ...] = ARGUMENTS

    def __init__(self, node: Node, kubelets: dict[str, Path]) -> None:
        self.node = node
        self.pods: dict[str, zoo.Manifest] = {}
        self.build = ""
        #: What a takeover found, as long as it is to stay.
        self.baseline: Running = {}
        node.run("make-images")
        for name, path in kubelets.items():
            node.put(path, f"/opt/{name}/kubelet", 0o755)
        node.put(script(MANIFEST).encode(), "/opt/nokmem-rollout")
        node.run("systemctl", "enable", "kubelet")

    def clear(self) -> None:
        """No kubelet runs, nothing of any pod is left."""
        self.stop()
        self.node.run("sh", "-c", "docker ps -aq | xargs -r docker rm -f")
        self.node.run("rm", "-rf", MANIFESTS, STATE, f"{STATE}.damaged", DROP_IN)
        self.node.run("mkdir", "-p", MANIFESTS)
        self.node.run("systemctl", "daemon-reload")
        volumes = "grep -o '/var/lib/kubelet/pods/[^ ]*' /proc/mounts | xargs -r umount"
        self.node.run("sh", "-c", f"{volumes}; rm -r /var/lib/kubelet/pods", check=False)
        self.pods = {}

    def reset(self, build: str) -> None:
        """Nothing but the pods of the zoo, all begun by that kubelet."""
        self.clear()
        for manifest in self.wanted().values():
            self.edit(manifest)
        self.swap(build)

    def wanted(self) -> dict[str, zoo.Manifest]:
        """The pods that a reset begins with."""
        return zoo.pods()

    def edit(self, manifest: zoo.Manifest) -> None:
        name = manifest["metadata"]["name"]
        self.pods[name] = manifest
        self.node.put(self.text(name), self.path(name), 0o600)

    def text(self, name: str) -> bytes:
        return json.dumps(self.pods[name], indent=1).encode()

    @staticmethod
    def path(name: str) -> str:
        return f"{MANIFESTS}/{name}.yaml"

    def seed(self, release: str = VERSION) -> None:
        """As an operator does it once, before the first kubelet that adopts."""
        words = ("seed", "--from", release, "--manifests", MANIFESTS)
        self.node.run("bash", "/opt/nokmem-rollout", *words)
        self.node.run("systemctl", "daemon-reload")

    def state(self) -> Any:
        return json.loads(self.node.read(STATE))

    def stop(self) -> None:
        self.node.run("systemctl", "stop", "kubelet")

    def start(self, build: str, mark: str = "", *arguments: str) -> None:
        """Start a kubelet, without waiting for what it does."""
        words = " ".join((*self.arguments, *arguments))
        environment = {"KUBELET_ARGS": words, "NOKMEM_ADOPTION": mark}
        text = "".join(f"{name}={value}\n" for name, value in environment.items() if value)
        self.node.put(text.encode(), "/etc/default/kubelet")
        self.place(build)
        self.node.run("systemctl", "start", "kubelet")
        self.build = build

    def place(self, build: str) -> None:
        """Make a kubelet the one that its unit starts."""
        self.node.run("ln", "-sfn", f"/opt/{build}/kubelet", "/usr/bin/kubelet")

    def swap(self, build: str, mark: str = "") -> None:
        """Another kubelet, or the same one again; until it has decided about every pod."""
        self.stop()
        self.start(build, mark)
        self.settle()

    def settle(self) -> None:
        try:
            until(self._settled, f"{self.build} has every pod as it should be")
        except AssertionError as error:
            last = self.node.run("sh", "-c", "journalctl -o cat -u kubelet | grep '^[EF]' | tail")
            raise AssertionError(f"{error}; {self.ready()}\n{last}") from error

    def _settled(self) -> bool:
        ready = self.ready()
        if ready.keys() != self.names():
            return False
        decided = Counter(
            line.rpartition('for pod "')[2].partition("_")[0] for line in self.log(DECIDES)
        )
        return all(decided[name] >= 2 for name, runs in ready.items() if runs)

    def names(self) -> set[str]:
        """Of all pods that there should be."""
        return {f"{name}-{zoo.NODE}" for name in self.pods}

    def ready(self) -> dict[str, bool]:
        """The pods that are as they should be: True where they run, False where they are through."""
        found = {}
        for pod in json.loads(self.get("pods") or '{"items": null}')["items"] or ():
            spec, told = pod["spec"], pod["status"].get("containerStatuses")
            statuses = told or self._statuses(pod["metadata"]["name"])
            states = {one["name"]: one for one in statuses}
            through = {n: _through(s["state"], spec["restartPolicy"]) for n, s in states.items()}
            well = all(one["ready"] or through[name] for name, one in states.items())
            if well and len(states) == len(spec["containers"]):
                found[pod["metadata"]["name"]] = not all(through.values())
        return found

    def _statuses(self, pod: str) -> Iterator[Any]:
        """What kubelets before 1.15 do not tell of their static pods, as the engine has it."""
        manifest = self.pods.get(pod.removesuffix(f"-{zoo.NODE}"))
        if manifest is None:  # of an API, which will say it
            return
        names = {one["name"] for one in manifest["spec"]["containers"]}
        listed = sorted(self._containers(self.ids(pod)), key=lambda one: one[1]["Created"])
        for (_, name), one in listed:
            if name in names:
                runs, code = one["State"]["Running"], one["State"]["ExitCode"]
                state = {"running": {}} if runs else {"terminated": {"exitCode": code}}
                yield {"name": name, "ready": runs, "state": state}

    def get(self, path: str) -> str:
        """What the kubelet answers, nothing while it does not."""
        return self.node.run(
            "busybox", "wget", "-qO-", f"http://127.0.0.1:10255/{path}", check=False
        )

    def metrics(self) -> dict[str, float]:
        """The project's, without their common prefix."""
        prefix = "nokmem_adoption_"
        rows = [line.removeprefix(prefix).split() for line in self.get("metrics").splitlines()
                if line.startswith(prefix)]  # fmt: skip
        return {name: float(value) for name, value in rows}

    def log(self, words: str) -> list[str]:
        """The lines with these words that the kubelet wrote since it was started."""
        invocation = self.node.run("systemctl", "show", "-P", "InvocationID", "kubelet").strip()
        journal = f'journalctl --output=cat _SYSTEMD_INVOCATION_ID={invocation} | grep -F "$0"'
        return self.node.run("sh", "-c", journal, words, check=False).splitlines()

    def running(self) -> Running:
        found: Running = {}
        for key, one in self._containers(self.ids()):
            if one["State"]["Running"]:
                assert key not in found, f"{key} runs twice"
                labels = one["Config"]["Labels"]
                count = labels.get("annotation.io.kubernetes.container.restartCount", 0)
                found[key] = Run(one["Id"], one["State"]["StartedAt"], int(count))
        return found

    def made(self, before: set[str]) -> Counter[Key]:
        """How many containers there are of each kind that were not there before."""
        return Counter(key for key, _ in self._containers(self.ids() - before))

    def gone(self, ids: set[str]) -> None:
        """Wait until none of them runs, and all is as it should be again."""
        listed = ("docker", "ps", "-q", "--no-trunc")
        until(lambda: ids.isdisjoint(self.node.run(*listed).split()), "what changed ends")
        self.settle()

    def ids(self, pod: str = "") -> set[str]:
        """Of all containers of a pod or of all pods, also of those that ended."""
        words = ("docker", "ps", "-aq", "--no-trunc", "--filter", f"name=_{pod}")
        return set(self.node.run(*words).split())

    def _containers(self, ids: set[str]) -> Iterator[tuple[Key, Any]]:
        # one that is collected meanwhile is not missed
        found = self.node.run("docker", "inspect", *ids, check=False) if ids else ""
        for one in json.loads(found or "[]"):
            labels = one["Config"]["Labels"]
            pod = labels["io.kubernetes.pod.name"].removesuffix(f"-{zoo.NODE}")
            yield (pod, labels["io.kubernetes.container.name"]), one


class Cluster(Lab):
    """A lab with an API, which brings the pods; there are no manifests."""

    arguments = (*ARGUMENTS, f"--kubeconfig={KUBECONFIG}")

    def __init__(self, node: Node, kubelets: dict[str, Path], servers: list[Path]) -> None:
        super().__init__(node, kubelets)
        self.serve(servers)

    def serve(self, servers: list[Path]) -> None:
        for path in servers:
            self.node.put(path, f"/usr/local/bin/{path.name}", 0o755)
        self.node.run("systemctl", "start", *(path.name for path in servers))
        until(lambda: self.kubectl("get", "namespace", "default", check=False), "the API answers")

    def kubectl(self, *words: str, check: bool = True) -> str:
        return self.node.run("kubectl", f"--kubeconfig={KUBECONFIG}", *words, check=check)

    def clear(self) -> None:
        super().clear()
        for kind in ("deployments", "replicasets", "services", "pods", "nodes"):
            self.kubectl("delete", kind, "--all", "--force", "--grace-period=0")

    def create(self, *objects: zoo.Manifest) -> None:
        """Where they are there already they become like this."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.node.put(text.encode(), "/opt/objects.json")
        self.kubectl("apply", "--filename=/opt/objects.json")

    def items(self, kind: str) -> dict[str, Any]:
        """All of a kind, by name."""
        found = json.loads(self.kubectl("get", kind, "--output=json"))["items"]
        return {one["metadata"]["name"]: one for one in found}

    def names(self) -> set[str]:
        return set(self.items("pods"))


def _through(state: Any, policy: str) -> bool:
    """Whether a container ended and is to stay so."""
    ended = state.get("terminated")
    return bool(ended) and (policy == "Never" or (policy == "OnFailure" and ended["exitCode"] == 0))
