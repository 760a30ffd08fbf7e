"""The cluster as the scheduler sees it: nodes, and the pods that hold their resources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from trainyard.api.names import Key
from trainyard.api.resources import ResourceAmounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """A node's taint; only `NoSchedule` and `NoExecute` keep a pod away."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True, slots=True, kw_only=True)
class Toleration:
    """A pod's toleration; an empty key with `Exists` tolerates everything."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def tolerates(self, taint: Taint) -> bool:
        """Whether this toleration outweighs the taint, as kube-scheduler reads it."""
        if self.effect and self.effect != taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        if self.operator == "Exists":
            return True
        return bool(self.key) and self.value == taint.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node that may run workers."""

    name: str
    allocatable: ResourceAmounts = field(default_factory=dict)
    """What its pods may request together: CPU, memory, places for pods, accelerators, …"""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    is_ready: bool = True
    """Ready and not cordoned."""
    uid: str = field(default="", compare=False)
    resource_version: int = field(default=0, compare=False)
    """Which of two states is the newer one; a heartbeat raises it and changes nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodInfo:
    """A pod that is not finished, ours or anyone's, as the scheduler counts it."""

    namespace: str
    name: str
    requests: ResourceAmounts
    node: str = ""
    """Empty until kube-scheduler has bound it."""
    job: Key | None = None
    """The job that owns it; None if none that exists does."""
    owner_uid: str = ""
    """The uid of the owner that it names."""
    role: str = ""
    """What it is of its job, a `contract.Role`."""
    party: str = ""
    """The party that it is, in a federation."""
    created_at: datetime | None = None
    """Of a pod of ours."""
    scheduling_message: str = ""
    """Why kube-scheduler has not bound it, in its own words; of a pod of ours."""
    is_deleting: bool = False
    """It is being deleted, and holds what it requests until it is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Nodes and pods at one moment."""

    nodes: tuple[Node, ...] = ()
    """The same object as long as no node changes."""
    pods: tuple[PodInfo, ...] = ()

    def assigned_pods(self) -> Iterator[tuple[Key, PodInfo]]:
        """Jobs, and their pods whose resources stay assigned to them.

        The resources of a pod that is being deleted go to its replacement, unless its node is
        lost or drained.
        """
        ready = {node.name for node in self.nodes if node.is_ready}
        for pod in self.pods:
            if pod.job and pod.node and (pod.node in ready or not pod.is_deleting):
                yield pod.job, pod

    def unbound_pods(self) -> Iterator[tuple[Key, PodInfo]]:
        """Jobs, and their pods that kube-scheduler has not bound to a node."""
        for pod in self.pods:
            if pod.job and not pod.node and not pod.is_deleting:
                yield pod.job, pod
