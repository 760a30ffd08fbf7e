"""Manifests of jobs, nodes and foreign pods."""

from __future__ import annotations

from typing import Any

from trainyard.api.names import LABEL_SIMULATED_GPUS

Object = dict[str, Any]

POOL = "trainyard.dev/pool"
"""The key of the label and the taint (effect NoSchedule) of one test's nodes."""
GPU = "nvidia.com/gpu"
ADAPTER = "rdma/hca"
"""A device that a worker may have several of; a node has as many as GPUs."""


def job(
    name: str,
    pool: str,
    replicas: int = 1,
    *,
    minimum: int | None = None,
    maximum: int | None = None,
    gpus: int = 1,
    policy: str = "Manual",
    resources: Object | None = None,
    template: Object | None = None,
    **spec: Any,
) -> Object:
    """A DistributedJob for the nodes of `pool`."""
    tolerations = [{"key": POOL, "value": pool, "effect": "NoSchedule"}]
    return {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "DistributedJob",
        "metadata": {"name": name},
        "spec": {
            "task": {"entrypoint": "trainyard_trainer.tasks.digits:Digits"},
            "image": "trainyard-trainer:test",
            "workers": {
                "min": replicas if minimum is None else minimum,
                "max": replicas if maximum is None else maximum,
                "replicas": replicas,
                "gpus": gpus,
                "resources": resources or {},
                "template": {
                    "tolerations": tolerations,
                    "nodeSelector": {POOL: pool},
                    **(template or {}),
                },
            },
            "scaling": {"policy": policy},
            **spec,
        },
    }


def federation(name: str, pool: str, parties: list[Object], **spec: Any) -> Object:
    """A FederatedJob for the nodes of `pool`."""
    tolerations = [{"key": POOL, "value": pool, "effect": "NoSchedule"}]
    return {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {"name": name},
        "spec": {
            "task": {"entrypoint": "trainyard_trainer.tasks.digits:Digits"},
            "image": "trainyard-trainer:test",
            "parties": parties,
            "template": {"tolerations": tolerations, "nodeSelector": {POOL: pool}},
            **spec,
        },
    }


def node(name: str, pool: str, gpus: int, *, is_attended: bool, labels: Object) -> Object:
    """A simulated node; KWOK plays the kubelet of attended ones, the test that of the others."""
    capacity = {"cpu": "64", "memory": "512Gi", "pods": "250", GPU: str(gpus), ADAPTER: str(gpus)}
    conditions = [] if is_attended else [{"type": "Ready", "status": "True", "reason": "Simulated"}]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                POOL: pool,
                "kubernetes.io/hostname": name,
                LABEL_SIMULATED_GPUS: "true",
                **labels,
            },
            "annotations": {"kwok.x-k8s.io/node": "fake"} if is_attended else {},
        },
        "spec": {"taints": [{"key": POOL, "value": pool, "effect": "NoSchedule"}]},
        "status": {"capacity": capacity, "allocatable": capacity, "conditions": conditions},
    }


def foreign_pod(
    name: str, pool: str, count: int, node_name: str = "", resource: str = GPU
) -> Object:
    """A pod of another owner with GPUs of the pool, or with another of its devices."""
    container = {
        "name": "main",
        "image": "busybox",
        "resources": {"limits": {resource: str(count)}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "containers": [container],
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"key": POOL, "value": pool, "effect": "NoSchedule"}],
            "nodeSelector": {"kubernetes.io/hostname": node_name} if node_name else {POOL: pool},
        },
    }
