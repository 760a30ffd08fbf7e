"""A bare pod: what is left of a pod of ours where another controller would make it. Pure."""

from __future__ import annotations

from typing import Any

from tools.localcluster.simulation import SIMULATED

Manifest = dict[str, Any]


def bare_pod(pod: Manifest) -> Manifest:
    """The same name, labels, owner, image and resources; nothing else but where it may run.

    Kubeflow's training-operator makes such pods of a template that asks for no more.
    """
    metadata, container = pod["metadata"], pod["spec"]["containers"][0]
    kept = ("name", "namespace", "labels", "ownerReferences")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {key: metadata[key] for key in kept},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{key: container[key] for key in ("name", "image", "resources")}],
            "tolerations": simulated_only(pod["spec"].get("tolerations", [])),
        },
    }


def simulated_only(tolerations: list[Manifest]) -> list[Manifest]:
    """The toleration without which the pod runs on no simulated node."""
    return [toleration for toleration in tolerations if toleration.get("key") == SIMULATED]
