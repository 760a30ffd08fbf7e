"""The coordinator's metrics, as the operator parses them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from tests.support.jobs import NOW
from trainyard.api.status import Measurement, SampleTimes
from trainyard.cluster.scrape import parse_report
from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.coordinator.members import MembershipService
from trainyard_trainer.coordinator.metrics import CoordinatorMetrics
from trainyard_trainer.coordinator.progress import Progress
from trainyard_trainer.membership.messages import ConfigurationThroughput, ProgressReport
from trainyard_trainer.membership.views import View, ViewId


def throughput(workers: int, **spread: float) -> ConfigurationThroughput:
    return ConfigurationThroughput(
        nodes=1,
        workers=workers,
        local_batch=64,
        steps=40,
        samples_per_second=500.0,
        compute_seconds=0.1,
        communication_seconds=0.01,
        **spread,  # type: ignore[arg-type]
    )


def measurement(workers: int, times: SampleTimes | None) -> Measurement:
    return Measurement(
        nodes=1,
        workers=workers,
        local_batch=64,
        samples_per_second=500.0,
        steps=40,
        sample_times=times,
    )


async def test_the_usual_step_is_the_median_of_recent_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    progress = Progress()
    for step, now in ((40, 100.0), (44, 102.0), (45, 102.5), (46, 302.5), (50, 304.5)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        progress.record(ProgressReport(step=step))
    assert progress.usual_step_seconds == 0.5  # neither the steps before the first nor the pause
    config = JobConfig(task="digits:Digits", batch_size=64, epochs=1)
    text = CoordinatorMetrics(MembershipService(config, 1, progress)).render().decode()
    report = parse_report(text, NOW)
    assert report.usual_step_seconds == 0.5
    assert report.last_step_at == datetime.fromtimestamp(304.5, UTC)


async def test_the_operator_parses_what_the_workers_measured() -> None:
    progress = Progress()
    spread = {"blocks": 12, "sample_seconds": 0.002, "sample_seconds_deviation": 0.0001}
    report = ProgressReport(throughput=[throughput(1), throughput(2, **spread)])
    progress.record(report)
    config = JobConfig(task="digits:Digits", batch_size=64, epochs=1)
    text = CoordinatorMetrics(MembershipService(config, 1, progress)).render().decode()
    assert parse_report(text, NOW).profile == (
        measurement(1, None),
        measurement(2, SampleTimes(blocks=12, mean=0.002, deviation=0.0001)),
    )


async def test_after_a_rollback_the_next_report_counts() -> None:
    progress = Progress()
    progress.record(ProgressReport(step=500, loss=0.1))
    view = View(id=ViewId(term=1, number=2), members=(), source="a", transfer=True, initial=True)
    progress.view_entered(view)
    before = progress.last_step_at
    progress.record(ProgressReport(step=20, loss=0.4))
    assert (progress.report.step, progress.report.loss) == (20, 0.4)
    assert progress.last_step_at is not None
    assert progress.last_step_at >= (before or 0.0)
