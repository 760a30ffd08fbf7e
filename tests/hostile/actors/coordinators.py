"""Jobs whose coordinators answer as a tenant likes."""

from __future__ import annotations

import asyncio
import random
from abc import abstractmethod
from typing import ClassVar

from tests.hostile.actor import Actor
from tests.support.coordinators import PlayedCoordinator
from tests.support.waiting import eventually
from trainyard_trainer.contract.env import PATH_METRICS


class HostileCoordinators(Actor):
    """Submits jobs without GPUs whose coordinators are all `played` by the same handlers."""

    gpus = (0,)
    jobs: ClassVar[int]
    asked: ClassVar[str] = f"GET {PATH_METRICS}"
    """The request by which the attack has its effect."""

    @abstractmethod
    def play(self, rng: random.Random) -> PlayedCoordinator:
        """The coordinator of this attack."""

    async def act(self, rng: random.Random) -> None:
        """Submit the jobs, let the operator ask all coordinators for a while, and delete them."""
        coordinator = self.play(rng)
        for _ in range(self.jobs):
            name = self.new_name(self.name)
            self.played[name] = coordinator
            await self.testbed.submit(name, gpus=0)

        async def has_effect() -> None:
            asked = sum(request == self.asked for request in coordinator.requests)
            assert asked >= self.jobs, f"{asked} × {self.asked}"

        await eventually(has_effect, 60)
        await asyncio.sleep(rng.uniform(4, 10))
        self.check()
        await self.clear()

    def check(self) -> None:
        """Record what the operator must not have done; nothing by default."""
