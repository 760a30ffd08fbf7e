"""A job whose checkpoints cannot be stored is Degraded, and trains on."""

from __future__ import annotations

import pytest

from tests.support.jobs import NOW, condition_of, conditions_of, has_run, make_job, observe, worker
from tests.support.jobs import coordinator as make_coordinator
from tests.support.scenarios.scenario import reported
from trainyard.api.report import Contact
from trainyard.cluster.scrape import parse_report
from trainyard.lifecycle.stages import evaluate
from trainyard_trainer.contract.metrics import Metric


@pytest.mark.parametrize(
    ("failures", "checkpoint_step", "start"), [(1, -1, "the beginning"), (3, 40, "step 40")]
)
def test_failed_writes_since_the_last_stored_state_are_in_degraded(
    failures: int, checkpoint_step: int, start: str
) -> None:
    pods = (make_coordinator(), worker())
    contact = Contact(pod_uid=pods[0].uid, has_answered=True)

    def degraded(failed: int) -> tuple[str, str]:
        report = reported(
            1,
            step=50,
            last_step_at=NOW,
            checkpoint_step=checkpoint_step,
            consecutive_failed_writes=failed,
        )
        desired = evaluate(
            observe(make_job(status=has_run()), *pods, report=report, contact=contact)
        )
        assert not desired.pods.replace_coordinator
        message = condition_of(desired, "Degraded").message
        assert (f"The last {failed} attempts" in message) == bool(failed)
        assert (f"the job starts from {start}" in message) == bool(failed)
        return conditions_of(desired)["Degraded"]

    assert degraded(failures) == ("True", "StateNotStored")
    assert degraded(0) == ("False", "Healthy")


def test_the_number_is_read_from_the_metrics() -> None:
    name = Metric.CONSECUTIVE_FAILED_WRITES
    text = f"# TYPE {name} gauge\n{name} 3\n# EOF\n"
    assert parse_report(text, NOW).consecutive_failed_writes == 3
