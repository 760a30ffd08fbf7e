"""Nodes, reduced to what placement needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from trainyard.api import names
from trainyard.api.cluster import Node, Taint
from trainyard.api.resources import amounts, is_extended

HOSTNAME = "kubernetes.io/hostname"
"""The label by which an affinity names a node."""
READINESS_TAINTS = (
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
)
"""Taints that Kubernetes sets while a node is cordoned or not ready. `is_ready` covers them: a
worker may run there once the node is ready again."""


def accelerator_label(nodes: Iterable[Node]) -> str:
    """A label that all nodes with accelerators carry and no other node does; empty without one.

    Clouds and device plugins each set labels of their own. Without nodes of both sorts there is
    nothing to tell apart.
    """
    with_any: set[str] | None = None
    without: set[str] | None = None
    for node in nodes:
        if any(map(is_extended, node.allocatable)):
            with_any = set(node.labels) if with_any is None else with_any & node.labels.keys()
        else:
            without = set(node.labels) if without is None else without | node.labels.keys()
    return "" if with_any is None or without is None else min(with_any - without, default="")


def have_real_devices(nodes: Iterable[Node], resource: str, selector: Mapping[str, str]) -> bool:
    """Whether a pod with this selector may get devices that are not simulated.

    Of nodes that do not exist yet that is assumed.
    """
    offering = [
        node
        for node in nodes
        if node.allocatable.get(resource) and selector.items() <= node.labels.items()
    ]
    simulated = [node.labels.get(names.LABEL_SIMULATED_GPUS) == "true" for node in offering]
    return not offering or not all(simulated)


class _Meta(TypedDict, total=False):
    name: str
    uid: str
    resourceVersion: str
    labels: dict[str, str] | None


class _Taint(TypedDict, total=False):
    key: str
    value: str
    effect: str


class _Spec(TypedDict, total=False):
    unschedulable: bool
    taints: list[_Taint]


class _Condition(TypedDict, total=False):
    type: str
    status: str


class _Status(TypedDict, total=False):
    allocatable: dict[str, Any] | None
    conditions: list[_Condition]


class NodeObject(TypedDict, total=False):
    """The fields that `parse_node` reads, so that a decoder may skip the rest."""

    metadata: _Meta
    spec: _Spec | None
    status: _Status | None


def parse_node(raw: Mapping[str, Any]) -> Node:
    """Reduce an API object to name, resources, labels, taints and readiness."""
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    return Node(
        name=raw["metadata"]["name"],
        uid=raw["metadata"].get("uid", ""),
        allocatable=amounts(status.get("allocatable")),
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
