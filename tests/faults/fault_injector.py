"""Injection of random faults into the operators' replicas and the nodes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.faults.history import History
from tests.faults.nodes import Nodes
from tests.faults.operators import Replica
from tests.support.replicas import lease
from trainyard.cluster.client import KubeClient

NODES = 6
MAX_FAULTY_NODES = 3
LEADER_SHARE = 0.6
"""The share of the replicas' faults that hit the leader."""
REPLICA_FAULTS = {"kill": 3, "stop": 2, "pause": 4, "cut": 2, "stall": 3, "reset": 3}
"""Methods of `Replica` with their weights."""
NODE_FAULTS = {"remove": 2, "disconnect": 1}
"""Methods of `Nodes` with their weights."""


class WeightedBag:
    """Random names without replacement, each as often as its weight; refilled when empty.

    Unlike independent choices, no name is missing for long.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._names = [name for name, weight in weights.items() for _ in range(weight)]
        self._remaining: list[str] = []

    def choose(self, rng: random.Random) -> str:
        """Remove and return a name."""
        if not self._remaining:
            self._remaining = rng.sample(self._names, len(self._names))
        return self._remaining.pop()


@dataclass(slots=True)
class FaultInjector:
    """Injects one fault at a time into each replica and each node."""

    rng: random.Random
    history: History
    client: KubeClient
    operator_namespace: str
    nodes: Nodes
    replicas: list[Replica]
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """The faults in progress."""
    _replica_faults: WeightedBag = field(default_factory=lambda: WeightedBag(REPLICA_FAULTS))
    _node_faults: WeightedBag = field(default_factory=lambda: WeightedBag(NODE_FAULTS))

    async def fault_replica(self) -> None:
        """Begin a fault of a replica, often the leader, that has none."""
        candidates = [replica for replica in self.replicas if not replica.is_faulty]
        if not candidates:
            return
        leader = await self._leader()
        hits_leader = leader in candidates and self.rng.random() < LEADER_SHARE
        target = leader if leader is not None and hits_leader else self.rng.choice(candidates)
        fault, rng = self._replica_faults.choose(self.rng), random.Random(self.rng.random())
        self.history.record(fault, f"{target.name}{' (leader)' if target is leader else ''}")
        self._start(target.inject(getattr(target, fault), rng))

    async def fault_node(self) -> None:
        """Begin a fault of a node, unless too many have one."""
        if len(self.nodes.healthy) <= NODES - MAX_FAULTY_NODES:
            return
        node, seconds = self.rng.choice(self.nodes.healthy), self.rng.uniform(1, 30)
        fault = self._node_faults.choose(self.rng)
        self.history.record(fault, f"{node} for {seconds:.0f} s")
        await getattr(self.nodes, fault)(node)
        self._start(self._restore(node, seconds))

    def check_tasks(self) -> None:
        """Raise the error of a fault that could not be injected or ended."""
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            task.result()

    async def wait(self) -> None:
        """Wait until every fault has ended by itself."""
        self.history.log("the faults end", prints=True)
        await asyncio.gather(*self._tasks)

    async def _restore(self, node: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.history.record("restore", node)
        await self.nodes.restore(node)

    async def _leader(self) -> Replica | None:
        holder = (await lease(self.client, self.operator_namespace)).get("holderIdentity", "")
        return next((r for r in self.replicas if holder.startswith(f"{r.name}_")), None)

    def _start(self, fault: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.create_task(fault))
