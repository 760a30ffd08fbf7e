"""One reconcile beside whoever else writes the job."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi, Object
from tests.support.jobs import KEY, LIMITS, NOW, at, coordinator, has_run, make_job, raw_job, worker
from trainyard.cluster.client import ApiError
from trainyard.reconcile.children import CHILDREN_AGAIN
from trainyard.reconcile.job import CONFLICT_PAUSE, job_state, reconcile

HELD = {"desired": 1, "recommended": 1, "reason": "Admitted", "decidedAt": at()}


class BusyApi(FakeApi):
    """Somebody has written the job since the mirror heard of it."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[Object] = []
        self.deletions: list[dict[str, Any]] = []

    async def apply(self, path: str, body: Object, **rest: Any) -> Object:
        if path.endswith("/status"):
            self.statuses.append(body)
            raise ApiError(409, "Conflict", "the object has been modified")
        return await super().apply(path, body, **rest)

    async def delete(self, path: str, **rest: Any) -> None:
        self.deletions.append(rest)
        await super().delete(path, **rest)


async def test_a_status_that_meets_a_change_is_no_failure_but_another_look() -> None:
    api, job = BusyApi(), make_job({"suspend": True})
    outcome = await reconcile(dependencies_of(api, job), KEY)
    assert outcome.requeue_after == CONFLICT_PAUSE.total_seconds()
    [written] = api.statuses
    assert written["metadata"]["resourceVersion"] == str(job.resource_version)
    assert written["metadata"]["uid"] == job.uid


class EmptyApi(FakeApi):
    """The job has been deleted, and no event told of it yet."""

    def __init__(self, message: str) -> None:
        super().__init__()
        self.message = message

    async def get(self, path: str) -> Object:
        self.requests.append(("GET", path))
        raise ApiError(404, "NotFound", self.message)

    async def apply(self, path: str, body: Object, **rest: Any) -> Object:
        if path.endswith("/status"):
            raise ApiError(404, "NotFound", self.message)
        return await super().apply(path, body, **rest)


async def test_a_job_that_is_no_longer_there_is_forgotten_before_its_event_comes() -> None:
    """Kubernetes would remove each pod that is made for it at once, and the next would follow."""
    api = EmptyApi(f'distributedjobs.trainyard.dev "{KEY.name}" not found')
    job = make_job({"suspend": True})
    services = dependencies_of(api, job)
    outcome = await reconcile(services, KEY)
    assert outcome.requeue_after == 0, "what it leaves behind is seen to at once"
    assert KEY not in services.cache.jobs
    sent = len(api.requests)
    assert (await reconcile(services, KEY)).schedule, "its GPUs are free"
    assert [method for method, _ in api.requests[sent:]] == ["DELETE"], "of its authority alone"
    late = make_job({"suspend": True}, resourceVersion="99")
    assert not services.cache.put_job(late), "of events that were held up its deletion is the last"


async def test_a_job_that_is_no_longer_there_gets_no_pod_replaced() -> None:
    """Its pods go first, and while the watch of jobs is down that is all that is seen of it."""
    api = EmptyApi(f'distributedjobs.trainyard.dev "{KEY.name}" not found')
    services = dependencies_of(api, make_job({}, has_run(scaling=HELD)))
    outcome = await reconcile(services, KEY)
    assert outcome.requeue_after == 0
    assert KEY not in services.cache.jobs
    assert [method for method, _ in api.requests] == ["GET"]


async def test_a_kind_that_is_not_served_for_a_moment_costs_no_job_its_place() -> None:
    """As while an API server starts."""
    api = EmptyApi("the server could not find the requested resource")
    services = dependencies_of(api, make_job({"suspend": True}))
    with pytest.raises(ApiError):
        await reconcile(services, KEY)
    assert KEY in services.cache.jobs


async def test_an_expired_job_is_deleted_in_the_version_that_was_looked_at() -> None:
    """A user who gives it more time meanwhile keeps it."""
    complete = {
        "type": "Complete",
        "status": "True",
        "reason": "TrainingComplete",
        "message": "",
        "lastTransitionTime": at(),
        "observedGeneration": 1,
    }
    status = has_run(conditions=[complete], completionTime=at())
    api, job = BusyApi(), make_job({"ttlSecondsAfterFinished": 0}, status)
    await reconcile(dependencies_of(api, job), KEY)
    assert api.deletions == [{"uid": job.uid, "version": str(job.resource_version)}]


async def test_a_gang_that_did_not_start_has_its_secrets_looked_at_before_the_next_try() -> None:
    """Without the one that somebody deleted, the next gang would wait as this one did."""
    long_ago = {**HELD, "decidedAt": at(NOW - LIMITS.start_timeout)}
    job = make_job({}, {"scaling": long_ago, "phase": "Starting"})
    services = dependencies_of(BusyApi(), job)
    state = job_state(services, job)
    state.children_until = NOW + LIMITS.start_timeout
    await reconcile(services, KEY)
    assert state.scaling.reason == "StartTimedOut"
    assert state.children_until == NOW


class CalmApi(FakeApi):
    """Nobody else writes the job."""

    async def apply(self, path: str, body: Object, **rest: Any) -> Object:
        if path.endswith("/status"):
            return {**raw_job(), "status": body["status"]}
        return await super().apply(path, body, **rest)


async def test_a_job_whose_pods_say_nothing_has_its_secrets_looked_at_in_time() -> None:
    """A coordinator's successor that waits for a Secret somebody deleted makes no event at all."""
    services = dependencies_of(CalmApi(), make_job({}, has_run(scaling=HELD, phase="Running")))
    for pod in (worker(), coordinator(2, phase="Pending", ip="")):
        services.cache.put_pod(pod)
    for _ in range(3):
        outcome = await reconcile(services, KEY)
    assert outcome.requeue_after == CHILDREN_AGAIN.total_seconds()
