"""One situation of a job, and the pieces that many of them are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.support.jobs import (
    NOW,
    admitted,
)
from trainyard.api.pods import Pod
from trainyard.api.report import Report
from trainyard.api.status import ScalingStatus
from trainyard.lifecycle.desired import Phase, Wish
from trainyard_trainer.contract import LastWords, Result

CLAIM = {"state": {"claim": "digits-state"}}
MANY = {"workers": {"min": 1, "max": 8}}
WAITING = ScalingStatus(reason="WaitingForGPUs", message="needs 4 × 1 GPU; 1 free.")
PULL: dict[str, Any] = {
    "phase": "Pending",
    "trouble": "ImagePullBackOff",
    "trouble_message": 'Back-off pulling image "trainer:1"',
}
FAILED_WORDS = LastWords(result=Result.FAILED, error="no such dataset").encode()


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What is seen of a job, and what must follow."""

    pods: tuple[Pod, ...] = ()
    spec: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    scaling: ScalingStatus = field(default_factory=admitted)
    report: Report | None = None
    now: datetime = NOW

    phase: Phase
    claims: dict[str, tuple[str, str]] = field(default_factory=dict)
    wish: Wish | None = None
    says: tuple[str, str] = ("", "")
    """A claim and words that its message holds."""
    again_at: datetime | None = None


def reported(active: int, **fields: Any) -> Report:
    return Report(at=NOW, wire=1, term=1, members={"active": active}, **fields)
