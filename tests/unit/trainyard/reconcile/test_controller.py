"""Which events and listings have what looked at; nothing that happened may be nobody's news."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi, Object
from tests.support.jobs import KEY, NOW, UID, at, coordinator, has_run, make_job, raw_job, worker
from trainyard.cluster.client import ApiError
from trainyard.reconcile.controller import Controller
from trainyard.reconcile.job import reconcile

PODS = "/api/v1/pods"
NODES = "/api/v1/nodes"
JOBS = "/apis/trainyard.dev/v1alpha1/distributedjobs"
NODE: Object = {"metadata": {"name": "n1", "resourceVersion": "1"}, "spec": {}, "status": {}}
HELD = {"desired": 2, "recommended": 2, "reason": "Admitted", "decidedAt": at()}


def raw_pod(phase: str, version: int, **meta: Any) -> Object:
    return {
        "metadata": {
            "namespace": KEY.namespace,
            "name": "digits-coordinator-1",
            "uid": "c",
            "resourceVersion": str(version),
            "creationTimestamp": at(),
            "labels": {
                "app.kubernetes.io/managed-by": "trainyard",
                "trainyard.dev/kind": KEY.kind,
                "trainyard.dev/job": KEY.name,
                "trainyard.dev/role": "coordinator",
            },
            "ownerReferences": [{"uid": UID}],
            **meta,
        },
        "spec": {"containers": []},
        "status": {"phase": phase},
    }


class ListedApi(FakeApi):
    """What a listing finds; the paths in `broken` end in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[str] = set()
        self.objects = {f"{JOBS}/digits": raw_job()}

    async def list_all(self, path: str, **selectors: Any) -> AsyncIterator[Object]:
        async for found in super().list_all(path, **selectors):
            yield found
        if path in self.broken:
            raise ApiError(0, "Unreachable", "cut off")


@pytest.fixture
def api() -> ListedApi:
    return ListedApi()


@pytest.fixture
def controller(api: ListedApi) -> Controller:
    made = Controller(dependencies_of(api))
    made._acts = made.is_synced = True
    return made


def is_poked(controller: Controller) -> bool:
    return controller.scheduler._triggered.is_set()


async def test_what_a_listing_found_before_it_was_cut_off_is_not_forgotten(
    api: ListedApi, controller: Controller
) -> None:
    """It was: the next listing found the same versions, and the job was never looked at."""
    api.objects[f"{PODS}/c"] = raw_pod("Failed", 9)
    api.broken = {NODES}
    with pytest.raises(ApiError):
        await controller._resync()
    assert KEY in controller.queue._queued


@pytest.mark.parametrize("path", [f"{NODES}/n1", f"{PODS}/notebook"])
async def test_what_is_found_about_nodes_and_strangers_is_the_schedulers_news(
    api: ListedApi, controller: Controller, path: str
) -> None:
    api.objects[path] = NODE if "nodes" in path else raw_pod("Running", 9, labels={})
    await controller._resync()
    assert is_poked(controller)


async def test_one_odd_pod_does_not_hide_the_others(
    api: ListedApi, controller: Controller, caplog: pytest.LogCaptureFixture
) -> None:
    """A name for a label, a number for a time: anyone may write a pod's status."""
    api.objects[f"{PODS}/a"] = raw_pod("Failed", 8, name="odd", creationTimestamp="yesterday")
    api.objects[f"{PODS}/b"] = raw_pod("Running", 9)
    await controller._resync()
    assert [pod.name for pod in controller.services.cache.pods_of(KEY)] == ["digits-coordinator-1"]
    controller.pod_event("MODIFIED", api.objects[f"{PODS}/a"])
    assert "pod team/odd cannot be read" in caplog.text


async def test_a_listing_of_unchanged_jobs_still_says_that_events_were_missed(
    api: ListedApi, controller: Controller
) -> None:
    await controller._resync()
    controller.job_event(None, raw_job())
    assert controller._resync_wanted.is_set()
    await controller._resync()
    controller.node_event(None, NODE)
    assert controller._resync_wanted.is_set()


async def test_a_standby_queues_nothing(api: ListedApi) -> None:
    controller = Controller(dependencies_of(api))
    controller.job_event("ADDED", raw_job())
    controller.pod_event("ADDED", raw_pod("Running", 9))
    assert controller.queue.depth == 0


class StatusApi(FakeApi):
    """Takes the job's status."""

    async def apply(self, path: str, body: Object, **rest: Any) -> Object:
        await super().apply(path, body, **rest)
        return raw_job(status=body.get("status"), resourceVersion="8")


class QuotaApi(StatusApi):
    """Has room for the pods that are there."""

    async def create(self, path: str, body: Object) -> Object:
        if path.endswith("/pods"):
            raise ApiError(403, "Forbidden", "exceeded quota: gpus")
        return await super().create(path, body)


async def test_a_job_with_a_refused_pod_is_led_all_the_same() -> None:
    """It was not: its coordinator never heard of a Plan while a quota was full."""
    api = QuotaApi()
    job = make_job({"workers": {"min": 1, "max": 2, "replicas": 2}}, has_run(scaling=HELD))
    controller = Controller(dependencies_of(api, job))
    for pod in (coordinator(), worker(0)):
        controller.services.cache.put_pod(pod)
    with pytest.raises(ApiError, match="exceeded quota"):
        await controller._reconcile(KEY)
    assert KEY in controller.contacts._queued


class ForgetfulApi(StatusApi):
    """The pod was made, and the answer lost."""

    async def create(self, path: str, body: Object) -> Object:
        made = await super().create(path, body)
        if path.endswith("/pods"):
            name = body["metadata"]["name"]
            meta = {"uid": name, "resourceVersion": "9", "creationTimestamp": at(NOW)}
            made["metadata"] |= meta
            made["status"] = {"phase": "Running"}
            raise ApiError(409, "AlreadyExists", f'pods "{name}" already exists')
        return made


async def test_a_pod_that_was_there_already_has_the_job_looked_at_again() -> None:
    """Its events bring nothing that is newer than what was read of it."""
    services = dependencies_of(ForgetfulApi(), make_job({}, {"scaling": HELD}))
    outcome = await reconcile(services, KEY)
    assert {pod.phase for pod in services.cache.pods_of(KEY)} == {"Running"}
    assert outcome.requeue_after == 0
