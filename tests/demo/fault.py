"""The fault that the demo injects into the federation: it kills a party's pod."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tests.demo.progress import Jobs
from trainyard.api import names
from trainyard.cluster.client import KubeClient

TARGET_PARTY = "switzerland"
AFTER_ROUNDS = 8
"""The pod is killed once that many rounds are aggregated."""


INACTIVE = ("Waiting", "Starting", "Absent")
"""States of a party that takes no part in the rounds."""


@dataclass(slots=True)
class PartyKill:
    """The loss of one party and its recovery; called with the jobs at every refresh."""

    client: KubeClient
    pods: str
    """The path of the pods' collection."""
    pod: str = ""
    """The name of the killed pod; empty before that."""
    killed_at: float = 0.0
    round: int = 0
    """The last round that was reported when the pod was killed."""
    contributed: int | None = None
    """Rounds with a contribution of the party when it was last reported inactive; None before that,
    as the aggregator's report is some seconds older than the pods."""
    recovery_seconds: float | None = None
    """Until an update of the replacement was aggregated; None before that."""

    async def __call__(self, jobs: Jobs) -> list[str]:
        """Kill the pod when it is due; returns the messages to print."""
        training, party = _training_and_party(jobs[names.FEDERATED_JOB])
        if not self.pod:
            return await self._kill(training, party)
        if self.recovery_seconds is not None:
            return []
        if party.get("state") in INACTIVE:
            self.contributed = party.get("rounds", 0)
        elif self.contributed is not None and party.get("rounds", 0) > self.contributed:
            self.recovery_seconds = seconds = time.monotonic() - self.killed_at
            return [f"[bold]{TARGET_PARTY}[/bold] contributes again after {seconds:.0f} s"]
        return []

    async def _kill(self, training: dict[str, Any], party: dict[str, Any]) -> list[str]:
        if training.get("round", 0) < AFTER_ROUNDS or not party.get("podName"):
            return []
        self.pod, self.round = party["podName"], training["round"]
        await self.client.delete(f"{self.pods}/{self.pod}", grace_seconds=0)
        self.killed_at = time.monotonic()
        return [f"[bold]{TARGET_PARTY}[/bold]'s pod is killed after round {self.round}"]


def _training_and_party(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The training and the target party in the job's status; empty before they are reported."""
    status: dict[str, Any] = job.get("status") or {}
    parties: list[dict[str, Any]] = status.get("parties") or []
    party = next((party for party in parties if party["name"] == TARGET_PARTY), {})
    return status.get("training") or {}, party
