"""A pod whose events are lines of six megabytes."""

from __future__ import annotations

import asyncio
import random

from tests.hostile.actor import Actor
from tests.support import manifests

ANNOTATIONS = 4


class BigPod(Actor):
    """Creates a Pending pod of a megabyte of `<`, each of which JSON escapes to six bytes."""

    name = "big-pod"

    async def act(self, rng: random.Random) -> None:
        """Create the pod, change it a few times and delete it: each is an event."""
        pod = manifests.foreign_pod("big", self.testbed.namespace, 1, "nowhere")
        pod["spec"]["containers"][0]["env"] = [{"name": "A", "value": "<" * 1_000_000}]
        pod["spec"]["schedulerName"] = "nobody"
        await self.testbed.create("pods", pod)
        path = self.testbed.path("pods", "big")
        for number in range(ANNOTATIONS):
            await asyncio.sleep(rng.uniform(0.5, 2))
            await self.testbed.patch(path, {"metadata": {"annotations": {"n": str(number)}}})
        await self.client.delete(path, grace_seconds=0)
