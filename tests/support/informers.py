"""Pods and nodes as an informer receives them, for tests of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from tests.support.fakeapi import Object
from trainyard.api.cluster import Node
from trainyard.api.nodes import NodeObject, parse_node
from trainyard.api.pods import Pod, PodObject, parse_pod
from trainyard.cluster.activity import Activity
from trainyard.cluster.cache import ClusterCache
from trainyard.cluster.client import KubeClient
from trainyard.cluster.informer import Informer, Selectors
from trainyard.cluster.store import ObjectKey, Store
from trainyard.reconcile.informers import RELEVANT_PODS

Resource = Pod | Node
OnChange = Callable[[Any, Any], None]
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The variable properties of an object; the store keeps a pod that is ours or unfinished."""

    is_ours: bool = True
    has_gpus: bool = False
    is_finished: bool = False

    @property
    def is_relevant(self) -> bool:
        """Whether the store keeps a pod in this state."""
        return self.is_ours or not self.is_finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Pods or nodes."""

    plural: str
    namespace: str
    """The namespace of the objects; empty for nodes."""
    shape: Any
    parse: Callable[[Any], Any]
    selectors: tuple[Selectors, ...] = (Selectors(),)

    def __str__(self) -> str:
        return self.plural

    @property
    def path(self) -> str:
        """The path of the collection."""
        return f"/api/v1/{self.plural}"

    def key(self, name: str) -> ObjectKey:
        """The key of an object in the store."""
        return ObjectKey(self.namespace, name)

    def store(self, cache: ClusterCache) -> Store[ObjectKey, Any]:
        """The part of the cache that the informer keeps."""
        stores: dict[str, Store[ObjectKey, Any]] = {"pods": cache.pods, "nodes": cache.nodes}
        return stores[self.plural]

    def is_relevant(self, state: State) -> bool:
        """Whether the store keeps an object in this state."""
        return self.plural == "nodes" or state.is_relevant

    def raw(self, name: str, version: int, uid: str = "", state: State | None = None) -> Object:
        """An object as the API server sends it."""
        state = state or State()
        meta = {
            "name": name,
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
            "creationTimestamp": "2026-11-22T10:00:00Z",
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
            "labels": _labels(state),
        }
        if self.plural == "nodes":
            return {"metadata": meta, "spec": {}, "status": {}}
        limits = {"nvidia.com/gpu": "1"} if state.has_gpus else {}
        return {
            "metadata": {**meta, "namespace": self.namespace},
            "spec": {"containers": [{"resources": {"limits": limits}}]},
            "status": {"phase": "Succeeded" if state.is_finished else "Running"},
        }

    def informer(
        self,
        client: KubeClient,
        cache: ClusterCache,
        on_change: OnChange,
        relist_interval: timedelta = HOUR,
    ) -> Informer[Any]:
        """An informer of all objects of the kind."""
        return Informer(
            client,
            self.plural,
            shape=self.shape,
            parse=self.parse,
            store=self.store(cache),
            on_change=on_change,
            relist_interval=relist_interval,
            activity=Activity(),
            selectors=self.selectors,
        )


def _labels(state: State) -> dict[str, str]:
    """The labels of a job, if the object is ours, and labels for the rest of the state."""
    state_labels = {"gpus": str(state.has_gpus), "finished": str(state.is_finished)}
    ours = {"app.kubernetes.io/managed-by": "trainyard", "trainyard.dev/job": "digits"}
    return {**state_labels, **(ours if state.is_ours else {})}


PODS = Kind(
    plural="pods",
    namespace="default",
    shape=PodObject,
    parse=parse_pod,
    selectors=RELEVANT_PODS,
)
NODES = Kind(plural="nodes", namespace="", shape=NodeObject, parse=parse_node)
UNSELECTED_PODS = replace(PODS, selectors=(Selectors(),))
