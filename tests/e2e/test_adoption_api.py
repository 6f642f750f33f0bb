"""The same with an API server, which brings the pods: what is restarted, killed, or seen to flap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import Cluster
from tests.e2e.zoo import NODE, Manifest, pod, probe, runs
from tests.node import Node, until

SANDBOX = "POD"


def objects() -> list[Manifest]:
    ready = runs(
        "sleep 1; touch /tmp/up; " + runs()["command"][2], readinessProbe=probe("test -e /tmp/up")
    )
    web = pod("web", ready, nodeName=NODE)
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": web["spec"]}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": labels, "ports": [{"port": 80}]},
        },
        pod("selective", nodeName=NODE, nodeSelector={"zone": "here"}),
        pod("tolerant", nodeName=NODE, tolerations=[{"key": "special", "operator": "Exists"}]),
        pod("initialized", nodeName=NODE, initContainers=[runs("true", name="first")]),
    ]


@pytest.fixture(scope="module")
def cluster(node: Node, kubelets: dict[str, Path], servers: list[Path]) -> Cluster:
    return Cluster(node, kubelets, servers)


@pytest.fixture(scope="module")
def adopted(cluster: Cluster) -> Cluster:
    """All pods of a stock kubelet of another age, under the new one."""
    begin(cluster)
    before = seen(cluster)
    cluster.stop()
    cluster.node.run("sh", "-c", "docker rm $(docker ps -aqf name=_initialized_ -f status=exited)")
    cluster.seed()
    cluster.swap("new")
    assert not changes(before, seen(cluster))
    return cluster


def begin(cluster: Cluster) -> None:
    """All pods under a stock kubelet of another age, ready."""
    cluster.clear()
    cluster.start("old-stock")
    until(lambda: NODE in cluster.items("nodes"), "the node is registered")
    cluster.kubectl("label", "node", NODE, "zone=here")
    cluster.kubectl("taint", "node", NODE, "special=:NoExecute")
    cluster.create(*objects())
    cluster.settle()
    until(
        lambda: cluster.items("deployments")["web"]["status"].get("readyReplicas") == 2, "web is up"
    )


Seen = dict[tuple[str, ...], Any]


def seen(cluster: Cluster) -> Seen:
    """What the API's clients see of it: what may restart, and what may flap."""
    found: Seen = {("running", *key): run for key, run in cluster.running().items()}
    for name, one in cluster.items("pods").items():
        status = one["status"]
        found["uid", name], found["phase", name] = one["metadata"]["uid"], status["phase"]
        for each in status["conditions"]:
            found["condition", name, each["type"]] = each["status"], each["lastTransitionTime"]
        for each in status["containerStatuses"]:
            found["restarts", name, each["name"]] = each["restartCount"]
    endpoints = cluster.items("endpoints")["web"]
    found["endpoints",] = endpoints["metadata"]["resourceVersion"]
    found["deployment",] = cluster.items("deployments")["web"]["status"]
    return found


def changes(before: Seen, after: Seen) -> dict[tuple[str, ...], tuple[Any, Any]]:
    keys = before.keys() | after.keys()
    return {
        key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)
    }


def test_the_control_restarts_and_kills(cluster: Cluster) -> None:
    begin(cluster)
    before = cluster.items("pods")
    ids = {run.id for (_, name), run in cluster.running().items() if name != SANDBOX}
    cluster.stop()
    cluster.kubectl("label", "node", NODE, "zone-")
    cluster.start("new-stock")

    def restarted() -> bool:
        pods = cluster.items("pods")
        counts = {
            name: [c["restartCount"] for c in one["status"]["containerStatuses"]]
            for name, one in pods.items()
            if name != "selective"
        }
        killed = pods["selective"]["status"]["phase"] == "Failed"
        return killed and all(count == [1] for count in counts.values())

    until(restarted, "what runs is restarted, what lost its label is killed")
    assert cluster.items("pods").keys() == before.keys()
    assert ids.isdisjoint(run.id for run in cluster.running().values())


def test_a_lost_label_a_rollback_and_restarts_change_nothing(adopted: Cluster) -> None:
    before = seen(adopted)
    adopted.stop()
    adopted.kubectl("label", "node", NODE, "zone-")
    for build in ("old", "new", "new"):
        adopted.swap(build)
        assert not changes(before, seen(adopted)), build
        assert adopted.log("is kept, though it would not be admitted anew")
        assert adopted.metrics()['events_total{event="admitted"}'] == 1


def test_an_image_that_changed_during_a_swap_restarts_alone(adopted: Cluster) -> None:
    before, key = adopted.running(), ("tolerant", "app")
    adopted.stop()
    adopted.kubectl("set", "image", "pod/tolerant", "app=app:2")
    adopted.swap("old")
    adopted.gone({before.pop(key).id})
    after = adopted.running()
    assert after.pop(key).restarts == 1
    assert after == before
    adopted.swap("new")
    assert {**adopted.running(), key: None} == {**before, key: None}


def test_a_deployment_is_rolled_as_ever(adopted: Cluster) -> None:
    before = {name for name in adopted.items("pods") if name.startswith("web-")}
    adopted.kubectl("set", "image", "deployment/web", "app=app:2")
    adopted.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    until(lambda: before.isdisjoint(adopted.items("pods")), "the old replicas are gone")
