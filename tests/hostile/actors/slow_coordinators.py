"""Coordinators that answer slowly, or never to the end."""

from __future__ import annotations

import asyncio
import contextlib
import random

from aiohttp import web

from tests.hostile.actors.coordinators import HostileCoordinators
from tests.support.coordinators import HONEST, PlayedCoordinator

PIECES = 20


class SlowCoordinators(HostileCoordinators):
    """Sends its metrics in small pieces over many seconds."""

    name = "slow-coordinators"
    jobs = 12

    def play(self, rng: random.Random) -> PlayedCoordinator:
        """Some finish within the operator's timeout of 10 s and some do not."""

        async def drip(request: web.Request) -> web.StreamResponse:
            seconds = rng.choice([4.0, 9.0, 60.0])
            response = web.StreamResponse()
            response.content_length = len(HONEST)
            await response.prepare(request)
            size = -(-len(HONEST) // PIECES)
            with contextlib.suppress(ConnectionError):  # the operator waits no longer
                for start in range(0, len(HONEST), size):
                    await asyncio.sleep(seconds / PIECES)
                    await response.write(HONEST[start : start + size])
            return response

        return PlayedCoordinator(drip)
