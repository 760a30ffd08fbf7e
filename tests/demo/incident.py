"""What the demo does to the federation: it kills a party's pod, and watches it come back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tests.demo.watch import Jobs
from trainyard.api import names
from trainyard.cluster.client import KubeClient

VICTIM = "switzerland"
AFTER_ROUNDS = 8
"""The kill comes once so many rounds are folded."""


AWAY = ("Waiting", "Starting", "Absent")
"""States of a party that takes no part."""


@dataclass(slots=True)
class Incident:
    """One party's loss; asked at each look at the jobs."""

    client: KubeClient
    pods: str
    """The path of the pods' collection."""
    killed: str = ""
    """The name of the pod."""
    killed_at: float = 0.0
    round: int = 0
    """Rounds that were known to be folded when it was killed."""
    contributed: int | None = None
    """Rounds that the party had contributed to when it was last seen away; None before that, as
    the aggregator's report is some seconds older than the pods."""
    away_seconds: float | None = None
    """Until its successor was in the model; None while it is not."""

    async def __call__(self, jobs: Jobs) -> list[str]:
        """Kill the party when it is time; what there is to tell."""
        training, party = _seen(jobs[names.FEDERATED_JOB])
        if not self.killed:
            return await self._kill(training, party)
        if self.away_seconds is not None:
            return []
        if party.get("state") in AWAY:
            self.contributed = party.get("rounds", 0)
        elif self.contributed is not None and party.get("rounds", 0) > self.contributed:
            self.away_seconds = time.monotonic() - self.killed_at
            return [f"[bold]{VICTIM}[/bold] is in the model again after {self.away_seconds:.0f} s"]
        return []

    async def _kill(self, training: dict[str, Any], party: dict[str, Any]) -> list[str]:
        if training.get("round", 0) < AFTER_ROUNDS or not party.get("podName"):
            return []
        await self.client.delete(f"{self.pods}/{party['podName']}", grace_seconds=0)
        self.killed, self.killed_at, self.round = (
            party["podName"],
            time.monotonic(),
            training["round"],
        )
        return [f"[bold]{VICTIM}[/bold]'s pod is killed after round {self.round}"]


def _seen(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the status says of the training, and of the victim."""
    status: dict[str, Any] = job.get("status") or {}
    parties: list[dict[str, Any]] = status.get("parties") or []
    victim = next((party for party in parties if party["name"] == VICTIM), {})
    return status.get("training") or {}, victim
