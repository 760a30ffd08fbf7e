"""The messages of conditions and failures, where they are more than one fixed sentence."""

from __future__ import annotations

import pytest

from tests.support.jobs import condition_of, coordinator, failing, make_job, observe, worker
from trainyard.api.pods import Pod
from trainyard.lifecycle import messages
from trainyard.lifecycle.stages import evaluate
from trainyard_trainer.contract.exits import Result, TerminationMessage


def failed_with(error: str) -> str:
    return TerminationMessage(result=Result.FAILED, error=error).encode()


@pytest.mark.parametrize(
    ("pod", "message"),
    [
        pytest.param(
            worker(2, **failing(137, reason="OOMKilled")),
            "worker 2 (pod digits-worker-2-1) was killed for exceeding its memory limit "
            "(OOMKilled, exit code 137): raise spec.workers.resources.limits.memory or lower "
            "training.batchSize.",
            id="worker out of memory",
        ),
        pytest.param(
            coordinator(3, **failing(137, reason="OOMKilled")),
            "coordinator (pod digits-coordinator-3) was killed for exceeding its memory limit "
            "(OOMKilled, exit code 137): raise spec.coordinator.resources.limits.memory or lower "
            "training.batchSize.",
            id="coordinator out of memory",
        ),
        pytest.param(
            worker(**failing(termination_message=failed_with("batch has no labels"))),
            "worker 0 (pod digits-worker-0-1) failed with exit code 1: batch has no labels",
            id="termination message",
        ),
        pytest.param(
            worker(**failing(termination_message="Segmentation fault\n")),
            "worker 0 (pod digits-worker-0-1) failed with exit code 1: Segmentation fault",
            id="a log's tail",
        ),
        pytest.param(
            worker(**failing()),
            "worker 0 (pod digits-worker-0-1) failed with exit code 1 (no termination message)",
            id="no termination message",
        ),
        pytest.param(
            worker(**failing(exit_code=None, reason="OutOfcpu")),
            "worker 0 (pod digits-worker-0-1) failed without an exit code (OutOfcpu, no "
            "termination message)",
            id="never ran",
        ),
        pytest.param(
            worker(**failing(is_disrupted=True, reason="Evicted")),
            "worker 0 (pod digits-worker-0-1) was ended by the cluster (Evicted).",
            id="evicted",
        ),
    ],
)
def test_a_failure_names_the_pod_the_cause_and_what_helps(pod: Pod, message: str) -> None:
    assert messages.pod_failure(pod) == message


def test_the_last_failure_is_named_when_there_were_too_many() -> None:
    job = make_job({"failure": {"maxRestarts": 0}})
    pod = worker(**failing(termination_message=failed_with("the loss is NaN")))
    message = condition_of(evaluate(observe(job, pod)), "Failed").message
    assert "spec.failure.maxRestarts=0" in message
    assert "the loss is NaN" in message


def test_missing_parties_are_named_up_to_a_number() -> None:
    names = [f"p{n:02}" for n in range(12)]
    assert messages.parties_missing(names, "No node takes p00.") == (
        "12 parties are missing: p00, p01, p02, p03, p04, p05, p06, p07, p08, p09, …; rounds "
        "continue with the others. No node takes p00."
    )
