"""The drill: a seeded schedule of faults and wishes, then the quiet in which all is judged."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.chronicle import Chronicle, Violation
from tests.faults.judge import Judge
from tests.faults.nodes import Nodes
from tests.faults.observer import Observer
from tests.faults.operators import Replica, make_replica
from tests.faults.users import Users
from tests.support.kubelet import Kubelet
from tests.support.proxy import Proxy
from tests.support.replicas import lease
from tests.support.testbed import Testbed
from tests.support.waiting import eventually
from trainyard.cluster.client import KubeClient

NODES = 6
MOST_NODES_AWAY = 3
PACE_SECONDS = (0.02, 0.8)
SETTLE_SECONDS = 150
"""Unreachable nodes, pauses between restarts and the farewell of finished jobs take their time."""
FAULTS = {"kill": 3, "stop": 2, "pause": 4, "cut": 2, "stall": 3, "reset": 3}
"""Methods of a replica."""
NODE_FAULTS = {"remove": 2, "silence": 1}
"""Methods of the nodes."""


class Deck:
    """Cards in any order, each as often as it is in the deck, so that none is missing for long."""

    def __init__(self, cards: Mapping[str, int]) -> None:
        self._cards = [card for card, number in cards.items() for _ in range(number)]
        self._left: list[str] = []

    def draw(self, dice: random.Random) -> str:
        """The next card."""
        if not self._left:
            self._left = dice.sample(self._cards, len(self._cards))
        return self._left.pop()


@dataclass(slots=True)
class Drill:
    """All that takes part."""

    dice: random.Random
    chronicle: Chronicle
    kube: KubeClient
    operator_namespace: str
    nodes: Nodes
    users: Users
    judge: Judge
    replicas: list[Replica]
    under_way: set[asyncio.Task[None]] = field(default_factory=set)
    replica_faults: Deck = field(default_factory=lambda: Deck(FAULTS))
    node_faults: Deck = field(default_factory=lambda: Deck(NODE_FAULTS))

    async def run(self, seconds: float) -> None:
        """Faults for so long, then the judgement; raises Violation."""
        try:
            async with asyncio.timeout(seconds):
                while not self.chronicle.violations:
                    await self._step()
        except TimeoutError:
            pass
        await self._calm()
        try:
            await eventually(self.judge.all_is_right, SETTLE_SECONDS)
        except AssertionError as error:
            self.chronicle.violated(str(error))
        for replica in self.replicas:
            replica.check_log()
        if self.chronicle.violations:
            raise Violation(self.chronicle.report("not all is as it has to be"))

    async def _step(self) -> None:
        """One thing that happens."""
        roll = self.dice.random()
        if roll < 0.65:
            await self.users.act(self.dice)
        elif roll < 0.9:
            await self._hit_a_replica()
        else:
            await self._hit_a_node()
        for task in [t for t in self.under_way if t.done()]:
            self.under_way.discard(task)
            task.result()
        await asyncio.sleep(self.dice.uniform(*PACE_SECONDS))

    async def _hit_a_replica(self) -> None:
        idle = [replica for replica in self.replicas if not replica.is_busy]
        if not idle:
            return
        leader = await self._leader()
        is_leader = leader in idle and self.dice.random() < 0.6
        victim = leader if leader is not None and is_leader else self.dice.choice(idle)
        name, dice = self.replica_faults.draw(self.dice), random.Random(self.dice.random())
        self.chronicle.did(name, f"{victim.name}{' (leader)' if victim is leader else ''}")
        self._begin(victim.suffer(getattr(victim, name), dice))

    async def _hit_a_node(self) -> None:
        if len(self.nodes.there) <= NODES - MOST_NODES_AWAY:
            return
        node, seconds = self.dice.choice(self.nodes.there), self.dice.uniform(1, 30)
        name = self.node_faults.draw(self.dice)
        self.chronicle.did(name, f"{node} for {seconds:.0f} s")
        await getattr(self.nodes, name)(node)
        self._begin(self._bring_back(node, seconds))

    async def _bring_back(self, name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.chronicle.did("bring back", name)
        await self.nodes.bring_back(name)

    async def _leader(self) -> Replica | None:
        holder = (await lease(self.kube, self.operator_namespace)).get("holderIdentity", "")
        return next((r for r in self.replicas if holder.startswith(f"{r.name}_")), None)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self.under_way.add(asyncio.create_task(work))

    async def _calm(self) -> None:
        """Wait until every fault has ended by itself."""
        self.chronicle.saw("the faults end", is_loud=True)
        await asyncio.gather(*self.under_way)


@asynccontextmanager
async def prepare(
    kubeconfig: Path, folder: Path, seed: int, *, replicas: int = 3, is_loud: bool = False
) -> AsyncIterator[Drill]:
    """Everything in its place, all replicas started."""
    chronicle = Chronicle(seed, folder / "events.log", is_loud=is_loud)
    async with AsyncExitStack() as stack:
        kube = await stack.enter_async_context(await KubeClient.connect(kubeconfig))
        testbed = Testbed(kube, f"faults-{uuid.uuid4().hex[:8]}")
        namespace = f"{testbed.namespace}-operator"
        await testbed.open()
        stack.push_async_callback(testbed.close)
        await kube.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        stack.push_async_callback(kube.delete, f"/api/v1/namespaces/{namespace}")
        kubelet = await stack.enter_async_context(Kubelet(testbed))
        observer = await stack.enter_async_context(Observer(testbed, chronicle))
        nodes = Nodes(testbed, kubelet, observer.lost)
        users = Users(testbed, kubelet, chronicle)
        await nodes.add(NODES)
        made = []
        for number in range(replicas):
            proxy = await stack.enter_async_context(Proxy(kubeconfig))
            name = f"replica-{number}"
            replica = make_replica(kubeconfig, namespace, folder, name, proxy, chronicle)
            stack.push_async_callback(asyncio.to_thread, replica.process.kill)
            replica.start()
            made.append(replica)
        tasks = [asyncio.create_task(work) for work in (nodes.live(), users.train())]
        tasks += [asyncio.create_task(replica.attend()) for replica in made]
        stack.push_async_callback(_end, tasks)
        yield Drill(
            dice=random.Random(seed),
            chronicle=chronicle,
            kube=kube,
            operator_namespace=namespace,
            nodes=nodes,
            users=users,
            judge=Judge(testbed, users, namespace),
            replicas=made,
        )


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """One that failed by itself fails the drill."""
    failed = [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in failed:
        task.result()
