"""Events are listed for one pod that stands still, seldom, and only until it starts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi, Object
from tests.support.jobs import (
    KEY,
    NOW,
    TIMEOUTS,
    at,
    condition,
    coordinator,
    make_job,
    worker,
)
from trainyard.cluster.decoding import Page
from trainyard.cluster.errors import ApiError
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.job import reconcile
from trainyard.reconcile.pod_events import INTERVAL, PAUSE, refresh_warnings

EVENTS = "/api/v1/namespaces/team/events"
NO_CONFIG_MAP = 'MountVolume.SetUp failed for volume "settings" : configmap "settings" not found'
SCALING = {"desired": 1, "recommended": 1, "reason": "Admitted", "decisionTime": at()}
STARTING = {
    "phase": "Starting",
    "startTime": at(),
    "term": 1,
    "scaling": SCALING,
    "conditions": [condition("Running", "False")],
}


def failed_mount(uid: str) -> Object:
    return {
        "metadata": {"name": uid},
        "involvedObject": {"uid": uid},
        "type": "Warning",
        "reason": "FailedMount",
        "message": NO_CONFIG_MAP,
        "lastTimestamp": at(),
    }


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


def starting(api: FakeApi, clock: Clock) -> Dependencies:
    """A job whose coordinator runs and whose worker was created just now."""
    deps = dependencies_of(api, make_job({}, STARTING), clock=clock)
    deps.cache.put_pod(coordinator(created_at=NOW))
    deps.cache.put_pod(worker(phase="Pending", created_at=NOW))
    return deps


def listings(api: FakeApi) -> int:
    return api.requests.count(("LIST", EVENTS))


async def refresh(deps: Dependencies) -> datetime | None:
    job = deps.cache.jobs[KEY]
    return await refresh_warnings(deps, job, deps.job_state(job).pod_events, deps.clock())


async def test_a_missing_config_map_is_told_and_its_gpus_are_given_back_within_a_minute() -> None:
    api, clock = FakeApi(), Clock()
    deps = starting(api, clock)
    api.objects[f"{EVENTS}/x"] = failed_mount(worker().uid)
    outcome = await reconcile(deps, KEY)
    assert (outcome.requeue_after, listings(api)) == (20, 0)
    clock.now += timedelta(seconds=20)
    assert (await reconcile(deps, KEY)).requeue_after == 0
    outcome = await reconcile(deps, KEY)
    degraded = conditions(deps)["Degraded"]
    assert degraded.reason == "PodTrouble"
    assert NO_CONFIG_MAP in degraded.message
    assert listings(api) == 1
    clock.now = NOW + TIMEOUTS.blocked_start_timeout
    await reconcile(deps, KEY)
    degraded = conditions(deps)["Degraded"]
    assert degraded.reason == "StartTimedOut"
    assert "waiting does not help" in degraded.message
    assert NO_CONFIG_MAP in degraded.message
    assert deps.job_state(deps.cache.jobs[KEY]).assignment.value.desired == 0


def conditions(deps: Dependencies) -> dict[str, Any]:
    return {c.type: c for c in deps.cache.jobs[KEY].status.conditions}


async def test_the_events_of_a_pod_are_listed_again_only_after_a_while() -> None:
    api, clock = FakeApi(), Clock()
    deps = starting(api, clock)
    clock.now += TIMEOUTS.pod_events_after
    assert await refresh(deps) == clock.now + INTERVAL
    clock.now += INTERVAL - timedelta(seconds=1)
    assert await refresh(deps) == clock.now + timedelta(seconds=1)
    assert listings(api) == 1


async def test_pods_of_one_job_are_asked_about_one_by_one() -> None:
    api, clock = FakeApi(), Clock()
    deps = starting(api, clock)
    deps.cache.put_pod(worker(1, phase="Pending", created_at=NOW))
    clock.now += TIMEOUTS.pod_events_after
    assert await refresh(deps) == clock.now + PAUSE
    assert listings(api) == 1
    clock.now += PAUSE
    await refresh(deps)
    job = deps.cache.jobs[KEY]
    assert deps.job_state(job).pod_events.listed_at.keys() == {worker(0).uid, worker(1).uid}


async def test_what_was_said_of_a_pod_that_starts_is_forgotten() -> None:
    api, clock = FakeApi(), Clock()
    deps = starting(api, clock)
    api.objects[f"{EVENTS}/x"] = failed_mount(worker().uid)
    clock.now += TIMEOUTS.pod_events_after
    assert await refresh(deps) == clock.now
    state = deps.job_state(deps.cache.jobs[KEY]).pod_events
    assert state.warnings.keys() == {worker().uid}
    deps.cache.put_pod(worker(resource_version=2))
    assert await refresh(deps) is None
    assert (state.warnings, state.listed_at) == ({}, {})


async def test_no_reconcile_waits_until_other_listings_are_done() -> None:
    api, clock = FakeApi(), Clock()
    deps = starting(api, clock)
    clock.now += TIMEOUTS.pod_events_after
    while not deps.event_slots.locked():
        await deps.event_slots.acquire()
    assert await refresh(deps) == clock.now + PAUSE
    assert listings(api) == 0


class ForbiddenApi(FakeApi):
    async def list_pages(self, *_: Any, **__: Any) -> AsyncIterator[Page]:
        raise ApiError(403, "Forbidden", "events is forbidden")
        yield  # which makes it a generator


@pytest.mark.parametrize("attempts", [1, 2])
async def test_without_the_right_to_list_events_jobs_go_on(attempts: int) -> None:
    clock = Clock()
    deps = starting(ForbiddenApi(), clock)
    for _ in range(attempts):
        clock.now += INTERVAL
        assert await refresh(deps) == clock.now + INTERVAL
