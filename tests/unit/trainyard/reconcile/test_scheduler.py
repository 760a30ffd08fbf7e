"""Scheduling cycles beside everything else that happens meanwhile."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi
from tests.support.jobs import KEY, NOW, ago, at, make_job, worker
from tests.support.requests import decision, waiting
from trainyard.api.cluster import Node
from trainyard.api.names import Key
from trainyard.api.reasons import Reason
from trainyard.api.status import ScalingStatus
from trainyard.reconcile import scheduler as scheduler_module
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.scheduler import Scheduler
from trainyard.scheduling.decision import Decision

CPU = {"workers": {"min": 1, "max": 2, "gpus": 0}}


@pytest.fixture
def deps() -> Dependencies:
    deps = dependencies_of(FakeApi(), make_job(CPU))
    deps.cache.nodes.put(Node(name="n0", allocatable={"cpu": 4000, "memory": 2**33, "pods": 110}))
    return deps


def scheduler_of(deps: Dependencies, enqueued: list[Key]) -> Scheduler:
    return Scheduler(deps, enqueued.append, lambda *_: None)


async def test_a_decision_is_applied_and_the_job_enqueued_once(deps: Dependencies) -> None:
    enqueued: list[Key] = []
    scheduler = scheduler_of(deps, enqueued)
    await scheduler.schedule()
    assert deps.job_states[KEY].assignment.value.desired == 1
    await scheduler.schedule()
    assert KEY in enqueued
    enqueued.clear()
    await scheduler.schedule()
    assert enqueued == [], "a decision that stays is not enqueued again"


async def test_a_new_message_of_a_waiting_job_is_written_after_the_message_interval(
    deps: Dependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not: "5 jobs before it" stood there long after that was wrong."""
    jobs_ahead = iter([5, 4, 4])

    def allocate(*_: Any, **__: Any) -> dict[Key, Decision]:
        facts = waiting(next(jobs_ahead))
        return {KEY: decision(0, Reason.WAITING_FOR_GPUS, facts=facts)}

    monkeypatch.setattr(scheduler_module, "allocate", allocate)
    enqueued: list[Key] = []
    delayed: list[tuple[Key, float]] = []
    scheduler = Scheduler(deps, enqueued.append, lambda *call: delayed.append(call))
    await scheduler.schedule()
    assert (enqueued, delayed) == ([KEY], [])
    await scheduler.schedule()
    pause = deps.options.timeouts.messages_interval.total_seconds()
    assert (enqueued, delayed) == ([KEY], [(KEY, pause)])
    await scheduler.schedule()
    assert len(delayed) == 1


async def test_a_new_reason_to_keep_the_workers_waits_for_the_next_status(
    deps: Dependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written at once: a third status for each job that had just been admitted."""
    reasons = iter([Reason.ADMITTED, Reason.STEADY])

    def allocate(*_: Any, **__: Any) -> dict[Key, Decision]:
        return {KEY: decision(1, next(reasons))}

    monkeypatch.setattr(scheduler_module, "allocate", allocate)
    enqueued: list[Key] = []
    delayed: list[Key] = []
    scheduler = Scheduler(deps, enqueued.append, lambda key, _: delayed.append(key))
    await scheduler.schedule()
    assert (enqueued, delayed) == ([KEY], [])
    await scheduler.schedule()
    assert (enqueued, delayed) == ([KEY], [KEY])
    assert deps.job_states[KEY].assignment.value.reason == "Steady"


async def test_an_ended_job_is_assigned_nothing_before_its_status_shows_the_end(
    deps: Dependencies,
) -> None:
    deps.job_state(deps.cache.jobs[KEY]).has_ended = True
    enqueued: list[Key] = []
    await scheduler_of(deps, enqueued).schedule()
    assert deps.job_states[KEY].assignment.value.desired == 0
    assert enqueued == []


async def test_a_job_that_released_its_gpus_meanwhile_does_not_get_them_again(
    deps: Dependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did: its start had timed out while the scheduler decided that it keeps them."""
    assignment = deps.job_state(deps.cache.jobs[KEY]).assignment
    assignment.value = msgspec.structs.replace(assignment.value, desired=1, reason="Admitted")

    def allocate(*_: Any, **__: Any) -> dict[Key, Decision]:
        assignment.value = msgspec.structs.replace(
            assignment.value, desired=0, reason="StartTimedOut"
        )
        return {KEY: decision(1, Reason.STEADY)}

    monkeypatch.setattr(scheduler_module, "allocate", allocate)
    enqueued: list[Key] = []
    await scheduler_of(deps, enqueued).schedule()
    assert (assignment.value.desired, assignment.value.reason) == (0, "StartTimedOut")
    assert enqueued == []


@pytest.mark.parametrize("gone", ["deleted", "suspended", "a namesake"])
async def test_a_job_that_changed_meanwhile_is_left_to_the_next_cycle(
    deps: Dependencies, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    def allocate(*_: Any, **__: Any) -> dict[Key, Decision]:
        match gone:
            case "deleted":
                deps.cache.drop_job(KEY)
            case "suspended":
                deps.cache.put_job(make_job({**CPU, "suspend": True}, resourceVersion="8"))
            case _:
                deps.cache.put_job(make_job(CPU, uid="another", resourceVersion="9"))
        return {KEY: decision(2, Reason.ADMITTED)}

    monkeypatch.setattr(scheduler_module, "allocate", allocate)
    enqueued: list[Key] = []
    await scheduler_of(deps, enqueued).schedule()
    assert enqueued == []
    assert deps.job_states[KEY].assignment.value.desired == 0


async def test_a_worker_that_gets_no_node_is_given_back_a_minute_after_it_was_observed() -> None:
    """The time goes from one cycle to the next; nothing else remembers it."""
    clock = [NOW]
    job = make_job(CPU, {"scaling": {"desired": 2, "decisionTime": at(ago(minutes=9))}})
    deps = dependencies_of(FakeApi(), job, clock=lambda: clock[0])
    deps.cache.nodes.put(Node(name="n0", allocatable={"cpu": 4000, "memory": 2**33, "pods": 110}))
    deps.cache.put_pod(worker(0, node="n0"))
    deps.cache.put_pod(worker(1, phase="Pending", node="", waiting_message="no such zone"))
    scheduler = scheduler_of(deps, [])
    for seconds, workers in [(0, 2), (59, 2), (60, 1)]:
        clock[0] = NOW + timedelta(seconds=seconds)
        await scheduler.schedule()
        assert deps.job_states[KEY].assignment.value.desired == workers
    assignment = deps.job_states[KEY].assignment.value
    assert (assignment.reason, "no such zone" in assignment.message) == ("NotPlaced", True)
    assert isinstance(assignment, ScalingStatus)
    assert assignment.not_placed is not None
    [event] = deps.job_states[KEY].pending_events
    assert (event.reason, event.message) == ("NotPlaced", assignment.message)
