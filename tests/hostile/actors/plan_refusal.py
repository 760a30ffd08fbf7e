"""Coordinators that refuse every Plan."""

from __future__ import annotations

import json
import random

from tests.hostile.actors.coordinators import HostileCoordinators
from tests.support.coordinators import PlayedCoordinator, constant
from trainyard_trainer.contract.env import PATH_PLAN


class PlanRefusal(HostileCoordinators):
    """Answers Plans with errors whose text is odd, and metrics honestly."""

    name = "plan-refusal"
    jobs = 4
    asked = f"PUT {PATH_PLAN}"

    def play(self, rng: random.Random) -> PlayedCoordinator:
        """The text is a terminal's escape sequence, a lone surrogate, or no JSON at all."""
        texts = ("no\n\x1b[2J", "\ud800", "<" * 4_096)
        bodies = [*(json.dumps({"error": text}).encode() for text in texts), b"\xff\xfe"]
        return PlayedCoordinator(plan=constant(rng.choice(bodies), rng.choice([400, 409, 500])))
