"""Pods that end because a disk is full."""

from __future__ import annotations

import random

from tests.hostile.actor import MANY_RESTARTS, Actor
from tests.support.waiting import eventually
from trainyard_trainer.contract.exits import Exit, Result, TerminationMessage

ENDS = 3
MESSAGE = TerminationMessage(
    result=Result.FAILED, error="/state: [Errno 28] No space left on device: '/state/\x1b]0;'"
)


class FullDisk(Actor):
    """Ends all pods of a job as trainers end whose state directory cannot be written.

    Nothing else of a disk reaches the operator; what a trainer does on one needs real trainers.
    """

    name = "full-disk"
    gpus = (4,)

    async def act(self, rng: random.Random) -> None:
        """Start a job and end all its pods, a few times."""
        name = await self.submit("full", rng.randint(1, 4), failure=MANY_RESTARTS)

        async def ended() -> None:
            assert await self.end_all(name, Exit.STATE_UNUSABLE, message=MESSAGE), "no pod runs"

        for _ in range(rng.randint(1, ENDS)):
            await eventually(ended, 60)
        await self.clear()
