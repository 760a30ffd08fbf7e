"""One reconcile while others write or delete the job."""

from __future__ import annotations

from datetime import timedelta
from email.utils import format_datetime
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
    failing,
    has_run,
    make_job,
    worker,
)
from trainyard.api.report import CoordinatorReport
from trainyard.api.validation import MAX_SPEC_BYTES
from trainyard.cluster.clock import SteadyClock
from trainyard.cluster.errors import ApiError
from trainyard.cluster.store import ObjectKey
from trainyard.lifecycle.timeouts import Timeouts
from trainyard.reconcile.children import CHILDREN_INTERVAL
from trainyard.reconcile.dependencies import Options
from trainyard.reconcile.job import CLOCK_RETRY, reconcile
from trainyard.reconcile.status import CONFLICT_PAUSE
from trainyard.scheduling.conversion import wants_gpus

HELD = {"desired": 1, "recommended": 1, "reason": "Admitted", "decisionTime": at()}


class ConflictApi(FakeApi):
    """The job has changed since the cache saw it."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[Object] = []
        self.deletions: list[dict[str, Any]] = []

    async def update(self, *args: Any, **_: Any) -> Object:
        self.statuses.append(args[1])
        raise ApiError(409, "Conflict", "the object has been modified")

    async def delete(self, path: str, **rest: Any) -> None:
        self.deletions.append(rest)
        await super().delete(path, **rest)


async def test_a_status_that_conflicts_with_a_change_is_retried_soon() -> None:
    api, job = ConflictApi(), make_job({"suspend": True})
    outcome = await reconcile(dependencies_of(api, job), KEY)
    assert outcome.requeue_after == CONFLICT_PAUSE.total_seconds()
    [written] = api.statuses
    assert written["metadata"]["resourceVersion"] == str(job.resource_version)
    assert written["metadata"]["uid"] == job.uid


class DeletedApi(FakeApi):
    """The job has been deleted, and the event of that has not arrived yet."""

    def __init__(self, message: str) -> None:
        super().__init__()
        self.message = message

    async def get(self, path: str, **_: Any) -> Object:
        self.requests.append(("GET", path))
        raise ApiError(404, "NotFound", self.message)

    async def update(self, *_: Any, **__: Any) -> Object:
        raise ApiError(404, "NotFound", self.message)


async def test_a_deleted_job_is_dropped_before_its_event_arrives() -> None:
    """Kubernetes would remove each pod that is created for it, and the next would follow."""
    api = DeletedApi(f'distributedjobs.trainyard.dev "{KEY.name}" not found')
    job = make_job({"suspend": True})
    deps = dependencies_of(api, job)
    outcome = await reconcile(deps, KEY)
    assert outcome.requeue_after == 0
    assert KEY not in deps.cache.jobs
    sent = len(api.requests)
    assert (await reconcile(deps, KEY)).schedule, "its GPUs are free"
    assert api.requests[sent:] == [], "it had nothing that Kubernetes does not collect"
    late = make_job({"suspend": True}, resourceVersion="99")
    assert not deps.cache.put_job(late), "delayed events do not bring it back"


async def test_no_pod_of_a_deleted_job_is_replaced() -> None:
    """Its pods go first, and while the watch of jobs is down nothing else shows the deletion."""
    api = DeletedApi(f'distributedjobs.trainyard.dev "{KEY.name}" not found')
    deps = dependencies_of(api, make_job({}, has_run(scaling=HELD)))
    outcome = await reconcile(deps, KEY)
    assert outcome.requeue_after == 0
    assert KEY not in deps.cache.jobs
    assert [method for method, _ in api.requests] == ["GET"]


async def test_a_kind_that_is_not_served_for_a_moment_loses_no_job() -> None:
    """As while an API server starts."""
    api = DeletedApi("the server could not find the requested resource")
    deps = dependencies_of(api, make_job({"suspend": True}))
    with pytest.raises(ApiError):
        await reconcile(deps, KEY)
    assert KEY in deps.cache.jobs


async def test_an_expired_job_is_deleted_only_in_the_version_that_was_observed() -> None:
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
    api, job = ConflictApi(), make_job({"ttlSecondsAfterFinished": 0}, status)
    await reconcile(dependencies_of(api, job), KEY)
    assert api.deletions == [{"uid": job.uid, "version": str(job.resource_version)}]


async def test_the_secrets_of_a_gang_that_did_not_start_are_ensured_before_the_next_try() -> None:
    """Without the one that somebody deleted, the next gang would wait as this one did."""
    long_ago = {**HELD, "decisionTime": at(NOW - TIMEOUTS.start_timeout)}
    job = make_job({}, {"scaling": long_ago, "phase": "Starting"})
    deps = dependencies_of(ConflictApi(), job)
    state = deps.job_state(job)
    state.children.valid_until = NOW + TIMEOUTS.start_timeout
    await reconcile(deps, KEY)
    assert state.assignment.value.reason == "StartTimedOut"
    assert state.children.valid_until == NOW


async def test_secrets_are_ensured_again_without_an_event() -> None:
    """A coordinator that waits for a Secret that somebody deleted makes no event at all."""
    # Its pod's Events, which nobody wrote, are not listed meanwhile.
    options = Options(timeouts=Timeouts(pod_events_after=2 * CHILDREN_INTERVAL))
    job = make_job({}, has_run(scaling=HELD, phase="Running"))
    deps = dependencies_of(FakeApi(), job, options=options)
    for pod in (worker(), coordinator(2, phase="Pending", ip="")):
        deps.cache.put_pod(pod)
    for _ in range(3):
        outcome = await reconcile(deps, KEY)
    assert outcome.requeue_after == CHILDREN_INTERVAL.total_seconds()


async def test_a_job_past_its_time_to_live_stays_while_the_clocks_differ() -> None:
    """It is looked at again later, not in a loop."""
    status = has_run(conditions=[condition("Complete")], completionTime=at())
    api, job = ConflictApi(), make_job({"ttlSecondsAfterFinished": 0}, status)
    clock = SteadyClock()
    clock.observe("Thu, 01 Jan 1970 00:00:00 GMT")
    deps = dependencies_of(api, job, steady_clock=clock)
    outcome = await reconcile(deps, KEY)
    assert api.deletions == []
    assert outcome.requeue_after is not None
    assert 0 < outcome.requeue_after <= CLOCK_RETRY.total_seconds()
    clock.observe(format_datetime(clock(), usegmt=True))
    await reconcile(deps, KEY)
    assert len(api.deletions) == 1


async def test_a_clock_that_was_set_back_delays_no_status() -> None:
    """It did, by as much as it was set back."""
    deps = dependencies_of(FakeApi(), make_job({}, has_run(scaling=HELD, phase="Running")))
    for pod in (worker(), coordinator()):
        deps.cache.put_pod(pod)
    await reconcile(deps, KEY)
    state = deps.job_states[KEY]
    state.status_written_at = NOW + timedelta(days=1)
    state.coordinator.report = CoordinatorReport(at=NOW, term=1, step=5, members={"active": 1})
    outcome = await reconcile(deps, KEY)
    assert outcome.requeue_after == TIMEOUTS.metrics_interval.total_seconds() * 0.9


@pytest.mark.parametrize(
    "status", [{}, has_run(phase="Running", scaling=HELD)], ids=["new", "runs"]
)
async def test_a_job_too_large_to_be_read_gets_a_condition_and_nothing_else(
    status: dict[str, Any],
) -> None:
    """Its pods stay too: what they should be is not known."""
    api = FakeApi()
    args = {"a": "x" * MAX_SPEC_BYTES}
    job = make_job({"task": {"entrypoint": "a.b:C", "args": args}}, status)
    deps = dependencies_of(api, job)
    for pod in (coordinator(), worker(0)):
        deps.cache.put_pod(pod)
    written: list[Object] = []

    async def update(path: str, body: Object, **_: Any) -> Object:
        api.requests.append(("PUT", path))
        written.append(body["status"])
        return {"resourceVersion": "8"}

    api.update = update  # type: ignore[method-assign]
    await reconcile(deps, KEY)
    assert [method for method, _ in api.requests] == ["PUT", "POST"], "the status and its event"
    [body] = written
    [accepted] = [c for c in body["conditions"] if c["type"] == "Accepted"]
    assert (accepted["status"], accepted["reason"]) == ("False", "TooLarge")
    others = {c["type"] for c in body["conditions"]} - {"Accepted"}
    assert others == {c["type"] for c in status.get("conditions", [])}
    assert body["phase"] == status.get("phase", "Pending")
    assert not wants_gpus(job)


async def test_a_start_that_the_api_server_refuses_is_given_up_soon() -> None:
    """A full quota, for example: its GPUs were reserved for ten minutes, again and again."""
    api, job = FakeApi(), make_job({}, {"scaling": HELD, "phase": "Starting"})
    api.is_full = True
    now = NOW
    deps = dependencies_of(api, job, clock=lambda: now)
    state = deps.job_state(job)
    outcome = await reconcile(deps, KEY)
    assert outcome.refusal is not None
    while state.assignment.value.desired:
        assert outcome.requeue_after
        now += timedelta(seconds=outcome.requeue_after)
        outcome = await reconcile(deps, KEY)
    assert now == NOW + TIMEOUTS.blocked_start_timeout, "however long the pauses have become"
    assert (state.assignment.value.desired, state.assignment.value.reason) == (0, "StartTimedOut")
    assert state.assignment.value.failed_starts == 1
    assert "waiting does not help" in state.assignment.value.message
    assert "exceeded quota" in state.assignment.value.message
    assert state.refusals.of_pods is None, "nothing is asked for any more"


class BusyApi(FakeApi):
    """An admission webhook is being restarted."""

    async def create(self, *_: Any) -> Object:
        raise ApiError(503, "ServiceUnavailable", "an admission webhook does not answer")


async def test_an_api_server_that_fails_for_a_while_gets_the_whole_start_timeout() -> None:
    job = make_job({}, {"scaling": HELD, "phase": "Starting"})
    now = NOW
    deps = dependencies_of(BusyApi(), job, clock=lambda: now)
    state = deps.job_state(job)
    outcome = await reconcile(deps, KEY)
    while state.assignment.value.desired:
        assert state.refusals.of_pods is None
        assert outcome.requeue_after
        now += timedelta(seconds=outcome.requeue_after)
        outcome = await reconcile(deps, KEY)
    assert state.assignment.value.reason == "StartTimedOut"
    assert now == NOW + TIMEOUTS.start_timeout


async def test_what_a_pod_ends_with_after_its_deletion_is_not_a_failure() -> None:
    """Kubelets stop a container that had not begun with exit code 137, at a time of their own."""
    scaling = {**HELD, "decisionTime": at(NOW - TIMEOUTS.start_timeout)}
    job = make_job({}, {"scaling": scaling, "phase": "Starting"})
    deps = dependencies_of(FakeApi(), job)
    deps.cache.put_pod(worker(phase="Pending", node="n0"))
    await reconcile(deps, KEY)
    state = deps.job_state(job)
    assert state.deleted_pods == {worker().uid}
    lost = failing(137, reason="ContainerStatusUnknown")
    deps.cache.put_pod(worker(resource_version=2, is_deleting=True, **lost))
    await reconcile(deps, KEY)
    status = deps.cache.jobs[KEY].status
    assert (status.restarts, status.failures) == (0, [])
    deps.cache.pods.remove(ObjectKey(KEY.namespace, worker().name))
    await reconcile(deps, KEY)
    assert state.deleted_pods == frozenset()


async def test_a_job_that_trains_forgets_its_failed_starts() -> None:
    scaling = {**HELD, "failedStarts": 3, "lastFailedStartTime": at()}
    job = make_job({}, {"scaling": scaling, "phase": "Starting"})
    deps = dependencies_of(FakeApi(), job)
    deps.cache.put_pod(coordinator())
    deps.cache.put_pod(worker(phase="Pending"))
    await reconcile(deps, KEY)
    assert deps.job_state(job).assignment.value.failed_starts == 3
    deps.cache.put_pod(worker(resource_version=2))
    await reconcile(deps, KEY)
    assert deps.job_state(job).assignment.value.failed_starts == 0


class RecordingApi(FakeApi):
    """Keeps what was created and written."""

    def __init__(self) -> None:
        super().__init__()
        self.pods: list[Object] = []
        self.statuses: list[Object] = []

    async def create(self, path: str, body: Object) -> Object:
        created = await super().create(path, body)
        if body.get("kind") != "Pod":
            return created
        self.pods.append(body)
        stored = {"uid": body["metadata"]["name"], "resourceVersion": "50"}
        meta = {**body["metadata"], **stored, "creationTimestamp": at()}
        return {**body, "metadata": meta}

    async def update(self, path: str, body: Object, **_: Any) -> Object:
        self.statuses.append(body["status"])
        return await super().update(path, body)


@pytest.mark.parametrize(
    ("image", "stored", "expected"),
    [
        (None, {}, "registry.example/trainer:2"),
        (None, {"image": "registry.example/trainer:1"}, "registry.example/trainer:1"),
        ("own:1", {"image": "registry.example/trainer:1"}, "own:1"),
    ],
    ids=["default", "kept", "own"],
)
async def test_the_default_image_is_kept_for_the_jobs_life(
    image: str | None, stored: dict[str, Any], expected: str
) -> None:
    """Another release of the operator has another default; all pods of a job need the same one."""
    api, job = RecordingApi(), make_job({"image": image or ""}, {"scaling": HELD, **stored})
    options = Options(trainer_image="registry.example/trainer:2")
    await reconcile(dependencies_of(api, job, options=options), KEY)
    assert [pod["spec"]["containers"][0]["image"] for pod in api.pods] == [expected] * 2
    assert [status["image"] for status in api.statuses] == [expected]
