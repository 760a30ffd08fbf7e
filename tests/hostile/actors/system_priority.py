"""Jobs with the priority of the cluster's own components."""

from __future__ import annotations

import asyncio
import random

from tests.hostile.actor import Actor
from tests.support.testbed import phase

GPUS = 4


class SystemPriority(Actor):
    """Submits jobs of all GPUs with Kubernetes' highest priority class."""

    name = "system-priority"
    gpus = (GPUS,)

    async def act(self, rng: random.Random) -> None:
        """Submit one after the other, leave them for some seconds and delete them."""
        for _ in range(3):
            name = await self.submit("urgent", GPUS, priorityClassName="system-node-critical")
            await self.testbed.wait_for(name, phase, "seen by the operator")
        await asyncio.sleep(rng.uniform(3, 8))
        await self.clear()
