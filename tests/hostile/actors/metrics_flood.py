"""Coordinators that flood the operator with metrics."""

from __future__ import annotations

import random

from tests.hostile.actors.coordinators import HostileCoordinators
from tests.support.coordinators import PlayedCoordinator, bomb, constant
from trainyard.cluster.coordinator import MAX_ANSWER_BYTES


class MetricsFlood(HostileCoordinators):
    """Answers with as many tiny families as an answer may hold."""

    name = "metrics-flood"
    jobs = 16

    def play(self, rng: random.Random) -> PlayedCoordinator:
        """All of them answer the same."""
        size = rng.randint(MAX_ANSWER_BYTES // 2, MAX_ANSWER_BYTES)
        return PlayedCoordinator(constant(bomb(size)))
