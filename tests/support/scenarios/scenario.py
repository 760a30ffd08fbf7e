"""The class of a scenario, and values that many scenarios share."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.support.jobs import NOW, admitted
from trainyard.api.pods import Pod
from trainyard.api.report import CoordinatorReport
from trainyard.api.status import ScalingStatus
from trainyard.lifecycle.desired import DesiredPods, Phase
from trainyard_trainer.contract.exits import Result, TerminationMessage

WITH_CLAIM = {"state": {"claimName": "digits-state"}}
UP_TO_EIGHT_WORKERS = {"workers": {"min": 1, "max": 8}}
WAITING_FOR_GPUS = ScalingStatus(reason="WaitingForGPUs", message="needs 4 × 1 GPU; 1 free.")
IMAGE_PULL_BACKOFF: dict[str, Any] = {
    "phase": "Pending",
    "waiting_reason": "ImagePullBackOff",
    "waiting_message": 'Back-off pulling image "trainer:1"',
}
NO_SUCH_IMAGE: dict[str, Any] = {
    "phase": "Pending",
    "waiting_reason": "ErrImagePull",
    "waiting_message": "docker.io/library/trainer:1: not found",
}
NO_SUCH_CONFIG_MAP: dict[str, Any] = {
    "waiting_reason": "FailedMount",
    "waiting_message": (
        'MountVolume.SetUp failed for volume "settings" : configmap "settings" not found'
    ),
}
FAILED_MESSAGE = TerminationMessage(result=Result.FAILED, error="no such dataset").encode()


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """An observation of a job, and the expected desired state."""

    pods: tuple[Pod, ...] = ()
    spec: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    assignment: ScalingStatus = field(default_factory=admitted)
    report: CoordinatorReport | None = None
    now: datetime = NOW

    phase: Phase
    conditions: dict[str, tuple[str, str]] = field(default_factory=dict)
    desired_pods: DesiredPods | None = None
    message: tuple[str, str] = ("", "")
    """The type of a condition and a part of its message."""
    requeue_at: datetime | None = None


def reported(active: int, **fields: Any) -> CoordinatorReport:
    """A coordinator's report with so many active workers."""
    return CoordinatorReport(at=NOW, wire=1, term=1, members={"active": active}, **fields)
