"""A report on its way: from the coordinator into the profile, the scheduler and the status."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi, Object
from tests.support.jobs import (
    KEY,
    NOW,
    at,
    coordinator,
    has_run,
    make_job,
    worker,
)
from tests.support.requests import decision
from trainyard.api.names import Key
from trainyard.api.reasons import Reason
from trainyard.api.report import CoordinatorReport
from trainyard.api.status import Measurement, ScalingStatus
from trainyard.reconcile import scheduler as scheduler_module
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.exchange import exchange
from trainyard.reconcile.job import reconcile
from trainyard.reconcile.scheduler import Scheduler
from trainyard.scheduling.decision import Decision
from trainyard_trainer.contract.env import WIRE_VERSION

HELD = {"desired": 1, "recommended": 1, "reason": "Admitted", "decisionTime": at()}
JOB = make_job({"workers": {"min": 1, "max": 2, "gpus": 0}}, has_run(scaling=HELD))
MEASURED = Measurement(nodes=1, workers=1, local_batch=256, samples_per_second=500.0, steps=20)
REPORT = CoordinatorReport(
    at=NOW, wire=WIRE_VERSION, term=1, members={"active": 1}, profile=(MEASURED,)
)


class StatusApi(FakeApi):
    """Takes the job's statuses."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[Object] = []

    async def update(self, path: str, body: Object, **rest: Any) -> Object:
        self.statuses.append(body["status"])
        return await super().update(path, body, **rest)


class Coordinators:
    """One coordinator that is connected and has this report."""

    connected = 1

    async def scrape(self, *_: Any) -> CoordinatorReport:
        return REPORT

    async def put_plan(self, *_: Any) -> None:
        pass

    def is_open(self, _: str) -> bool:
        return True


@pytest.fixture
def api() -> StatusApi:
    return StatusApi()


@pytest.fixture
def deps(api: StatusApi) -> Dependencies:
    """A job that trains with one worker, and has not been scraped yet."""
    made = dependencies_of(api, JOB, coordinators=Coordinators())
    made.job_state(JOB)
    for pod in (coordinator(), worker()):
        made.cache.put_pod(pod)
    return made


def profile_of(deps: Dependencies) -> list[Measurement]:
    value = deps.job_states[KEY].assignment.value
    assert isinstance(value, ScalingStatus)
    return value.profile


def scheduler_of(deps: Dependencies) -> Scheduler:
    return Scheduler(deps, lambda _: None, lambda *_: None)


async def scrape(deps: Dependencies) -> None:
    assert await exchange(deps, KEY, lambda _: None) is not None


async def test_the_next_scheduling_cycle_sees_the_profile_without_a_reconcile(
    deps: Dependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did not: reconcile recorded the report, and the scheduler woke at the same time."""
    seen: list[list[tuple[int, float]]] = []

    def allocate(requests: Any, *_: Any, **__: Any) -> dict[Key, Decision]:
        [request] = requests
        seen.append([(m.workers, m.samples_per_second) for m in request.profile])
        return {}

    monkeypatch.setattr(scheduler_module, "allocate", allocate)
    scheduler = scheduler_of(deps)
    await scheduler.schedule()
    await exchange(deps, KEY, lambda _: scheduler.trigger())
    await scheduler.schedule()
    assert seen == [[], [(1, 500.0)]]


async def test_a_report_is_in_the_profile_when_it_is_announced(deps: Dependencies) -> None:
    profiles: list[list[Measurement]] = []
    await exchange(deps, KEY, lambda _: profiles.append(profile_of(deps)))
    assert profiles == [[MEASURED]]


async def test_the_status_carries_what_was_measured(api: StatusApi, deps: Dependencies) -> None:
    await scrape(deps)
    await reconcile(deps, KEY)
    [status] = api.statuses
    assert status["scaling"]["profile"] == [msgspec.to_builtins(MEASURED)]


async def test_a_report_that_arrives_while_a_decision_is_made_is_not_lost(
    deps: Dependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    grow = decision(2, Reason.GROW_TO_MEASURE)

    def allocate(*_: Any, **__: Any) -> dict[Key, Decision]:
        asyncio.run_coroutine_threadsafe(scrape(deps), loop).result(timeout=5)
        return {KEY: grow}

    monkeypatch.setattr(scheduler_module, "allocate", allocate)
    await scheduler_of(deps).schedule()
    assert deps.job_states[KEY].assignment.value.desired == 2
    assert profile_of(deps) == [MEASURED]


async def test_a_report_that_arrives_after_a_release_brings_no_resources_back(
    deps: Dependencies,
) -> None:
    deps.job_states[KEY].assignment.release("Suspended", "Suspended.")
    await scrape(deps)
    assert deps.job_states[KEY].assignment.value.desired == 0
    assert profile_of(deps) == [MEASURED]
