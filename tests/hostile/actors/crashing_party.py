"""A party of a federation that fails again and again."""

from __future__ import annotations

import asyncio
import contextlib
import random

from tests.hostile.actor import MANY_RESTARTS, Actor
from tests.support.manifests import Object
from tests.support.testbed import phase
from trainyard.api.names import FEDERATED_JOB
from trainyard.cluster.errors import ApiError
from trainyard_trainer.contract.exits import Exit

PARTIES: list[Object] = [{"name": name} for name in ("ann", "bob", "cid")]
CRASHES = 4
OOM_KILLED = 137


class CrashingParty(Actor):
    """Refuses its task or exceeds its memory, as often as it is started."""

    name = "crashing-party"
    gpus = (0,)

    async def act(self, rng: random.Random) -> None:
        """Start a federation and let one party fail, until it is left out or that was often enough.

        What becomes of the federation itself is not this test's to say.
        """
        name = self.register(f"heart-{rng.randrange(2**31)}", FEDERATED_JOB)
        await self.testbed.federate(name, PARTIES, rounds={"minParties": 2}, failure=MANY_RESTARTS)
        await self.testbed.wait_for_phase(name, "Running")
        crashes = 0
        async with asyncio.timeout(45):
            while crashes < CRASHES and not _is_over(await self.testbed.get(name)):
                crashes += await self._crash(name, rng)
                await asyncio.sleep(0.3)
        assert crashes, "the party never ran"
        await self.clear()

    async def _crash(self, name: str, rng: random.Random) -> int:
        code, reason = rng.choice([(Exit.TASK_INVALID, "Error"), (OOM_KILLED, "OOMKilled")])
        crashes = 0
        for pod in await self.running(name, "party"):
            if pod["metadata"]["labels"]["trainyard.dev/party"] == "bob":
                with contextlib.suppress(ApiError):  # the operator was faster
                    await self.kubelet.end(pod, code, reason=reason)
                    crashes += 1
        return crashes


def _is_over(job: Object) -> bool:
    """Whether the party is not tried again soon, or the job not at all."""
    failures = [party.get("failure", {}) for party in job["status"].get("parties", [])]
    return phase(job) == "Failed" or any(failure.get("leftOut") for failure in failures)
