"""What the pods of a cluster hold, node by node, and what could become free.

Computed once for an allocation, and never changed by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from trainyard.api.cluster import Cluster, PodInfo
from trainyard.api.nodes import HOSTNAME
from trainyard.api.resources import ResourceAmounts, is_extended
from trainyard.scheduling.shapes import NodeMatcher, PodShape

_MAX_NAMED_PODS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateNodes:
    """The nodes that match a shape, whatever jobs run on them at the moment."""

    matching: int
    """Number of nodes that could ever hold such a pod, ready or not."""
    ready: frozenset[str]
    """Names of those that are ready."""
    attainable: frozenset[str]
    """Names of the ready ones that could hold one beside the pods that are not of our jobs."""
    capacity: int
    """Pods that all matching nodes would hold if they were empty."""
    ready_capacity: int
    """Pods that the ready ones would hold if they were empty."""
    attainable_capacity: int
    """Pods that the ready ones would hold if none of our jobs ran."""


class ClusterUsage:
    """The amounts of each node: allocatable, free, and attainable."""

    __slots__ = ("_candidates", "accelerated", "attainable", "free", "matcher", "others", "plain")

    def __init__(self, cluster: Cluster, matcher: NodeMatcher | None = None) -> None:
        """`matcher` may remember the nodes of an earlier allocation."""
        self.matcher = matcher or NodeMatcher()
        self.matcher.use(cluster.nodes)
        nodes = self.matcher.nodes
        self.free: dict[str, dict[str, int]] = {n.name: dict(n.allocatable) for n in nodes}
        """Allocatable, less what all pods hold."""
        self.attainable: dict[str, dict[str, int]] = {n.name: dict(n.allocatable) for n in nodes}
        """Allocatable, less what pods hold that are not of our jobs: it can become free."""
        self.plain: dict[str, dict[str, int]] = {}
        """What pods of our jobs hold that have no accelerators."""
        self.others: dict[str, list[PodInfo]] = {}
        """The pods that are not of our jobs."""
        self.accelerated = frozenset(n.name for n in nodes if any(map(is_extended, n.allocatable)))
        """The nodes that have accelerators."""
        self._candidates: dict[PodShape, CandidateNodes] = {}
        for pod in cluster.pods:
            if pod.node in self.free:
                self._count(pod)

    def _count(self, pod: PodInfo) -> None:
        subtract(self.free[pod.node], pod.requests)
        if pod.job is None and not pod.is_deleting:
            subtract(self.attainable[pod.node], pod.requests)
            self.others.setdefault(pod.node, []).append(pod)
        elif pod.job is not None and not any(map(is_extended, pod.requests)):
            subtract(self.plain.setdefault(pod.node, {}), pod.requests, times=-1)

    def candidates(self, shape: PodShape) -> CandidateNodes:
        """The nodes that match the shape."""
        if shape not in self._candidates:
            self._candidates[shape] = self._find_candidates(shape)
        return self._candidates[shape]

    def _find_candidates(self, shape: PodShape) -> CandidateNodes:
        matching = self.matcher.matching(shape)
        ready = [node for node in matching if node.is_ready]
        attainable = {node.name: shape.fits(self.attainable[node.name]) for node in ready}
        return CandidateNodes(
            matching=len(matching),
            ready=frozenset(attainable),
            attainable=frozenset(name for name, pods in attainable.items() if pods),
            capacity=sum(shape.fits(node.allocatable) for node in matching),
            ready_capacity=sum(shape.fits(node.allocatable) for node in ready),
            attainable_capacity=sum(attainable.values()),
        )

    def in_the_way(self, shape: PodShape) -> tuple[str, ...]:
        """Some pods that are not of our jobs and keep the shape off ready nodes: namespace/name.

        Those that hold most of what the shape lacks come first.
        """
        holding: list[tuple[int, str]] = []
        for node in self.matcher.matching(shape):
            amounts = self.attainable[node.name]
            if node.is_ready and shape.fits(amounts) < shape.fits(node.allocatable):
                scarce = shape.scarcest_in(amounts)
                holding += [
                    (-pod.requests[scarce], f"{pod.namespace}/{pod.name}")
                    for pod in self.others.get(node.name, ())
                    if scarce in pod.requests
                ]
        return tuple(name for _, name in sorted(holding)[:_MAX_NAMED_PODS])

    def hostnames(self, names: Iterable[str], shape: PodShape) -> tuple[str, ...]:
        """The hostname labels of these nodes, by name, of those that match the shape."""
        wanted = set(names)
        return tuple(
            node.labels.get(HOSTNAME, node.name)
            for node in self.matcher.matching(shape)
            if node.name in wanted
        )


def subtract(
    amounts: dict[str, int], requests: ResourceAmounts | Mapping[str, int], times: int = 1
) -> None:
    """Take the requests of a number of equal pods off the amounts of a node."""
    for resource, amount in requests.items():
        amounts[resource] = amounts.get(resource, 0) - times * amount
