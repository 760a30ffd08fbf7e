"""Thousands of workers that a quota refuses."""

from __future__ import annotations

import asyncio
import contextlib
import random

from tests.hostile.actor import Actor
from tests.support.testbed import condition
from tests.support.waiting import eventually

MAX_WORKERS = 4_000
CAPACITY = {"cpu": str(4 * MAX_WORKERS), "memory": "64Ti", "pods": str(4 * MAX_WORKERS)}


class FullQuota(Actor):
    """Submits jobs with a thousand CPU workers each in a namespace whose quota is full."""

    name = "full-quota"
    gpus = (0,)

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Let the node hold all pods, create the quota and wait until it is in force."""
        await super().open(stack)
        [node] = self.testbed.unattended_nodes
        status = {"capacity": CAPACITY, "allocatable": CAPACITY}
        await self.testbed.patch(f"/api/v1/nodes/{node}/status", {"status": status})
        quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
        await self.testbed.create("resourcequotas", quota)

        async def in_force() -> None:
            found = await self.client.get(self.testbed.path("resourcequotas", "none"))
            assert found.get("status", {}).get("hard"), "the quota's controller has not synced it"

        await eventually(in_force)

    async def act(self, rng: random.Random) -> None:
        """Submit the jobs, change them meanwhile, and delete them."""
        names = []
        for _ in range(3):
            workers, training = rng.randint(1_000, MAX_WORKERS), {"batchSize": MAX_WORKERS}
            names.append(await self.submit("large", workers, gpus=0, training=training))
        for name in names:
            await self.testbed.wait_for(
                name,
                lambda job: condition(job, "Degraded")["reason"] == "ChildRefused",
                "refused by the quota",
            )
            await self.testbed.update_spec(name, failure={"maxRestarts": rng.randint(1, 99)})
        await asyncio.sleep(rng.uniform(2, 6))
        await self.clear()
