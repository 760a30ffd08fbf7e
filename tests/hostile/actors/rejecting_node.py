"""A node that does not take the pods that are bound to it."""

from __future__ import annotations

import contextlib
import random

from tests.hostile.actor import MANY_RESTARTS, Actor
from tests.support.manifests import Object
from tests.support.waiting import eventually
from trainyard.cluster.errors import ApiError

REASONS = ("UnexpectedAdmissionError", "OutOfcpu", "OutOfnvidia.com/gpu", "NodeAffinity")
LOST = "ContainerStatusUnknown"


class RejectingNode(Actor):
    """Refuses pods as a kubelet does whose devices are not back, or forgets their containers."""

    name = "rejecting-node"
    gpus = (4,)

    async def act(self, rng: random.Random) -> None:
        """Reject the first pods of a job, forget the next ones, and let it run."""
        self.kubelet.starts = False
        name = await self.submit("rejected", 4, failure=MANY_RESTARTS)
        for pod in await eventually(lambda: self._bound(name), 60):
            with contextlib.suppress(ApiError):  # the operator was faster
                await self.kubelet.reject(pod, rng.choice(REASONS), "Pod was rejected: \x1b[31mno")
        self.kubelet.starts = True
        await self.kubelet.sync_all()
        for pod in await eventually(lambda: self._started(name), 60):
            with contextlib.suppress(ApiError):
                await self.kubelet.end(pod, 137, reason=LOST)
        await self.clear()

    async def _bound(self, name: str) -> list[Object]:
        pods = [p for p in await self.testbed.pods(name) if p["spec"].get("nodeName")]
        assert pods, "no pod is bound"
        return pods

    async def _started(self, name: str) -> list[Object]:
        pods = await self.running(name)
        assert pods, "no pod runs"
        return pods
