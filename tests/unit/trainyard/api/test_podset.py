"""Sorting a job's pods: who is live, surplus, finished, and which names are taken."""

from __future__ import annotations

import itertools

import pytest

from tests.support.jobs import (
    UID,
    coordinator,
    ending,
    failing,
    make_job,
    pod,
    roster_of,
    worker,
    workers,
)
from trainyard.api.podset import group_pods
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import Result


def test_pods_are_sorted_by_role_and_index() -> None:
    roster = roster_of(*reversed(workers(3)), coordinator(2))
    assert roster.coordinator == coordinator(2)
    assert list(roster.members) == [0, 1, 2]
    assert roster.live == (coordinator(2), *workers(3))
    assert (roster.surplus, roster.finished) == ((), ())


def test_of_two_pods_of_one_place_the_later_attempt_stays_whatever_the_order() -> None:
    pods = (worker(0, 1), worker(0, 2), coordinator(3), coordinator(1))
    for order in itertools.permutations(pods):
        roster = roster_of(*order)
        assert roster.members == {0: worker(0, 2)}
        assert roster.coordinator == coordinator(3)
        assert set(roster.surplus) == {worker(0, 1), coordinator(1)}


def test_leaving_pods_hold_no_place_but_their_names() -> None:
    roster = roster_of(worker(0, 4, is_deleting=True), coordinator(2, is_deleting=True))
    assert (roster.live, roster.finished) == ((), ())
    assert roster.attempts[Role.WORKER, 0] == 4
    assert roster.term == 2


def test_a_namesakes_pods_hold_no_place_but_their_names() -> None:
    roster = roster_of(worker(1, 5, owner_uid="an earlier job"), coordinator(9, owner_uid="x"))
    assert (roster.live, roster.finished) == ((), ())
    assert roster.attempts[Role.WORKER, 1] == 5
    assert roster.term == 9


def test_finished_pods_stay_until_they_are_removed() -> None:
    gone = (worker(0, **failing()), worker(1, **ending(Result.LEFT)))
    assert group_pods(gone, UID).finished == gone


def test_the_term_of_a_job_without_pods_is_zero() -> None:
    assert group_pods((), make_job().uid).term == 0


def test_last_words_are_found_by_role_and_result() -> None:
    said = worker(1, **ending(Result.COMPLETE, metrics={"eval/accuracy": 0.9}))
    roster = roster_of(worker(0, **failing()), said, coordinator(**ending(Result.COMPLETE)))
    (found,) = roster.ended(Result.COMPLETE, Role.WORKER)
    assert found[0] == said
    assert found[1].metrics == {"eval/accuracy": 0.9}
    assert not roster.ended(Result.SUSPENDED, Role.WORKER)


@pytest.mark.parametrize("words", ["", "{}", "[[[[", '{"result": "Won"}', '{"result": 1}', "null"])
def test_words_of_another_process_say_nothing(words: str) -> None:
    roster = roster_of(pod(Role.WORKER, 0, 1, phase="Succeeded", termination_message=words))
    assert not roster.ended(Result.COMPLETE, Role.WORKER)
