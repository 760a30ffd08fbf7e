"""The status: valid for the API server, stable, and urgent only when more than metrics differ."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.jobs import (
    NOW,
    UID,
    admitted,
    ago,
    condition,
    coordinator,
    ending,
    failing,
    has_run,
    make_job,
    observe,
    worker,
    workers,
)
from tests.support.schemas import errors, status_schema
from trainyard.api.jobs import DistributedJob
from trainyard.api.pods import Pod
from trainyard.api.report import CoordinatorReport
from trainyard.api.status import Change, DistributedJobStatus, Measurement, ScalingStatus
from trainyard.lifecycle.stages import evaluate
from trainyard.lifecycle.status import StatusInputs, is_urgent, status_of
from trainyard_trainer.contract.exits import Result, TerminationMessage

SCHEMA = status_schema()


def written(
    job: DistributedJob,
    *pods: Pod,
    assignment: ScalingStatus | None = None,
    report: CoordinatorReport | None = None,
    after: timedelta = timedelta(),
) -> DistributedJobStatus:
    """The status that a reconcile would write."""
    observed = observe(job, *pods, assignment=assignment, report=report, now=NOW + after)
    inputs = StatusInputs(
        desired=evaluate(observed),
        pods=observed.pods,
        assignment=observed.assignment,
        report=report,
        term=observed.pods.term,
        plan_generation=2,
        now=observed.now,
    )
    status = status_of(job, inputs)
    assert isinstance(status, DistributedJobStatus)
    return status


def stored(job: DistributedJob, status: DistributedJobStatus) -> DistributedJob:
    """The job as the API server returns it."""
    text = json.dumps(msgspec.to_builtins(status), allow_nan=False)
    return replace(job, status=msgspec.convert(json.loads(text), DistributedJobStatus))


def reported(**fields: Any) -> CoordinatorReport:
    values: dict[str, Any] = {"at": NOW, "wire": 1, "term": 1, "members": {"active": 1}, **fields}
    return CoordinatorReport(**values)


def measured(workers: int, rate: float, steps: int = 50) -> Measurement:
    return Measurement(
        nodes=1, workers=workers, local_batch=64, samples_per_second=rate, steps=steps
    )


FULL = reported(
    view=2,
    step=120,
    epoch=3.25,
    samples=30720,
    loss=0.123456789,
    evaluation={"eval/accuracy": 0.97, "eval/loss": 0.1},
    profile=(measured(1, 512.345),),
    checkpoint_step=100,
)
SCALED = admitted(
    1,
    history=[Change(from_=0, to=1, reason="Admitted", decision_time=NOW, expected_speedup=1.5)],
    profile=[measured(1, 512.34)],
    cooldown_end_time=NOW,
)
CASES: dict[str, tuple[DistributedJob, tuple[Pod, ...], dict[str, Any]]] = {
    "new": (make_job(), (), {"assignment": ScalingStatus()}),
    "waiting": (
        make_job(),
        (),
        {"assignment": ScalingStatus(reason="WaitingForGPUs", message="m")},
    ),
    "starting": (make_job(), (), {}),
    "running": (make_job(), (coordinator(), worker()), {"assignment": SCALED, "report": FULL}),
    "failing": (
        make_job(),
        (coordinator(), *workers(40, **failing(termination_message="x" * 4096, reason="R" * 4000))),
        {"assignment": admitted(40), "report": FULL},
    ),
    "suspended": (
        make_job({"suspend": True}, has_run(training={"term": 1})),
        (coordinator(),),
        {},
    ),
    "complete": (
        make_job(status=has_run()),
        (coordinator(), worker(**ending(Result.COMPLETE, metrics={"eval/accuracy": 0.9}))),
        {"report": FULL},
    ),
    "failed": (make_job(), (worker(**failing(64)),), {}),
    "waiting for many kinds of nodes": (
        make_job(),
        (),
        {"assignment": ScalingStatus(reason="WaitingForGPUs", message="m" * 50_000)},
    ),
    "admitted with a long explanation": (
        make_job(),
        (coordinator(), worker()),
        {"assignment": admitted(message="m" * 50_000)},
    ),
    "refused": (make_job({"sync": {"algorithm": "Async"}}), (), {"assignment": ScalingStatus()}),
    "in trouble": (
        make_job({"image": "i" * 512}),
        (coordinator(waiting_reason="ImagePullBackOff", waiting_message="m" * 50_000),),
        {},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_api_server_accepts_the_status_and_returns_the_same(
    case: tuple[DistributedJob, tuple[Pod, ...], dict[str, Any]],
) -> None:
    job, pods, fields = case
    status = written(job, *pods, **fields)
    plain = msgspec.to_builtins(status)
    assert list(errors(SCHEMA, plain)) == []
    assert stored(job, status).status == status


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_status_that_is_written_is_not_written_again(
    case: tuple[DistributedJob, tuple[Pod, ...], dict[str, Any]],
) -> None:
    job, pods, fields = case
    first = written(job, *pods, **fields)
    second = written(stored(job, first), *pods, after=timedelta(seconds=1), **fields)
    assert second == first


NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-5, 2**70) | st.text()


@settings(deadline=None)
@given(
    metrics=st.dictionaries(st.text(max_size=9), NUMBERS, max_size=200),
    error=st.text() | st.integers() | st.none(),
)
def test_the_status_is_valid_whatever_a_termination_message_holds(
    metrics: dict[str, Any], error: Any
) -> None:
    """A task may evaluate to NaN, which no status can hold and which never equals itself."""
    message = json.dumps({"result": "Complete", "metrics": metrics, "error": error})
    job = make_job(status=has_run())
    status = written(job, coordinator(), worker(phase="Succeeded", termination_message=message))
    assert list(errors(SCHEMA, msgspec.to_builtins(status))) == []
    assert stored(job, status).status == status


def test_a_final_metric_that_is_not_finite_is_dropped_and_the_job_is_complete() -> None:
    message = '{"result": "Complete", "metrics": {"eval/loss": NaN, "eval/accuracy": 0.5}}'
    status = written(
        make_job(status=has_run()),
        coordinator(),
        worker(phase="Succeeded", termination_message=message),
    )
    assert status.phase == "Complete"
    assert status.training is not None
    assert status.training.evaluation == {"eval/accuracy": 0.5}


def test_final_metrics_beyond_the_limit_of_the_schema_are_left_out() -> None:
    metrics = {f"m{n:03}": 1.0 for n in range(100)}
    job = make_job(status=has_run())
    status = written(job, coordinator(), worker(**ending(Result.COMPLETE, metrics=metrics)))
    assert list(errors(SCHEMA, msgspec.to_builtins(status))) == []
    assert status.training is not None
    assert len(status.training.evaluation) == 64


def test_a_termination_message_is_cut_to_what_kubernetes_keeps() -> None:
    message = TerminationMessage(result=Result.FAILED, error="é" * 5000, traceback="t" * 5000)
    assert len(message.encode().encode()) <= 4096
    assert TerminationMessage.decode(message.encode()) is not None


def test_the_start_time_is_set_once() -> None:
    job = make_job()
    first = written(job, coordinator(), worker())
    assert first.start_time == NOW
    later = written(stored(job, first), coordinator(), worker(), after=timedelta(hours=1))
    assert later.start_time == NOW
    assert written(make_job(), assignment=ScalingStatus()).start_time is None


def test_the_completion_time_is_set_once() -> None:
    job = make_job(status=has_run())
    first = written(job, worker(**failing(64)))
    assert first.completion_time == NOW
    later = written(stored(job, first), worker(**failing(64)), after=timedelta(hours=1))
    assert later.completion_time == NOW


def test_the_term_never_falls() -> None:
    job = make_job(status={"term": 7})
    assert written(job, coordinator(3)).term == 7
    assert written(job, coordinator(8)).term == 8


def test_the_scale_subresource_finds_the_workers() -> None:
    status = written(make_job(), coordinator(), *workers(3), assignment=admitted(3))
    assert status.replicas == 3
    assert status.selector == "trainyard.dev/job=digits,trainyard.dev/role=worker"


def test_training_figures_are_those_of_the_report_rounded() -> None:
    training = written(make_job(), coordinator(), worker(), report=FULL).training
    assert training is not None
    assert (training.step, training.loss, training.epoch) == (120, 0.123457, 3.25)
    assert (training.samples_per_second, training.checkpoint_step) == (512.35, 100)
    assert training.report_time == NOW


def test_a_report_before_the_first_step_replaces_no_older_figures() -> None:
    job = make_job(status=has_run(training={"step": 9}))
    training = written(job, coordinator(), worker(), report=CoordinatorReport(at=NOW)).training
    assert training is not None
    assert training.step == 9


def test_a_transition_time_moves_only_when_the_status_changes() -> None:
    since = ago(hours=1)
    job = make_job(status=has_run(since))
    running = [c for c in written(job, coordinator(), worker()).conditions if c.type == "Running"]
    assert [c.last_transition_time for c in running] == [since]
    assert [c.observed_generation for c in running] == [3]
    lost = [c for c in written(job).conditions if c.type == "Running"]
    assert [(c.status, c.last_transition_time) for c in lost] == [("False", NOW)]


def test_conditions_that_are_not_set_are_kept_in_their_order() -> None:
    job = make_job(status={"conditions": [condition("Mine"), condition("StateDurable", "False")]})
    types = [c.type for c in written(job, coordinator(), worker()).conditions]
    assert types == [
        *("Accepted", "Admitted", "Running", "Rescaling", "Suspended", "StateDurable"),
        *("CoordinatorReachable", "Degraded", "Mine"),
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"report": replace(FULL, step=121)}, False, id="metrics"),
        pytest.param({"assignment": admitted(1, message="now third")}, False, id="a message"),
        pytest.param({"assignment": admitted(1, reason="Steady")}, False, id="why it stays"),
        pytest.param({"assignment": admitted(2)}, True, id="a decision"),
        pytest.param({"pods": (coordinator(),)}, True, id="a pod"),
    ],
)
def test_what_is_written_at_once(change: dict[str, Any], expected: bool) -> None:
    base: dict[str, Any] = {"assignment": admitted(), "report": FULL}
    pods = change.pop("pods", (coordinator(), worker()))
    old = written(make_job(), coordinator(), worker(), **base)
    new = written(make_job(), *pods, **{**base, **change})
    assert old != new
    assert is_urgent(old, new) is expected


def test_a_new_reason_for_waiting_is_written_at_once() -> None:
    waiting = ScalingStatus(reason="WaitingForGPUs", message="needs 1 × 1 GPU; 0 free.")
    old = written(make_job(), assignment=waiting)
    new = written(make_job(), assignment=msgspec.structs.replace(waiting, reason="NoSuchNodes"))
    assert is_urgent(old, new)


def test_the_count_of_workers_of_a_starting_job_waits_for_the_metrics() -> None:
    """One write when all run, not one for each."""
    assignment = admitted(2)
    old = written(make_job(), coordinator(), worker(phase="Pending"), assignment=assignment)
    half = written(make_job(), coordinator(), worker(), assignment=assignment)
    assert (old.phase, half.phase) == ("Starting", "Starting")
    assert half.replicas == 1
    assert not is_urgent(old, half)
    whole = written(make_job(), coordinator(), worker(), worker(1), assignment=assignment)
    assert whole.phase == "Running"
    assert is_urgent(half, whole)


def test_a_changed_count_of_workers_of_a_running_job_is_written_at_once() -> None:
    """A surplus worker has left: nothing else will change."""
    old = written(make_job(), coordinator(), worker(), worker(1), assignment=admitted(1))
    new = written(make_job(), coordinator(), worker(), assignment=admitted(1))
    assert (old.phase, new.phase) == ("Running", "Running")
    assert (old.replicas, new.replicas) == (2, 1)
    assert is_urgent(old, new)


def test_what_keeps_a_job_from_starting_is_written_at_once() -> None:
    waiting = worker(phase="Pending")
    stuck = worker(phase="Pending", waiting_reason="ImagePullBackOff")
    old = written(make_job(), coordinator(), waiting, assignment=admitted())
    assert is_urgent(old, written(make_job(), coordinator(), stuck, assignment=admitted()))


def test_a_job_that_never_reported_keeps_its_state_when_it_is_suspended() -> None:
    """Its coordinator was deleted as soon as the suspension had been written."""
    job = make_job()
    for pods in ((coordinator(), worker()), (coordinator(), worker())):
        job = stored(job, written(job, *pods))
    job = replace(job, spec=make_job({"suspend": True}).spec)
    for _ in range(3):
        assert evaluate(observe(job, coordinator())).pods.coordinator
        job = stored(job, written(job, coordinator()))
    job = replace(job, spec=make_job().spec)
    for _ in range(3):
        assert evaluate(observe(job, coordinator(), assignment=ScalingStatus())).pods.coordinator
        job = stored(job, written(job, coordinator(), assignment=ScalingStatus()))


def test_pods_of_an_earlier_job_of_the_name_are_not_counted() -> None:
    other = worker(0, owner_uid=f"not {UID}")
    assert written(make_job(), other).replicas == 0
