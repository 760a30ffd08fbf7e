"""A worker that others train without: its failures cost the job nothing, and it is left out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from tests.support.jobs import (
    NOW,
    TIMEOUTS,
    admitted,
    ago,
    condition_of,
    conditions_of,
    coordinator,
    failing,
    has_run,
    job_pods,
    make_job,
    observe,
    worker,
    workers,
)
from trainyard.api.jobs import DistributedJob
from trainyard.api.pods import Pod
from trainyard.api.report import Contact, CoordinatorReport
from trainyard.api.status import DistributedJobStatus, ScalingStatus, WorkerFailure
from trainyard.lifecycle.desired import DesiredState, Phase
from trainyard.lifecycle.diff import PodActions, pod_actions
from trainyard.lifecycle.failures import MAX_FAILURES, FailureRecord
from trainyard.lifecycle.reachability import answered
from trainyard.lifecycle.recorded import recorded_uids
from trainyard.lifecycle.stages import evaluate
from trainyard.lifecycle.status import StatusInputs, is_urgent, status_of
from trainyard.lifecycle.worker_failures import (
    LEFT_OUT_AFTER,
    MAX_UNFIT,
    UNFIT,
    TrainingWorkers,
    record_worker_failures,
)
from trainyard_trainer.contract.exits import Exit, Result, TerminationMessage

TRAINS = CoordinatorReport(at=NOW, wire=1, term=1, step=7, members={"active": 2})
NOBODY = replace(TRAINS, members={"active": 0})
NO_DATA = TerminationMessage(result=Result.FAILED, error="no data on this node").encode()
ALONE = failing(Exit.MEMBER_UNFIT, NO_DATA)
"""How a worker ends that says that it alone cannot take part."""
HOLDERS = frozenset({"worker-0-1", "worker-1-1"})
"""The pods that train in most tests."""


def record(
    *pods: Pod,
    trained: frozenset[str] = frozenset(),
    report: CoordinatorReport | None = TRAINS,
    job: DistributedJob | None = None,
) -> FailureRecord:
    job = job or make_job(status=has_run())
    training = TrainingWorkers.of(job, report, Contact(trained=trained))
    return record_worker_failures(job, job_pods(*pods), TIMEOUTS, NOW, (), training)


# --- Whose fault it is ---


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(failing(Exit.TASK_INVALID), id="its arguments are refused"),
        pytest.param(failing(Exit.TASK_FAILED), id="the Task raises"),
        pytest.param(failing(137, reason="OOMKilled"), id="out of memory"),
        pytest.param(failing(128, reason="StartError"), id="another image"),
        pytest.param(ALONE, id="it says so"),
    ],
)
def test_a_worker_that_never_trained_costs_a_training_job_nothing(how: dict[str, Any]) -> None:
    found = record(*workers(2), worker(2, **how), trained=HOLDERS)
    assert (found.restarts, found.fatal_reason, found.retry_at) == (0, "", None)
    assert [(f.pod_uid, f.reason) for f in found.failures] == [("worker-2-1", UNFIT)]
    assert found.retry_times == {2: NOW + timedelta(seconds=1)}


@pytest.mark.parametrize(
    ("how", "reason", "restarts"),
    [
        pytest.param(failing(Exit.TASK_INVALID), "TaskInvalid", 1, id="invalid"),
        pytest.param(failing(137, reason="OOMKilled"), "", 1, id="out of memory"),
    ],
)
def test_a_worker_that_has_trained_costs_the_job_what_it_did(
    how: dict[str, Any], reason: str, restarts: int
) -> None:
    found = record(worker(0), worker(1, **how), trained=HOLDERS)
    assert (found.fatal_reason, found.restarts, found.workers) == (reason, restarts, {})


@pytest.mark.parametrize("code", [Exit.TASK_INVALID, Exit.MEMBER_UNFIT])
@pytest.mark.parametrize(
    ("others", "trained", "report"),
    [
        pytest.param((worker(0),), frozenset[str](), NOBODY, id="nobody trains yet"),
        pytest.param((), HOLDERS, TRAINS, id="those that trained are gone"),
        pytest.param(
            (worker(0, 2, created_at=NOW + timedelta(seconds=1)),),
            HOLDERS,
            TRAINS,
            id="those that trained are replaced",
        ),
        pytest.param((worker(0, phase="Pending"),), HOLDERS, TRAINS, id="no other one runs"),
        pytest.param((worker(0),), frozenset[str](), None, id="nothing was reported"),
    ],
)
def test_where_nobody_trains_without_it_the_fault_is_the_jobs(
    code: Exit, others: tuple[Pod, ...], trained: frozenset[str], report: CoordinatorReport | None
) -> None:
    found = record(*others, worker(1, 2, **failing(code)), trained=trained, report=report)
    assert (found.restarts, found.workers) == (1, {})
    assert found.fatal_reason == ("TaskInvalid" if code is Exit.TASK_INVALID else "")


def test_a_worker_that_says_so_at_the_first_start_costs_nothing_once_others_train() -> None:
    """Until it ends, not all that run are active, so that nobody is known by name to train."""
    assert record(worker(0), worker(1, **ALONE)).restarts == 0


def test_another_operator_knows_from_the_status_that_others_train() -> None:
    status = has_run(training={"workers": 2, "reportTime": "2026-07-01T11:59:55Z"})
    job = make_job(status=status)
    assert record(worker(0), worker(1, **ALONE), report=None, job=job).restarts == 0


@pytest.mark.parametrize("code", [Exit.FENCED, Exit.WIRE_MISMATCH])
def test_a_worker_that_is_at_no_fault_is_not_unfit(code: Exit) -> None:
    found = record(*workers(2), worker(2, **failing(code)), trained=HOLDERS)
    assert (found.restarts, found.workers) == (0, {})


def test_a_coordinators_failure_is_the_jobs() -> None:
    found = record(*workers(2), coordinator(**failing(Exit.MEMBER_UNFIT)), trained=HOLDERS)
    assert (found.restarts, found.workers) == (1, {})


def test_a_fault_of_too_many_workers_is_the_jobs() -> None:
    failed = [worker(index, **ALONE) for index in range(1, MAX_UNFIT + 2)]
    found = record(worker(0), *failed)
    assert (found.restarts, len(found.workers)) == (1, MAX_UNFIT)


def test_a_pod_that_was_pending_while_all_others_were_active_has_not_trained() -> None:
    pods = job_pods(coordinator(), *workers(2), worker(2, phase="Pending"))
    contact = answered(Contact(), TRAINS, pods)
    assert contact.trained == HOLDERS
    joining = job_pods(coordinator(), *workers(3))
    assert answered(contact, TRAINS, joining).trained == HOLDERS
    gone = job_pods(coordinator(), worker(0), worker(2))
    assert answered(contact, replace(TRAINS, members={"active": 1}), gone).trained == {"worker-0-1"}


# --- What follows, from one reconcile to the next ---


@dataclass
class Training:
    """A job of three workers whose statuses follow from what is observed."""

    job: DistributedJob
    assignment: ScalingStatus
    now: datetime = NOW
    trained: frozenset[str] = HOLDERS

    def reconcile(self, *pods: Pod) -> DesiredState:
        """Evaluate the job with these pods, and take over the status that follows."""
        report = replace(TRAINS, at=self.now)
        contact = Contact(trained=self.trained, pod_uid=coordinator().uid, has_answered=True)
        found = observe(
            self.job,
            coordinator(),
            *pods,
            assignment=self.assignment,
            report=report,
            now=self.now,
            contact=contact,
        )
        desired = evaluate(found)
        status = status_of(
            self.job,
            StatusInputs(
                desired=desired,
                pods=found.pods,
                assignment=self.assignment,
                report=report,
                term=1,
                plan_generation=1,
                now=self.now,
            ),
        )
        assert isinstance(status, DistributedJobStatus)
        self.job = replace(self.job, status=status)
        return desired

    def fail(self, index: int, times: int) -> DesiredState:
        """Have a worker fail so many times, each time when its pause is over."""
        others = [worker(other) for other in range(3) if other != index]
        desired = self.reconcile(*others)
        for _ in range(times):
            desired = self.reconcile(*others, self.failed(index))
            self.now = max(self.now, self.failure(index).retry_time)
        return desired

    def failed(self, index: int) -> Pod:
        """The next pod of the worker, which has failed by now."""
        known = {f.index: f for f in self.job.status.worker_failures}
        attempt = 1 + (int(known[index].pod_name.rpartition("-")[2]) if index in known else 0)
        return worker(index, attempt, created_at=self.now, **{**ALONE, "ended_at": self.now})

    def failure(self, index: int) -> WorkerFailure:
        return next(f for f in self.job.status.worker_failures if f.index == index)


def training(**status: Any) -> Training:
    return Training(make_job(status=has_run(**status)), admitted(3, since=ago(hours=1)))


def actions(found: Training, desired: DesiredState, *pods: Pod) -> PodActions:
    grouped = job_pods(coordinator(), *pods)
    return pod_actions(
        desired.pods, grouped, recorded_uids(found.job.status, grouped), 1, found.now
    )


def test_an_unfit_worker_is_replaced_after_pauses_of_its_own() -> None:
    found = training()
    for seconds in (1, 2):
        failed = found.failed(2)
        desired = found.reconcile(*workers(2), failed)
        assert conditions_of(desired)["Degraded"] == ("True", "Replacing")
        planned = actions(found, desired, *workers(2), failed)
        assert (planned.create, planned.requeue_at) == ((), found.now + timedelta(seconds=seconds))
        lost = actions(found, desired, worker(0), failed)
        assert [pod.member for pod in lost.create] == [1], "another one does not wait"
        found.now += timedelta(seconds=seconds)
        desired = found.reconcile(*workers(2), failed)
        [created] = actions(found, desired, *workers(2), failed).create
        assert (created.member, created.attempt) == (2, failed.attempt + 1)


def test_a_worker_that_fails_again_and_again_is_left_out_by_name() -> None:
    found = training()
    found.fail(2, LEFT_OUT_AFTER - 1)
    failed = found.failed(2)
    desired = found.reconcile(*workers(2), failed)
    assert desired.phase is Phase.RUNNING
    assert conditions_of(desired)["Degraded"] == ("True", "WorkersLeftOut")
    message = condition_of(desired, "Degraded").message
    assert message.startswith("Worker 2 is left out, and the others train on; tried again at 20")
    assert message.endswith(
        "worker 2 (pod digits-worker-2-3) failed with exit code 69: no data on this node"
    )
    assert found.job.status.restarts == 0
    assert desired.requeue_at == found.now + timedelta(minutes=10)
    assert not actions(found, desired, *workers(2), failed).create


NO_GPU = "this pod requests a GPU, and PyTorch finds none: Found no NVIDIA driver on your system."


def test_a_worker_without_a_device_is_named_with_pytorchs_words() -> None:
    how = failing(Exit.NO_DEVICE, TerminationMessage(result=Result.FAILED, error=NO_GPU).encode())
    found, first = training(), worker(2, **how)
    desired = found.reconcile(*workers(2), first)
    assert conditions_of(desired)["Degraded"] == ("True", "NoDevice")
    assert condition_of(desired, "Degraded").message.endswith(NO_GPU)
    for attempt in (2, 3):
        desired = found.reconcile(*workers(2), worker(2, attempt, **how))
    assert conditions_of(desired)["Degraded"] == ("True", "NoDevice")
    assert condition_of(desired, "Degraded").message.startswith("Worker 2 is left out")
    assert found.job.status.restarts == 0


def test_a_job_of_which_no_worker_has_a_device_says_so_and_ends() -> None:
    how = failing(Exit.NO_DEVICE, TerminationMessage(result=Result.FAILED, error=NO_GPU).encode())
    spec = {"failure": {"maxRestarts": 0}}
    desired = evaluate(observe(make_job(status=has_run()), coordinator(), worker(**how)))
    assert conditions_of(desired)["Degraded"] == ("True", "NoDevice")
    failures = [msgspec.to_builtins(f) for f in desired.failures]
    job = make_job(status=has_run(failures=failures, restarts=1))
    desired = evaluate(observe(job, coordinator(), worker(0, 2, phase="Pending")))
    assert conditions_of(desired)["Degraded"] == ("True", "NoDevice"), "the next one starts"
    desired = evaluate(observe(job, coordinator(), worker(0, 2)))
    assert conditions_of(desired)["Degraded"] == ("False", "Healthy")
    desired = evaluate(observe(make_job(spec, has_run()), coordinator(), worker(**how)))
    assert conditions_of(desired)["Failed"] == ("True", "TooManyRestarts")
    assert condition_of(desired, "Failed").message.endswith(NO_GPU)


def test_the_pauses_of_a_worker_that_is_left_out_grow_up_to_an_hour() -> None:
    found, minutes = training(), []
    found.fail(2, LEFT_OUT_AFTER - 1)
    for _ in range(5):
        before = found.now
        found.fail(2, 1)
        minutes.append((found.now - before) / timedelta(minutes=1))
    assert minutes == [10, 20, 40, 60, 60]


def test_a_worker_that_is_left_out_has_no_pod_once_the_job_has_shrunk() -> None:
    found = training()
    found.fail(1, LEFT_OUT_AFTER)
    assert found.failure(1).left_out == 1
    found.assignment = msgspec.structs.replace(found.assignment, desired=2, left_out_workers=[1])
    failed = worker(1, LEFT_OUT_AFTER, **ALONE)
    desired = found.reconcile(worker(0), worker(2), failed)
    assert list(desired.pods.members) == [0, 2]
    planned = actions(found, desired, worker(0), worker(2), failed)
    assert (planned.create, planned.delete) == ((), (failed,))


def test_a_worker_that_trains_again_has_a_clean_record() -> None:
    found = training()
    found.fail(2, 2)
    assert found.failure(2).count == 2
    found.trained |= {worker(2, 3).uid}
    found.reconcile(*workers(2), worker(2, 3))
    assert found.job.status.worker_failures == []


def test_the_record_ends_with_the_training_of_the_others() -> None:
    """A job that starts anew has all its workers at once."""
    found = training()
    found.fail(2, LEFT_OUT_AFTER)
    desired = found.reconcile(worker(0, phase="Pending"))
    assert not desired.pods.retry_times
    assert found.job.status.worker_failures == []


def test_a_changed_spec_is_a_new_start() -> None:
    found = training()
    found.fail(2, LEFT_OUT_AFTER)
    found.now -= timedelta(minutes=5)
    found.job = replace(found.job, generation=found.job.generation + 1)
    desired = found.reconcile(*workers(2), worker(2, LEFT_OUT_AFTER, **ALONE))
    assert conditions_of(desired)["Degraded"] == ("True", "Replacing")
    planned = actions(found, desired, *workers(2), worker(2, LEFT_OUT_AFTER, **ALONE))
    assert [pod.member for pod in planned.create] == [2]


def test_a_failure_is_counted_once_however_often_it_is_observed() -> None:
    found = training()
    pods = (*workers(2), found.failed(2))
    found.reconcile(*pods)
    once = found.job.status
    found.reconcile(*pods)
    assert found.job.status == once


def test_failures_of_many_workers_displace_no_failure_that_counts() -> None:
    found = training()
    counted = worker(1, 1, **failing())
    found.reconcile(worker(0), counted)
    assert found.job.status.restarts == 1
    for index in range(2, MAX_FAILURES + 4):
        found.reconcile(worker(0), counted, worker(index, **ALONE))
    assert found.job.status.restarts == 1
    assert counted.uid in {f.pod_uid for f in found.job.status.failures}
    assert len(found.job.status.failures) == MAX_FAILURES


def test_who_is_left_out_is_written_at_once() -> None:
    found = training()
    found.fail(2, LEFT_OUT_AFTER - 1)
    before = found.job.status
    found.reconcile(*workers(2), found.failed(2))
    assert is_urgent(before, found.job.status)
