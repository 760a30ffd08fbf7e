"""Snapshots that were requested and do not arrive."""

import pytest

from trainyard_trainer.coordinator.progress import Progress
from trainyard_trainer.coordinator.uploads import LATE_SECONDS, UploadMonitor
from trainyard_trainer.membership.messages import ProgressReport


@pytest.mark.parametrize(
    ("seconds", "report", "arrives", "failures"),
    [
        pytest.param(LATE_SECONDS, ProgressReport(step=9), False, 1, id="late"),
        pytest.param(LATE_SECONDS - 1.0, ProgressReport(step=9), False, 0, id="not late yet"),
        pytest.param(LATE_SECONDS, ProgressReport(step=5), False, 0, id="no step since"),
        pytest.param(LATE_SECONDS, ProgressReport(step=9), True, 0, id="arriving"),
        pytest.param(
            LATE_SECONDS, ProgressReport(step=9, non_finite_steps=1), False, 0, id="not finite"
        ),
    ],
)
def test_a_requested_snapshot_that_does_not_arrive_is_counted_once(
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    report: ProgressReport,
    arrives: bool,
    failures: int,
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = Progress(report=ProgressReport(step=5))
    monitor = UploadMonitor(progress, lambda _: None)
    monitor.requested()
    now += seconds
    progress.record(report)
    if arrives:
        with monitor.counted("snapshot"):
            monitor.check_requested()
    for _ in range(2):
        monitor.check_requested()
    assert progress.failed_writes == failures
