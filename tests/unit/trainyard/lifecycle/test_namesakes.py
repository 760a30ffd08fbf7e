"""Which of two jobs of one name and different kinds has the name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.federations import make_federation
from tests.support.jobs import KEY, NOW, ago, at, make_job, observe, worker
from trainyard.lifecycle.desired import Phase
from trainyard.lifecycle.namesakes import NAME_TAKEN, name_taken_by_job, name_taken_by_pods
from trainyard.lifecycle.observation import Observation
from trainyard.lifecycle.stages import evaluate


def created(minutes: int) -> dict[str, Any]:
    return {"creationTimestamp": at(ago(minutes=minutes))}


@pytest.mark.parametrize(
    ("job", "other", "has_begun", "is_taken"),
    [
        pytest.param(created(1), created(2), False, True, id="the other is older"),
        pytest.param(created(2), created(1), False, False, id="the other is younger"),
        pytest.param(created(2), created(1), True, True, id="the younger has begun"),
        pytest.param(created(1), created(2), True, True, id="the older has begun"),
    ],
)
def test_the_name_is_of_the_job_that_has_begun_or_else_of_the_older(
    job: dict[str, Any], other: dict[str, Any], has_begun: bool, is_taken: bool
) -> None:
    found = name_taken_by_job(make_job(**job), make_federation(**other), other_has_begun=has_begun)
    assert (found is not None) is is_taken


@given(first=st.integers(0, 3), second=st.integers(0, 3))
def test_of_two_jobs_that_have_not_begun_exactly_one_has_the_name(first: int, second: int) -> None:
    """Also of two that were created in the same second, as by one file."""
    ours, theirs = make_job(**created(first)), make_federation(**created(second))
    taken = [
        name_taken_by_job(job, other, other_has_begun=False) is not None
        for job, other in ((ours, theirs), (theirs, ours))
    ]
    assert sorted(taken) == [False, True]


def test_a_job_of_another_manager_has_no_pods_that_could_be_in_the_way() -> None:
    other = make_federation({"managedBy": "kueue.x-k8s.io/multikueue"}, **created(9))
    assert name_taken_by_job(make_job(), other, other_has_begun=False) is None


def test_the_message_names_the_other_job_and_what_to_do() -> None:
    taken = name_taken_by_job(make_job(), make_federation(**created(999)), other_has_begun=False)
    assert taken is not None
    assert taken.message == (
        "FederatedJob digits in namespace team has this name too, and pods, Secret and DNS name of "
        "a job are made from its name: delete this job and create it under another name, or delete "
        "the other one."
    )


def test_pods_that_outlast_their_job_have_its_name() -> None:
    assert name_taken_by_pods(KEY, ()) is None
    taken = name_taken_by_pods(KEY, (worker(),))
    assert taken is not None
    assert taken.message == (
        "DistributedJob digits in namespace team is gone, but its pod digits-worker-0-1 has not "
        "ended yet."
    )


def observation(**status: Any) -> Observation:
    job = make_job({}, status)
    taken = name_taken_by_job(job, make_federation(**created(999)), other_has_begun=False)
    observed = observe(job)
    return Observation.of(
        job,
        observed.pods,
        observed.assignment,
        None,
        observed.timeouts,
        NOW + timedelta(seconds=1),
        name_taken=taken,
    )


def test_a_job_whose_name_is_taken_is_not_accepted_and_holds_nothing() -> None:
    desired = evaluate(observation())
    [accepted] = desired.conditions
    assert (accepted.type, accepted.status, accepted.reason) == ("Accepted", "False", NAME_TAKEN)
    assert (desired.phase, desired.pods.coordinator) == (Phase.PENDING, False)
    assert desired.release
