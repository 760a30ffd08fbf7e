"""Failures: each is recorded once, those of one cause count once, and retries back off."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tests.support.jobs import (
    NOW,
    TIMEOUTS,
    ago,
    at,
    coordinator,
    ending,
    failing,
    has_run,
    job_pods,
    make_job,
    worker,
    workers,
)
from trainyard.api.jobs import DistributedJob
from trainyard.api.pods import Pod
from trainyard.api.status import PodFailure
from trainyard.lifecycle.failures import (
    MAX_FAILURES,
    FailureRecord,
    is_failure,
)
from trainyard.lifecycle.worker_failures import record_worker_failures
from trainyard_trainer.contract.exits import Result, TerminationMessage


def failed(**fields: Any) -> dict[str, Any]:
    return {
        "podName": "digits-worker-0-1",
        "podUID": "gone",
        "failureTime": at(),
        "exitCode": 1,
        **fields,
    }


def record(job: DistributedJob, *pods: Pod, after: timedelta = timedelta()) -> FailureRecord:
    return record_worker_failures(job, job_pods(*pods), TIMEOUTS, NOW + after)


def recorded(job: DistributedJob, found: FailureRecord) -> DistributedJob:
    """The job once its status has the record."""
    status = msgspec.structs.replace(job.status, failures=found.failures, restarts=found.restarts)
    return replace(job, status=status)


def test_a_failed_pod_is_counted_once_however_often_it_is_observed() -> None:
    job, pod = make_job(status=has_run()), worker(0, **failing())
    first = record(job, pod)
    again = record(recorded(job, first), pod)
    assert (first.restarts, again.restarts) == (1, 1)
    assert again.failures == first.failures
    assert first.failures[0].pod_uid == pod.uid


@pytest.mark.parametrize(
    "reason",
    [
        "UnexpectedAdmissionError",
        "OutOfcpu",
        "OutOfpods",
        "OutOfnvidia.com/gpu",
        "NodeAffinity",
        "TopologyAffinityError",
        "ContainerStatusUnknown",
        "Evicted",
    ],
)
def test_a_pod_that_its_node_did_not_take_does_not_count(reason: str) -> None:
    """Ten reboots of a node over a long run failed the job."""
    exit_code = 137 if reason == "ContainerStatusUnknown" else None
    found = record(make_job(), worker(0, **failing(exit_code=exit_code, reason=reason)))
    assert (found.restarts, [f.reason for f in found.failures]) == (0, [reason])


@pytest.mark.parametrize("reason", ["OOMKilled", "Error", "StartError", "DeadlineExceeded"])
def test_a_pod_that_failed_by_itself_counts(reason: str) -> None:
    assert record(make_job(), worker(0, **failing(exit_code=137, reason=reason))).restarts == 1


def test_pods_that_fail_together_count_once() -> None:
    found = record(make_job(), *workers(4, **failing()))
    assert found.restarts == 1
    assert [f.pod_uid for f in found.failures] == [p.uid for p in workers(4)]


def test_one_crash_of_a_group_counts_once_though_its_pods_are_observed_one_by_one() -> None:
    job, pods = make_job(), workers(4, **failing())
    for count in range(1, 5):
        job = recorded(job, record(job, *pods[:count], after=timedelta(seconds=count)))
    assert job.status.restarts == 1
    assert len(job.status.failures) == 4


def test_a_pod_of_the_same_group_that_ends_much_later_counts_again() -> None:
    later = worker(1, **failing(ended_at=NOW + timedelta(minutes=5)))
    job = recorded(make_job(), record(make_job(), worker(0, **failing())))
    assert record(job, later, after=timedelta(minutes=5)).restarts == 2


def test_a_replacement_that_fails_at_once_counts_again() -> None:
    job = recorded(make_job(), record(make_job(), worker(0, **failing())))
    created, ended = NOW + timedelta(seconds=1), NOW + timedelta(seconds=2)
    second = worker(0, 2, created_at=created, **failing(ended_at=ended))
    assert record(job, second, after=timedelta(seconds=3)).restarts == 2


def test_failures_beyond_the_maximum_are_neither_counted_twice_nor_recorded_again() -> None:
    job, pods = make_job(), workers(3 * MAX_FAILURES + 1, **failing())
    first = record(job, *pods)
    assert len(first.failures) == MAX_FAILURES
    job = recorded(job, first)
    assert record(job, *pods).failures == first.failures, "a status that changes at every reconcile"
    left = [p for p in pods if p.uid not in {f.pod_uid for f in first.failures}]
    for _ in range(10):
        job = recorded(job, record(job, *left, after=timedelta(seconds=20)))
        left = [p for p in left if p.uid not in {f.pod_uid for f in job.status.failures}]
    assert not left
    assert job.status.restarts == 1


def test_the_oldest_failures_are_dropped_for_newer_ones() -> None:
    old = [failed(podUID=f"old-{n}") for n in range(MAX_FAILURES)]
    job = make_job(status={"failures": old, "restarts": 4})
    found = record(job, worker(0, created_at=NOW + timedelta(1), **failing()))
    assert [f.pod_uid for f in found.failures] == [*(f["podUID"] for f in old[1:]), "worker-0-1"]


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(worker(**failing(137, is_disrupted=True)), id="drained"),
        pytest.param(worker(**failing(137, is_disrupted=True, reason="Evicted")), id="evicted"),
        pytest.param(worker(**failing(75)), id="fenced worker"),
        pytest.param(coordinator(**failing(75)), id="fenced coordinator"),
    ],
)
def test_what_is_not_the_jobs_fault_is_recorded_but_not_counted(pod: Pod) -> None:
    found = record(make_job(), pod)
    assert (found.restarts, len(found.failures), found.retry_at) == (0, 1, None)


def test_a_disruption_does_not_prolong_the_pause_after_an_older_failure() -> None:
    old = failed(failureTime=at(ago(hours=3)))
    job = make_job(status={"failures": [old], "restarts": 9})
    found = record(job, worker(0, 2, **failing(137, is_disrupted=True)))
    assert found.restarts == 9
    assert found.retry_at is not None
    assert found.retry_at < NOW


@pytest.mark.parametrize(("losses", "seconds"), [(2, 1), (3, 2), (4, 4), (9, 128), (10, 256)])
def test_a_member_whose_pods_fail_repeatedly_backs_off(losses: int, seconds: int) -> None:
    """As on a node that is short of memory: no pod is at fault, and the next is evicted too."""
    evicted = [
        failed(podName=f"digits-worker-0-{n + 1}", podUID=f"u-{n}", reason="Evicted", exitCode=137)
        for n in range(losses)
    ]
    found = record(make_job(status=has_run(failures=evicted)))
    assert found.restarts == 0
    assert found.retry_at == NOW + timedelta(seconds=seconds)


def test_pods_that_a_drain_takes_together_are_replaced_at_once() -> None:
    evicted = [
        failed(podName=f"digits-worker-{n}-1", podUID=f"u-{n}", reason="Evicted", exitCode=137)
        for n in range(MAX_FAILURES)
    ]
    assert record(make_job(status=has_run(failures=evicted))).retry_at is None


def test_losses_long_ago_do_not_delay_a_replacement() -> None:
    times = [ago(hours=2), ago(hours=1), NOW]
    evicted = [
        failed(
            podName=f"digits-worker-0-{n}", podUID=f"u-{n}", reason="Evicted", failureTime=at(when)
        )
        for n, when in enumerate(times)
    ]
    assert record(make_job(status=has_run(failures=evicted))).retry_at is None


@pytest.mark.parametrize(
    ("restarts", "seconds"),
    [(1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (1000, 300)],
)
def test_pauses_grow_with_each_restart_up_to_the_cap(restarts: int, seconds: int) -> None:
    job = make_job(status={"failures": [failed()], "restarts": restarts})
    assert record(job).retry_at == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("pods", "spec", "restarts", "reason"),
    [
        pytest.param((worker(**failing(64)),), {}, 0, "TaskInvalid", id="task cannot be loaded"),
        pytest.param((worker(**failing(76)),), {}, 0, "", id="wire versions differ"),
        pytest.param(
            (worker(**failing()),),
            {"failure": {"maxRestarts": 2}},
            2,
            "TooManyRestarts",
            id="once too often",
        ),
        pytest.param((worker(**failing()),), {"failure": {"maxRestarts": 2}}, 1, "", id="allowed"),
    ],
)
def test_a_failure_is_fatal_when(
    pods: tuple[Pod, ...], spec: dict[str, Any], restarts: int, reason: str
) -> None:
    found = record(make_job(spec, {"restarts": restarts}), *pods)
    assert found.fatal_reason == reason
    assert bool(found.fatal_failure) == bool(reason)


def _message(error: str) -> str:
    return TerminationMessage(result=Result.FAILED, error=error).encode()


def test_a_recorded_failure_is_short_whatever_the_pod_reports() -> None:
    pod = worker(**failing(termination_message=_message("x" * 3000), reason="R" * 5000))
    (failure,) = record(make_job(), pod).failures
    assert isinstance(failure, PodFailure)
    assert len(failure.message) <= 900
    assert len(failure.reason) <= 128


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        pytest.param(worker(**failing()), True, id="failed"),
        pytest.param(worker(**ending(Result.LEFT)), False, id="left on request"),
        pytest.param(worker(phase="Succeeded", exit_code=0), True, id="ended without a message"),
        pytest.param(
            worker(phase="Succeeded", termination_message="[" * 4000),
            True,
            id="ended with an invalid message",
        ),
    ],
)
def test_what_is_a_failure(pod: Pod, expected: bool) -> None:
    assert is_failure(pod) is expected
