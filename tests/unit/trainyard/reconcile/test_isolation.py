"""A job on which the scheduler fails is left out, shown and counted; the others get decisions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import requests
from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi, Object
from tests.support.jobs import KEY, at, make_job, raw_job
from tests.support.requests import NOW, cluster, decision
from trainyard.api.cluster import Node
from trainyard.api.jobs import Job, parse_job
from trainyard.api.names import Key
from trainyard.api.reasons import Reason
from trainyard.reconcile import requests as requests_module
from trainyard.reconcile import scheduler as scheduler_module
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.isolation import allocate_isolated
from trainyard.reconcile.job import reconcile
from trainyard.reconcile.scheduler import Scheduler
from trainyard.scheduling.allocation import allocate
from trainyard.scheduling.conversion import request_of
from trainyard.scheduling.decision import Allocation, Decision
from trainyard.scheduling.request import JobRequest

CPU = {"workers": {"min": 1, "max": 2, "gpus": 0}}
OTHER = Key(KEY.kind, "other-team", "honest")


class StatusApi(FakeApi):
    """Accepts statuses and pods."""

    async def create(self, path: str, body: Object) -> Object:
        name = body["metadata"]["name"]
        meta = {"uid": name, "resourceVersion": "9", "creationTimestamp": at()}
        return await super().create(path, {**body, "metadata": {**body["metadata"], **meta}})


def honest_job() -> Job:
    raw = raw_job(CPU, uid="honest", name=OTHER.name, namespace=OTHER.namespace)
    return parse_job(raw)


@pytest.fixture
def deps() -> Dependencies:
    deps = dependencies_of(StatusApi(), make_job(CPU), honest_job())
    deps.cache.nodes.put(Node(name="n0", allocatable={"cpu": 64_000, "memory": 2**40, "pods": 110}))
    return deps


def failures(deps: Dependencies, scope: str) -> float:
    value = deps.metrics.scheduling_failures.labels(scope)._value.get()
    return float(value)


def fail_in_request(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def request_or_fail(job: Job, *rest: Any, **more: Any) -> JobRequest:
        if job.key == KEY:
            raise error
        return request_of(job, *rest, **more)

    monkeypatch.setattr(requests_module, "request_of", request_or_fail)


def fail_in_allocate(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def allocate_or_fail(jobs: Sequence[JobRequest], *rest: Any, **more: Any) -> Allocation:
        if any(job.key == KEY for job in jobs):
            raise error
        return allocate(jobs, *rest, **more)

    monkeypatch.setattr(scheduler_module, "allocate", allocate_or_fail)


def fail_in_apply(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def allocate_one_broken(jobs: Sequence[JobRequest], *rest: Any, **more: Any) -> Allocation:
        class Broken(Decision):
            @property
            def message(self) -> str:
                raise error

        broken = decision(1, Reason.ADMITTED)
        values = {name: getattr(broken, name) for name in Decision.__slots__}
        return {**allocate(jobs, *rest, **more), KEY: Broken(**values)}

    monkeypatch.setattr(scheduler_module, "allocate", allocate_one_broken)


@pytest.mark.parametrize("error", [KeyError("gpu"), OverflowError("too long"), RuntimeError()])
@pytest.mark.parametrize("fail", [fail_in_request, fail_in_allocate, fail_in_apply])
async def test_a_job_that_the_scheduler_fails_on_stops_no_other(
    deps: Dependencies, monkeypatch: pytest.MonkeyPatch, fail: Any, error: Exception
) -> None:
    fail(monkeypatch, error)
    enqueued: list[Key] = []
    scheduler = Scheduler(deps, enqueued.append, lambda *_: None)
    await scheduler.schedule()
    assert deps.job_states[OTHER].assignment.value.desired == 1
    assert set(enqueued) == {KEY, OTHER}
    assert (failures(deps, "job"), failures(deps, "cycle")) == (1, 0)
    enqueued.clear()
    await scheduler.schedule()
    assert enqueued == [], "it is shown once"
    await reconcile(deps, KEY)
    [degraded] = [c for c in deps.cache.jobs[KEY].status.conditions if c.type == "Degraded"]
    assert (degraded.status, degraded.reason) == ("True", "SchedulingFailed")
    assert type(error).__name__ in degraded.message
    monkeypatch.undo()
    await scheduler.schedule()
    assert KEY in enqueued
    assert deps.job_states[KEY].scheduling_failure == ""
    await reconcile(deps, KEY)
    [degraded] = [c for c in deps.cache.jobs[KEY].status.conditions if c.type == "Degraded"]
    assert degraded.status == "False"


async def test_a_cycle_that_fails_as_a_whole_is_counted(
    deps: Dependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no single job is to blame, assignments stay as they are."""

    def fail_together(jobs: Sequence[JobRequest], *_: Any, **__: Any) -> Allocation:
        if len(jobs) > 1:
            raise RuntimeError("too many")
        return {}

    monkeypatch.setattr(scheduler_module, "allocate", fail_together)
    scheduler = Scheduler(deps, lambda _: None, lambda *_: None)
    await scheduler.try_schedule()
    assert (failures(deps, "job"), failures(deps, "cycle")) == (0, 1)
    assert scheduler._timer is not None
    scheduler._timer.cancel()


@given(st.integers(0, 12).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, 12)))))
def test_the_others_get_the_decisions_that_they_would_get_without_the_bad_ones(
    drawn: tuple[int, Collection[int]],
) -> None:
    count, bad = drawn
    jobs = [requests.job(f"j{n}", admitted=n % 3) for n in range(count)]
    bad_keys = {requests.key(f"j{n}") for n in bad}

    def decide(some: Sequence[JobRequest]) -> Allocation:
        return allocate(some, cluster(4, 4), NOW)

    def decide_or_fail(some: Sequence[JobRequest]) -> Allocation:
        if bad_keys & {job.key for job in some}:
            raise KeyError("bad")
        return decide(some)

    isolated = allocate_isolated(decide_or_fail, jobs)
    assert isolated.failed.keys() == bad_keys & {job.key for job in jobs}
    assert isolated.allocation == decide([job for job in jobs if job.key not in bad_keys])
