"""The informers of the operator: pods in the namespaces that it serves, and all nodes."""

from __future__ import annotations

from collections.abc import Callable

from trainyard.api import names
from trainyard.api.cluster import Node
from trainyard.api.nodes import NodeObject, parse_node
from trainyard.api.pods import Pod, PodObject, parse_pod
from trainyard.cluster.informer import Informer, Selectors
from trainyard.reconcile.dependencies import Dependencies

RELEVANT_PODS = (
    Selectors(field_selector="status.phase!=Succeeded,status.phase!=Failed"),
    Selectors(label_selector=f"{names.LABEL_MANAGED_BY}={names.MANAGER}"),
)
"""Pods that may hold resources, and our own, finished ones too.

In this order: a pod that is in neither had finished by the first LIST and is not ours by the
second, or was created since.
"""


def pod_informers(
    deps: Dependencies, on_change: Callable[[Pod | None, Pod | None], None]
) -> list[Informer[Pod]]:
    """One informer for each served namespace, or a single one for all."""
    return [
        Informer(
            deps.client,
            "pods",
            namespace,
            shape=PodObject,
            parse=parse_pod,
            store=deps.cache.pods,
            on_change=on_change,
            relist_interval=deps.options.relist_interval,
            activity=deps.activity,
            selectors=RELEVANT_PODS,
        )
        for namespace in deps.options.namespaces or ("",)
    ]


def node_informer(
    deps: Dependencies, on_change: Callable[[Node | None, Node | None], None]
) -> Informer[Node]:
    """The informer of the nodes."""
    return Informer(
        deps.client,
        "nodes",
        shape=NodeObject,
        parse=parse_node,
        store=deps.cache.nodes,
        on_change=on_change,
        relist_interval=deps.options.relist_interval,
        activity=deps.activity,
    )
