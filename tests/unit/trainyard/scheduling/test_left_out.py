"""A job goes on without workers that alone cannot take part, and their GPUs are free for others."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from tests.support.requests import NOW, cluster, job, key, pods
from trainyard.api.reasons import Reason
from trainyard.scheduling.allocation import allocate
from trainyard.scheduling.decision import Decision
from trainyard.scheduling.request import JobRequest, UnfitWorker

LATER = NOW + timedelta(minutes=10)
SENTENCE = "worker 1 (pod a-worker-1-3) failed with exit code 69: no device"


def unfit(index: int, retry_at: datetime = LATER) -> UnfitWorker:
    return UnfitWorker(index=index, retry_at=retry_at, message=SENTENCE)


def decide(*jobs: JobRequest, bound: int, gpus: int = 8, now: datetime = NOW) -> Decision:
    """The decision on job `a`, of whose workers so many have a node."""
    snapshot = cluster(gpus, bound=pods("a", "n0", bound))
    return allocate(jobs, snapshot, now)[key("a")]


def manual(admitted: int, **fields: Any) -> JobRequest:
    return job("a", admitted, **{"policy": "Manual", "start_workers": 3, **fields})


def test_the_job_shrinks_by_the_workers_that_cannot_take_part() -> None:
    decision = decide(manual(3, unfit=(unfit(1),)), bound=2)
    assert (decision.workers, decision.reason, decision.left_out) == (2, Reason.LEFT_OUT, (1,))
    assert decision.message == f"worker 1 of 3 cannot take part ({SENTENCE}): shrinking 3→2"


def test_what_it_gives_back_is_free_for_a_waiting_job() -> None:
    waiting = job("b")
    snapshot = cluster(3, bound=pods("a", "n0", 2))
    decisions = allocate([manual(3, unfit=(unfit(1),)), waiting], snapshot, NOW)
    assert decisions[key("b")].workers == 1


def test_it_shrinks_once_and_does_not_grow_before_they_are_tried_again() -> None:
    decision = decide(manual(2, unfit=(unfit(1),), left_out=(1,)), bound=2)
    assert (decision.workers, decision.reason, decision.left_out) == (2, Reason.LEFT_OUT, (1,))
    assert decision.requeue_at == LATER
    assert decision.message == (
        "stays at 2: workers.replicas asks for 3; workers are left out until 12:10:00"
    )


def test_it_grows_by_those_that_are_due() -> None:
    decision = decide(manual(2, unfit=(unfit(1),), left_out=(1,)), bound=2, now=LATER)
    assert (decision.workers, decision.reason, decision.left_out) == (3, Reason.REQUESTED, ())


def test_one_that_is_mended_is_due_at_once() -> None:
    decision = decide(manual(2, left_out=(1,)), bound=2)
    assert (decision.workers, decision.left_out) == (3, ())


def test_who_is_left_out_stays_so_while_the_size_is_the_same() -> None:
    """Its index would take the pod of a worker that trains."""
    decision = decide(manual(2, start_workers=2, left_out=(1,)), bound=2)
    assert (decision.workers, decision.left_out) == (2, (1,))


def test_a_job_goes_on_with_its_minimum_at_least() -> None:
    decision = decide(manual(3, min_workers=3, unfit=(unfit(1),)), bound=2)
    assert (decision.workers, decision.left_out) == (3, ())
    both = manual(3, min_workers=2, unfit=(unfit(1), unfit(2)))
    decision = decide(both, bound=1)
    assert (decision.workers, decision.left_out) == (2, (1,))


def test_a_worker_that_the_job_does_not_have_is_not_left_out() -> None:
    decision = decide(manual(2, start_workers=2, unfit=(unfit(5),)), bound=2)
    assert (decision.workers, decision.left_out) == (2, ())


def test_a_job_that_waits_leaves_nobody_out() -> None:
    decision = decide(manual(0, left_out=(1,)), bound=0)
    assert (decision.workers, decision.left_out) == (3, ())
