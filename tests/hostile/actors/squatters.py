"""Jobs that are admitted to all GPUs and cannot start."""

from __future__ import annotations

import asyncio
import random

from tests.hostile.actor import Actor
from tests.support.testbed import phase

GPUS = 8
NOWHERE = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "nobody.example/has", "operator": "Exists"}]}
            ]
        }
    }
}


class Squatters(Actor):
    """Submits two jobs whose minimum is all GPUs, with an affinity that no node satisfies."""

    name = "squatters"
    gpus = (GPUS // 2, GPUS // 2)

    async def act(self, rng: random.Random) -> None:
        """Submit both, leave them for a while and delete them."""
        for _ in range(2):
            name = await self.submit("squatter", GPUS, template={"affinity": NOWHERE})
            await self.testbed.wait_for(name, phase, "seen by the operator")
        await asyncio.sleep(rng.uniform(5, 12))
        await self.clear()
