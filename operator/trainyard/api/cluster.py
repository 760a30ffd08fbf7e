"""The cluster as the scheduler sees it: nodes, and the pods that request accelerators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from trainyard.api.names import Key


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
    gpus: Mapping[str, int] = field(default_factory=dict)
    """Allocatable accelerators by resource name, for example `nvidia.com/gpu`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    is_ready: bool = True
    """Ready and not cordoned."""
    uid: str = field(default="", compare=False)
    resource_version: int = field(default=0, compare=False)
    """Which of two states is the newer one; a heartbeat raises it and changes nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPod:
    """A pod that is not finished and requests accelerators; ours or anyone's."""

    namespace: str
    name: str
    resource: str
    gpus: int
    node: str = ""
    """Empty until kube-scheduler has bound it."""
    job: Key | None = None
    """The job that owns it; None if it is not ours."""
    party: str = ""
    """The party that it is, in a federation."""
    is_deleting: bool = False
    """It is being deleted, and keeps its accelerators until it is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Nodes and accelerator pods at one moment."""

    nodes: tuple[Node, ...] = ()
    pods: tuple[GpuPod, ...] = ()

    def assigned_pods(self) -> Iterator[tuple[Key, GpuPod]]:
        """Jobs, and their pods whose accelerators stay assigned to them.

        The accelerators of a pod that is being deleted go to its replacement, unless its node is
        lost or drained.
        """
        ready = {node.name for node in self.nodes if node.is_ready}
        for pod in self.pods:
            if pod.job and pod.node and (pod.node in ready or not pod.is_deleting):
                yield pod.job, pod
