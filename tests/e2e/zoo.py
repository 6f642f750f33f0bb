"""Static pods of many kinds, as a node may have them when its kubelet is replaced."""

from __future__ import annotations

from typing import Any

NODE = "node"
#: Ends at once when it is told to, so that no test waits for a grace period.
STAYS = "trap exit TERM; sleep infinity & wait"
DEFAULTS = {"image": "app:1", "imagePullPolicy": "Never"}

Manifest = dict[str, Any]


def runs(script: str = STAYS, name: str = "app", **more: Any) -> dict[str, Any]:
    return {**DEFAULTS, "name": name, "command": ["/bin/sh", "-c", script], **more}


def pod(name: str, *containers: dict[str, Any], uid: str = "", **spec: Any) -> Manifest:
    metadata = {"name": name, "namespace": "default", **({"uid": uid} if uid else {})}
    body = {"terminationGracePeriodSeconds": 2, "containers": list(containers or (runs(),)), **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body}


def probe(script: str) -> dict[str, Any]:
    return {"exec": {"command": ["/bin/sh", "-c", script]}, "periodSeconds": 1}


def pods() -> dict[str, Manifest]:
    """Each by its name."""
    scratch = {"name": "scratch", "mountPath": "/scratch"}
    every = (
        pod("one"),
        pod(
            "several",
            runs(name="first", env=[{"name": "WHO", "value": "first"}]),
            runs(name="second", image="app", resources={"limits": {"memory": "32Mi"}}),
            runs(name="third", image="other:1", ports=[{"containerPort": 8080}]),
        ),
        pod(
            "probed",
            runs(
                "touch /tmp/up; httpd -p 8080 -h /tmp; " + STAYS,
                readinessProbe=probe("test -e /tmp/up"),
                startupProbe=probe("test -e /tmp/up"),
                livenessProbe={"httpGet": {"path": "/up", "port": 8080}, "periodSeconds": 1},
            ),
        ),
        pod(
            "mounts",
            runs(
                volumeMounts=[
                    scratch,
                    {"name": "memory", "mountPath": "/memory", "subPath": "part"},
                    {"name": "host", "mountPath": "/host", "readOnly": True},
                ]
            ),
            volumes=[
                {"name": "scratch", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory"}},
                {"name": "host", "hostPath": {"path": "/etc"}},
            ],
        ),
        pod(
            "secure",
            runs(
                securityContext={
                    "readOnlyRootFilesystem": True,
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
                }
            ),
            runs(name="root", securityContext={"runAsUser": 0, "runAsGroup": 0}),
            securityContext={"runAsUser": 1000, "fsGroup": 2000},
        ),
        pod(
            "initialized",
            runs(volumeMounts=[scratch]),
            initContainers=[
                runs("echo >>/scratch/runs", name="first", volumeMounts=[scratch]),
                runs("true", name="second"),
            ],
            volumes=[{"name": "scratch", "emptyDir": {}}],
        ),
        pod(
            "retried",  # fails once, so that there is a count to keep
            runs(
                f"test -e /scratch/once || {{ touch /scratch/once; exit 1; }}; {STAYS}",
                volumeMounts=[scratch],
            ),
            runs("exit 0", name="done"),
            restartPolicy="OnFailure",
            volumes=[{"name": "scratch", "emptyDir": {}}],
        ),
        pod("once", runs(), runs("exit 3", name="failed"), restartPolicy="Never"),
        pod("finished", runs("exit 0"), restartPolicy="Never"),
        pod("host", hostNetwork=True, hostPID=True),
        pod("named", uid="11111111-2222-3333-4444-555555555555"),
        pod(
            "critical",
            runs(resources={"limits": {"cpu": "100m", "memory": "32Mi"}}),
            priorityClassName="system-node-critical",
            priority=2000001000,
        ),
    )
    return {each["metadata"]["name"]: each for each in every}
