"""Termination messages that no trainer writes."""

from __future__ import annotations

import random

from tests.hostile.actor import MANY_RESTARTS, Actor
from trainyard_trainer.contract.env import TERMINATION_BYTES

MESSAGES = (
    r'{"result": "Failed", "error": "\ud800\udfff \ud800"}',
    '{"result": "Failed", "error": "\\u001b[2J\\u0000\\u202e", "traceback": "\\r\\n\\u0085"}',
    "\x00\x1b[31m\u202e\n\r\x7f",
    "<" * TERMINATION_BYTES,
    '{"result": "Failed", "error": "' + '\\"' * 2_000 + '"}',
    "[" * TERMINATION_BYTES,
    '{"result": "Complete", "step": 1e999, "metrics": {"a": NaN, "\\ud800": -Infinity}}',
    '{"result": "Failed", "step": -99999999999999999999999, "samples": 1e308}',
)


class OddMessages(Actor):
    """Lets pods fail with surrogates, control characters and 4 KiB of text."""

    name = "odd-messages"
    gpus = (4,)

    async def act(self, rng: random.Random) -> None:
        """Start a job, let all its pods fail with odd messages and wait for the status."""
        name = await self.submit("odd", 4, failure=MANY_RESTARTS)
        await self.testbed.wait_for_phase(name, "Running")
        for pod in await self.running(name):
            await self.kubelet.end(pod, rng.choice([1, 70, 255]), message=rng.choice(MESSAGES))
        await self.testbed.wait_for(
            name, lambda job: job["status"].get("failures"), "its failures in the status"
        )
        await self.clear()
