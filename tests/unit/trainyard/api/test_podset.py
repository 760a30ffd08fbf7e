"""Grouping a job's pods: live, surplus and finished ones, and which names are taken."""

from __future__ import annotations

import itertools

import pytest

from tests.support.jobs import (
    UID,
    coordinator,
    ending,
    failing,
    job_pods,
    make_job,
    pod,
    worker,
    workers,
)
from trainyard.api.podset import group_pods
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import Result


def test_pods_are_grouped_by_role_and_index() -> None:
    pods = job_pods(*reversed(workers(3)), coordinator(2))
    assert pods.coordinator == coordinator(2)
    assert list(pods.members) == [0, 1, 2]
    assert pods.live == (coordinator(2), *workers(3))
    assert (pods.surplus, pods.finished) == ((), ())


def test_of_two_pods_of_one_member_the_later_attempt_stays_whatever_the_order() -> None:
    attempts = (worker(0, 1), worker(0, 2), coordinator(3), coordinator(1))
    for order in itertools.permutations(attempts):
        pods = job_pods(*order)
        assert pods.members == {0: worker(0, 2)}
        assert pods.coordinator == coordinator(3)
        assert set(pods.surplus) == {worker(0, 1), coordinator(1)}


def test_pods_that_are_being_deleted_count_only_for_the_next_attempt() -> None:
    pods = job_pods(worker(0, 4, is_deleting=True), coordinator(2, is_deleting=True))
    assert (pods.live, pods.finished) == ((), ())
    assert pods.attempts[Role.WORKER, 0] == 4
    assert pods.term == 2


def test_pods_of_an_earlier_job_of_the_name_count_only_for_the_next_attempt() -> None:
    pods = job_pods(worker(1, 5, owner_uid="an earlier job"), coordinator(9, owner_uid="x"))
    assert (pods.live, pods.finished) == ((), ())
    assert pods.attempts[Role.WORKER, 1] == 5
    assert pods.term == 9


def test_finished_pods_stay_until_they_are_deleted() -> None:
    gone = (worker(0, **failing()), worker(1, **ending(Result.LEFT)))
    assert group_pods(gone, UID).finished == gone


def test_the_term_of_a_job_without_pods_is_zero() -> None:
    assert group_pods((), make_job().uid).term == 0


def test_termination_messages_are_found_by_role_and_result() -> None:
    complete = worker(1, **ending(Result.COMPLETE, metrics={"eval/accuracy": 0.9}))
    pods = job_pods(worker(0, **failing()), complete, coordinator(**ending(Result.COMPLETE)))
    (found,) = pods.ended(Result.COMPLETE, Role.WORKER)
    assert found[0] == complete
    assert found[1].metrics == {"eval/accuracy": 0.9}
    assert not pods.ended(Result.SUSPENDED, Role.WORKER)


@pytest.mark.parametrize(
    "message", ["", "{}", "[[[[", '{"result": "Won"}', '{"result": 1}', "null"]
)
def test_the_message_of_another_process_reports_nothing(message: str) -> None:
    pods = job_pods(pod(Role.WORKER, 0, 1, phase="Succeeded", termination_message=message))
    assert not pods.ended(Result.COMPLETE, Role.WORKER)
