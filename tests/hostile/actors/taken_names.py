"""Objects with the names that the operator needs for a job's children."""

from __future__ import annotations

import asyncio
import random

from tests.hostile.actor import Actor
from tests.support import manifests
from tests.support.testbed import phase
from trainyard.api import names

SERVICE = "trainyard"


class TakenNames(Actor):
    """Creates the Service, the Secret and the coordinator's pod before the job."""

    name = "taken-names"
    gpus = (0,)

    async def act(self, rng: random.Random) -> None:
        """Create the objects, submit the job, leave it for some seconds and delete all."""
        job = self.new_name("druid")
        secret, pod = names.leaf_secret_name(job), names.coordinator_name(job, 1)
        service = {"selector": {"app": "druid"}, "ports": [{"port": 8081}]}
        await self.testbed.create("services", {"metadata": {"name": SERVICE}, "spec": service})
        data = {"ca.crt": "bm8=", "coordinator.key": ""}
        await self.testbed.create("secrets", {"metadata": {"name": secret}, "data": data})
        foreign = manifests.foreign_pod(pod, self.testbed.namespace, 0, "nowhere")
        await self.testbed.create("pods", foreign)
        await self.testbed.submit(job, 2, gpus=0)
        await self.testbed.wait_for(job, phase, "seen by the operator")
        await asyncio.sleep(rng.uniform(3, 8))
        await self.clear()
        for plural, name in (("services", SERVICE), ("secrets", secret), ("pods", pod)):
            await self.client.delete(self.testbed.path(plural, name), grace_seconds=0)
