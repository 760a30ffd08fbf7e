"""Jobs that are small in etcd and large in memory, or deeper than decoders go."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

from tests.hostile.actor import Actor
from tests.support.raw import create_raw, nested

NUMBERS = 118_000
"""1.3 megabytes of JSON."""
DEPTHS = (400, 5_000)
MAX_SECONDS = 20.0


class FatJobs(Actor):
    """Submits suspended jobs with megabytes of arguments, and some nested too deep."""

    name = "fat-jobs"

    async def act(self, rng: random.Random) -> None:
        """Submit the jobs, leave them for some seconds and delete them."""
        empty_lists: list[list[object]] = [[] for _ in range(NUMBERS * 3)]
        with contextlib.suppress(TimeoutError):  # the API server needs a second for each, perhaps
            async with asyncio.timeout(MAX_SECONDS):
                for _ in range(rng.randint(20, 30)):
                    await self._create(rng.choice([[0.12345678] * NUMBERS, empty_lists]))
        for depth in DEPTHS:
            await self._create(nested(depth))
        await asyncio.sleep(rng.uniform(2, 6))
        await self.clear()

    async def _create(self, argument: Any) -> None:
        job = self.testbed.job_manifest(self.new_name("fat"), gpus=0, suspend=True)
        job["spec"]["task"]["args"] = {"a": argument}
        await create_raw(self.testbed, job)
