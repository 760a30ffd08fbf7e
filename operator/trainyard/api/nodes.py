"""Nodes, reduced to what placement needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainyard.api.cluster import Node, Taint

READINESS_TAINTS = (
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
)
"""Taints that Kubernetes sets while a node is cordoned or not ready. `is_ready` covers them: a
worker may run there once the node is ready again."""


def parse_node(raw: Mapping[str, Any]) -> Node:
    """Reduce an API object to name, accelerators, labels, taints and readiness."""
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    allocatable = status.get("allocatable") or {}
    return Node(
        name=raw["metadata"]["name"],
        gpus={k: int(v) for k, v in allocatable.items() if "/" in k and str(v).isdecimal()},
        labels=raw["metadata"].get("labels") or {},
        taints=tuple(
            Taint(key=t["key"], value=t.get("value", ""), effect=t["effect"])
            for t in spec.get("taints", ())
            if t["key"] not in READINESS_TAINTS
        ),
        is_ready=not spec.get("unschedulable", False) and _is_ready(status),
        resource_version=int(raw["metadata"]["resourceVersion"]),
    )


def _is_ready(status: Mapping[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ()))
