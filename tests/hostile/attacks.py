"""The schedule of attacks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from tests.faults.fault_injector import WeightedBag
from tests.faults.history import History
from tests.hostile.actor import Actor

STEP_SECONDS = (1.5, 5.0)
ATTACK_SECONDS = 120.0
"""None takes that long, however busy the machine is."""


class Attacks:
    """Lets actors drawn from a seed act, several of them at a time."""

    def __init__(self, rng: random.Random, history: History, actors: Sequence[Actor]) -> None:
        self._rng, self._history = rng, history
        self._actors = {actor.name: actor for actor in actors}
        self._bag = WeightedBag(dict.fromkeys(self._actors, 1))
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self, seconds: float) -> None:
        """Begin attacks for that long, unless something is violated; wait for those begun."""
        async with asyncio.TaskGroup() as attacks:
            end = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < end and not self._history.violations:
                self._step(attacks)
                await asyncio.sleep(self._rng.uniform(*STEP_SECONDS))

    def _step(self, attacks: asyncio.TaskGroup) -> None:
        """Let the next actor act, unless it still does."""
        name, rng = self._bag.choose(self._rng), random.Random(self._rng.random())
        if name not in self._tasks or self._tasks[name].done():
            self._tasks[name] = attacks.create_task(self._attack(self._actors[name], rng))

    async def _attack(self, actor: Actor, rng: random.Random) -> None:
        self._history.log(f"{actor.name} begins", prints=True)
        try:
            async with asyncio.timeout(ATTACK_SECONDS):
                await actor.act(rng)
        except Exception as error:
            self._history.log(f"{actor.name} fails to attack: {error!r}", prints=True)
            raise
        # Counted only now: an attack that had no effect raises.
        self._history.record(actor.name)
