"""Nodes that go under the pods of a job, and come back."""

from __future__ import annotations

import asyncio
import contextlib
import random

from tests.faults.nodes import Nodes
from tests.hostile.actor import MANY_RESTARTS, Actor

NODES = 2
FAULTS = 2


class FailingNodes(Actor):
    """Disconnects and removes the nodes of a running job."""

    name = "failing-nodes"

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Add the nodes and start their kubelet."""
        await super().open(stack)
        await stack.enter_async_context(self.kubelet)
        self._nodes = Nodes(self.testbed, self.kubelet, lambda _: None)
        await self._nodes.add(NODES)

    async def act(self, rng: random.Random) -> None:
        """Start a job on both nodes, let each go and come back, and delete the job."""
        name = await self.submit("unlucky", 12, minimum=1, maximum=12, failure=MANY_RESTARTS)
        await self.testbed.wait_for_phase(name, "Running")
        for _ in range(FAULTS):
            fault = rng.choice([self._nodes.disconnect, self._nodes.remove])
            node = rng.choice(self._nodes.healthy)
            await fault(node)
            await asyncio.sleep(rng.uniform(2, 5))
            await self._nodes.restore(node)
        await self.clear()
