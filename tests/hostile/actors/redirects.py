"""Coordinators that redirect the operator to a service of somebody else."""

from __future__ import annotations

import contextlib
import random

from tests.hostile.actors.coordinators import HostileCoordinators
from tests.support.coordinators import PlayedCoordinator, constant
from tests.support.process import free_port


class Redirects(HostileCoordinators):
    """Redirects every request to a canary on the loopback interface, with cookies."""

    name = "redirects"
    jobs = 4

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Start the canary."""
        await super().open(stack)
        self._canary, self._port = PlayedCoordinator(), free_port()
        await stack.enter_async_context(self._canary.serving("127.0.0.1", self._port, None))

    def play(self, rng: random.Random) -> PlayedCoordinator:
        """Metrics and Plans are redirected alike."""
        location = f"http://127.0.0.1:{self._port}/metrics"
        headers = {"Location": location, "Set-Cookie": "a=b; Path=/"}
        redirect = constant(b"", rng.choice([302, 307, 308]), headers)
        return PlayedCoordinator(redirect, redirect)

    def check(self) -> None:
        """Nothing may follow a redirect."""
        if self._canary.requests:
            self.surroundings.history.record_violation(
                f"the operator followed a redirect: {self._canary.requests[:5]}"
            )
