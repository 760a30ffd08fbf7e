"""The scheduler's tick beside everything else that happens meanwhile."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi
from tests.support.jobs import KEY, make_job
from tests.support.requests import decision, waiting
from trainyard.api.names import Key
from trainyard.api.reasons import Reason
from trainyard.reconcile import scheduler as scheduler_module
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.job import job_state
from trainyard.reconcile.scheduler import Scheduler
from trainyard.scheduling.decision import Decision

CPU = {"workers": {"min": 1, "max": 2, "gpus": 0}}


@pytest.fixture
def services() -> Dependencies:
    return dependencies_of(FakeApi(), make_job(CPU))


def scheduler_of(services: Dependencies, touched: list[Key]) -> Scheduler:
    return Scheduler(services, touched.append, lambda *_: None)


async def test_a_decision_is_carried_out_and_the_job_touched_once(services: Dependencies) -> None:
    touched: list[Key] = []
    scheduler = scheduler_of(services, touched)
    await scheduler.schedule()
    assert services.states.jobs[KEY].scaling.desired == 1
    await scheduler.schedule()
    assert KEY in touched
    touched.clear()
    await scheduler.schedule()
    assert touched == [], "a decision that stays is no news"


async def test_what_a_waiting_job_waits_for_is_told_anew_when_it_changes(
    services: Dependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not: "5 jobs before it" stood there long after that was wrong."""
    jobs_ahead = iter([5, 4, 4])

    def allocate(*_: Any, **__: Any) -> dict[Key, Decision]:
        facts = waiting(next(jobs_ahead))
        return {KEY: decision(0, Reason.WAITING_FOR_GPUS, facts=facts)}

    monkeypatch.setattr(scheduler_module, "allocate", allocate)
    touched: list[Key] = []
    reminded: list[tuple[Key, float]] = []
    scheduler = Scheduler(services, touched.append, lambda *what: reminded.append(what))
    await scheduler.schedule()
    assert (touched, reminded) == ([KEY], [])
    await scheduler.schedule()
    pause = services.options.timeouts.messages_interval.total_seconds()
    assert (touched, reminded) == ([KEY], [(KEY, pause)])
    await scheduler.schedule()
    assert len(reminded) == 1


async def test_why_a_job_keeps_its_workers_is_told_with_the_next_status(
    services: Dependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written at once: a third status for each job that had just been admitted."""
    reasons = iter([Reason.ADMITTED, Reason.STEADY])

    def allocate(*_: Any, **__: Any) -> dict[Key, Decision]:
        return {KEY: decision(1, next(reasons))}

    monkeypatch.setattr(scheduler_module, "allocate", allocate)
    touched: list[Key] = []
    reminded: list[Key] = []
    scheduler = Scheduler(services, touched.append, lambda key, _: reminded.append(key))
    await scheduler.schedule()
    assert (touched, reminded) == ([KEY], [])
    await scheduler.schedule()
    assert (touched, reminded) == ([KEY], [KEY])
    assert services.states.jobs[KEY].scaling.reason == "Steady"


async def test_a_job_that_has_ended_gets_nothing_though_its_status_does_not_say_so_yet(
    services: Dependencies,
) -> None:
    job_state(services, services.cache.jobs[KEY]).has_ended = True
    touched: list[Key] = []
    await scheduler_of(services, touched).schedule()
    assert services.states.jobs[KEY].scaling.desired == 0
    assert touched == []


async def test_a_job_that_gave_its_gpus_back_meanwhile_does_not_get_them_again(
    services: Dependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did: its start had timed out while the scheduler decided that it keeps them."""
    state = job_state(services, services.cache.jobs[KEY])
    state.scaling = msgspec.structs.replace(state.scaling, desired=1, reason="Admitted")

    def allocate(*_: Any, **__: Any) -> dict[Key, Decision]:
        state.scaling = msgspec.structs.replace(state.scaling, desired=0, reason="StartTimedOut")
        return {KEY: decision(1, Reason.STEADY)}

    monkeypatch.setattr(scheduler_module, "allocate", allocate)
    touched: list[Key] = []
    await scheduler_of(services, touched).schedule()
    assert (state.scaling.desired, state.scaling.reason) == (0, "StartTimedOut")
    assert touched == []


@pytest.mark.parametrize("gone", ["deleted", "suspended", "a namesake"])
async def test_a_job_that_changed_meanwhile_is_left_to_the_next_tick(
    services: Dependencies, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    def allocate(*_: Any, **__: Any) -> dict[Key, Decision]:
        match gone:
            case "deleted":
                services.cache.drop_job(KEY)
            case "suspended":
                services.cache.put_job(make_job({**CPU, "suspend": True}, resourceVersion="8"))
            case _:
                services.cache.put_job(make_job(CPU, uid="another", resourceVersion="9"))
        return {KEY: decision(2, Reason.ADMITTED)}

    monkeypatch.setattr(scheduler_module, "allocate", allocate)
    touched: list[Key] = []
    await scheduler_of(services, touched).schedule()
    assert touched == []
    assert services.states.jobs[KEY].scaling.desired == 0
