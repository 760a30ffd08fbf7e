"""The checks of `tests/hostile` on objects and times that are wrong, and on right ones."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from tests.faults.history import History
from tests.hostile.control import Control
from tests.hostile.honest import StartTimes
from tests.hostile.monitors import JobMonitor, PodGuard
from tests.support.manifests import Object
from tests.support.testbed import Testbed
from trainyard.cluster.client import KubeClient

TESTBED = Testbed(cast("KubeClient", None), "honest")


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(1, tmp_path / "events.log")


def job(phase: str) -> Object:
    return {"metadata": {"name": "digits", "uid": "1"}, "status": {"phase": phase}}


def pod(phase: str, **meta: object) -> Object:
    owner = {"uid": "1"}
    return {
        "metadata": {"name": "digits-worker-0-1", "ownerReferences": [owner], **meta},
        "status": {"phase": phase},
    }


@pytest.mark.parametrize(
    ("phases", "is_violation"),
    [
        (["Pending", "Starting", "Running"], False),
        (["Waiting", "Running", "Running"], False),
        (["Running", "Starting"], True),
        (["Running", "Rescaling"], True),
        (["Failed"], True),
        (["Running", "Complete"], True),
    ],
)
def test_the_phases_of_an_honest_job_only_rise(
    history: History, phases: list[str], is_violation: bool
) -> None:
    monitor = JobMonitor(TESTBED, history)
    for phase in phases:
        monitor.observe("MODIFIED", job(phase))
    assert bool(history.violations) == is_violation


def test_a_job_whose_training_has_ended_may_be_complete(history: History) -> None:
    monitor = JobMonitor(TESTBED, history)
    monitor.finishing.add("1")
    for phase in ("Running", "Complete"):
        monitor.observe("MODIFIED", job(phase))
    assert not history.violations


@pytest.mark.parametrize(
    ("kind", "event", "is_violation"),
    [
        ("MODIFIED", pod("Running"), False),
        ("MODIFIED", pod("Failed"), True),
        ("MODIFIED", pod("Running", deletionTimestamp="2026-07-01T12:00:00Z"), True),
        ("DELETED", pod("Running"), True),
    ],
)
async def test_pods_of_a_job_that_trains_neither_end_nor_go(
    history: History, kind: str, event: Object, is_violation: bool
) -> None:
    await PodGuard(TESTBED, history, finishing=set()).handle(kind, event)
    assert bool(history.violations) == is_violation
    history.violations.clear()
    await PodGuard(TESTBED, history, finishing={"1"}).handle(kind, event)
    assert not history.violations


class FixedControl(Control):
    """Bare pods that are so many seconds slower than in the calm."""

    def __init__(self, seconds: float) -> None:
        super().__init__(TESTBED)
        self._seconds = seconds

    def end_calm(self) -> None:
        """Nothing was measured."""

    def delay(self, began: float, ended: float) -> float:  # noqa: ARG002 - of each the same
        """Always the same."""
        return self._seconds


@pytest.mark.parametrize(
    ("seconds", "bare", "cpu_wait", "is_violation"),
    [
        (4.9, 0.0, 0.0, False),
        (5.1, 0.0, 0.0, True),
        (7.9, 3.0, 0.0, False),
        (7.9, 0.0, 3.0, False),
        (9.9, 2.0, 3.0, False),
        (9.5, 2.0, 2.0, True),
        (10.1, 9.0, 9.0, True),
    ],
)
async def test_a_start_takes_five_calm_medians_at_most_and_ten_seconds(
    history: History, seconds: float, bare: float, cpu_wait: float, is_violation: bool
) -> None:
    waited = 0.0
    starts = StartTimes(history, FixedControl(bare), lambda: waited)
    now = starts.now()
    for calm in (0.5, 1.0, 1.5):
        starts.record("calm", now._replace(time=now.time - calm))
    starts.end_calm()
    waited = cpu_wait
    starts.record("digits", now._replace(time=starts.now().time - seconds))
    assert bool(history.violations) == is_violation
