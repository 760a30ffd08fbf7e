"""Which changes trigger which reconciles: none may be lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi, Object
from tests.support.jobs import (
    KEY,
    NOW,
    UID,
    at,
    coordinator,
    has_run,
    make_job,
    raw_job,
    worker,
)
from trainyard.api.names import Key
from trainyard.api.pods import Pod, parse_pod
from trainyard.cluster.decoding import Page
from trainyard.cluster.errors import ApiError
from trainyard.reconcile import controller as controller_module
from trainyard.reconcile.controller import Controller
from trainyard.reconcile.job import reconcile
from trainyard.reconcile.slowstart import FIRST_PAUSE

PODS = "/api/v1/pods"
NODES = "/api/v1/nodes"
JOBS = "/apis/trainyard.dev/v1alpha1/distributedjobs"
NODE: Object = {"metadata": {"name": "n1", "resourceVersion": "1"}, "spec": {}, "status": {}}
HELD = {"desired": 2, "recommended": 2, "reason": "Admitted", "decisionTime": at()}


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
    """The collections that are listed; listings of a path in `broken` end in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[str] = set()
        self.objects = {f"{JOBS}/digits": raw_job()}

    async def list_pages(self, path: str, **selectors: Any) -> AsyncIterator[Page]:
        async for page in super().list_pages(path, **selectors):
            yield page
        if path in self.broken:
            raise ApiError(0, "Unreachable", "cut off")


@pytest.fixture
def api() -> ListedApi:
    return ListedApi()


@pytest.fixture
def controller(api: ListedApi) -> Controller:
    made = Controller(dependencies_of(api))
    made._is_active = made.is_synced = True
    return made


def encoded_job(**meta: Any) -> str:
    encoded: bytes = msgspec.json.encode(raw_job(**meta))
    return encoded.decode()


async def relist(controller: Controller) -> None:
    for informer in controller.informers:
        await informer.relist()


def is_triggered(controller: Controller) -> bool:
    triggered = controller.scheduler._triggered.is_set()
    controller.scheduler._triggered.clear()
    return triggered


@pytest.mark.parametrize("broken", [PODS, NODES, JOBS])
async def test_what_a_listing_found_before_it_was_cut_off_is_not_forgotten(
    api: ListedApi, controller: Controller, broken: str
) -> None:
    """It was: the next listing found the same versions, and the job was never reconciled."""
    api.objects[f"{PODS}/c"] = raw_pod("Failed", 9)
    api.broken = {broken}
    with pytest.raises(ApiError):
        await controller._list_everything()
    assert KEY in controller.queue._queued


@pytest.mark.parametrize("path", [f"{NODES}/n1", f"{PODS}/notebook"])
async def test_what_is_found_about_nodes_and_foreign_pods_triggers_the_scheduler(
    api: ListedApi, controller: Controller, path: str
) -> None:
    foreign = raw_pod("Running", 9, labels={})
    foreign["spec"]["nodeName"] = "n1"
    foreign["spec"]["containers"] = [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]
    api.objects[path] = NODE if "nodes" in path else foreign
    await relist(controller)
    assert is_triggered(controller)
    await relist(controller)
    assert not is_triggered(controller), "nothing has changed"
    del api.objects[path]
    await relist(controller)
    assert is_triggered(controller)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param({}, {}, False, id="nothing that it holds"),
        pytest.param({"nodeName": ""}, {}, True, id="bound to a node"),
        pytest.param({"nodeName": ""}, {"nodeName": ""}, False, id="still without a node"),
        pytest.param({}, {"containers": []}, True, id="resized"),
        pytest.param({}, None, True, id="gone"),
    ],
)
async def test_a_foreign_pod_triggers_the_scheduler_if_it_takes_or_gives_back(
    controller: Controller, before: Object, after: Object | None, expected: bool
) -> None:
    """Most events of a large cluster are of pods of others, and change nothing that counts."""

    def foreign(version: int, spec: Object) -> Pod:
        raw = raw_pod("Running", version, labels={})
        requests = [{"resources": {"requests": {"cpu": "1"}}}]
        raw["spec"] |= {"nodeName": "n1", "containers": requests, **spec}
        return parse_pod(raw)

    is_triggered(controller)
    controller.pod_changed(foreign(8, before), None if after is None else foreign(9, after))
    assert is_triggered(controller) is expected


async def test_a_pod_that_kube_scheduler_refuses_triggers_the_scheduler(
    controller: Controller,
) -> None:
    """The time until it is given back begins with the decision that observes it."""

    def unbound(version: int, message: str) -> Pod:
        raw = raw_pod("Pending", version)
        condition = {"type": "PodScheduled", "status": "False", "message": message}
        raw["status"]["conditions"] = [condition] if message else []
        return parse_pod(raw)

    is_triggered(controller)
    controller.pod_changed(unbound(8, ""), unbound(9, "Insufficient cpu"))
    assert is_triggered(controller)
    controller.pod_changed(unbound(9, "Insufficient cpu"), unbound(10, "Insufficient cpu"))
    assert not is_triggered(controller)


def test_pods_and_nodes_are_listed_less_often_than_our_own_kinds(controller: Controller) -> None:
    """They are many, and their watches lose nothing."""
    options = controller.deps.options
    assert {informer.relist_interval for informer in controller.informers} == {
        options.relist_interval
    }
    assert options.relist_interval >= 12 * options.resync_interval


async def test_every_resync_triggers_the_scheduler(controller: Controller) -> None:
    await controller._resync()
    assert is_triggered(controller)


async def test_a_listing_that_takes_longer_than_its_version_is_kept_is_repeated(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended the process of the new leader."""
    monkeypatch.setattr(controller_module, "RETRY_SECONDS", 0.0)
    failures = [ApiError(410, "Expired", "the provided continue parameter is too old")]

    async def list_once() -> None:
        if failures:
            raise failures.pop()

    await controller._until_success(list_once)
    assert not failures


async def test_a_listing_that_is_refused_is_not_repeated(controller: Controller) -> None:
    async def list_once() -> None:
        raise ApiError(403, "Forbidden", "not allowed")

    with pytest.raises(ApiError, match="not allowed"):
        await controller._until_success(list_once)


async def test_a_pod_that_a_listing_lacks_has_its_job_reconciled(
    api: ListedApi, controller: Controller
) -> None:
    api.objects[f"{PODS}/c"] = raw_pod("Running", 9)
    await relist(controller)
    controller.queue._queued.clear()
    del api.objects[f"{PODS}/c"]
    await relist(controller)
    assert KEY in controller.queue._queued


async def test_a_relabelled_pod_has_both_jobs_reconciled(controller: Controller) -> None:
    old = parse_pod(raw_pod("Running", 9))
    other = Key(KEY.kind, KEY.namespace, "other")
    controller.pod_changed(old, replace(old, job=other, resource_version=10))
    assert controller.queue._queued.keys() == {KEY, other}


async def test_one_odd_pod_does_not_hide_the_others(
    api: ListedApi, controller: Controller, caplog: pytest.LogCaptureFixture
) -> None:
    """A name for a label, a number for a time: anyone may write a pod's status."""
    api.objects[f"{PODS}/a"] = raw_pod("Failed", 8, name="odd", creationTimestamp="yesterday")
    api.objects[f"{PODS}/b"] = raw_pod("Running", 9)
    await relist(controller)
    assert [pod.name for pod in controller.deps.cache.pods_of(KEY)] == ["digits-coordinator-1"]
    assert "pod team/odd cannot be read" in caplog.text


async def test_a_listing_of_unchanged_jobs_still_means_that_events_were_missed(
    controller: Controller,
) -> None:
    await controller._resync()
    controller.job_event(None, encoded_job())
    assert controller._resync_requested.is_set()


async def test_the_event_of_a_status_that_the_response_brought_first_starts_a_cycle(
    controller: Controller,
) -> None:
    controller.deps.cache.put_job(make_job(resourceVersion="8"))
    controller.scheduler._triggered.clear()
    controller.job_event("MODIFIED", encoded_job(resourceVersion="8"))
    assert controller.scheduler._triggered.is_set()
    assert controller.queue.depth == 0  # reconciled with the response


async def test_a_standby_queues_nothing(api: ListedApi) -> None:
    controller = Controller(dependencies_of(api))
    controller.job_event("ADDED", encoded_job())
    controller.pod_changed(None, parse_pod(raw_pod("Running", 9)))
    assert controller.queue.depth == 0


class QuotaApi(FakeApi):
    """Has no quota left for further pods."""

    async def create(self, path: str, body: Object) -> Object:
        if path.endswith("/pods"):
            raise ApiError(403, "Forbidden", "exceeded quota: gpus")
        return await super().create(path, body)


async def test_a_job_with_a_refused_pod_still_exchanges_with_its_coordinator() -> None:
    """It did not: its coordinator was never sent a Plan while a quota was full."""
    api = QuotaApi()
    job = make_job({"workers": {"min": 1, "max": 2, "replicas": 2}}, has_run(scaling=HELD))
    controller = Controller(dependencies_of(api, job))
    for pod in (coordinator(), worker(0)):
        controller.deps.cache.put_pod(pod)
    with pytest.raises(ApiError, match="exceeded quota"):
        await controller._reconcile(KEY)
    assert KEY in controller.exchanges._queued


async def test_a_refused_start_is_reconciled_again_by_itself() -> None:
    """After the pause that its refusals have, whatever the queue's own is."""
    status = {"scaling": {**HELD, "decisionTime": at(NOW)}, "phase": "Starting"}
    controller = Controller(dependencies_of(QuotaApi(), make_job({}, status)))
    with pytest.raises(ApiError, match="exceeded quota"):
        await controller._reconcile(KEY)
    delay = controller.queue._due[KEY] - asyncio.get_running_loop().time()
    assert delay == pytest.approx(FIRST_PAUSE.total_seconds(), abs=0.2)


class LosingApi(FakeApi):
    """Creates the pod and loses the response."""

    async def create(self, path: str, body: Object) -> Object:
        made = await super().create(path, body)
        if path.endswith("/pods"):
            name = body["metadata"]["name"]
            meta = {"uid": name, "resourceVersion": "9", "creationTimestamp": at(NOW)}
            made["metadata"] |= meta
            made["status"] = {"phase": "Running"}
            raise ApiError(409, "AlreadyExists", f'pods "{name}" already exists')
        return made


async def test_a_pod_that_existed_already_has_the_job_reconciled_again() -> None:
    """Its events contain nothing newer than what was read of it."""
    deps = dependencies_of(LosingApi(), make_job({}, {"scaling": HELD}))
    result = await reconcile(deps, KEY)
    assert {pod.phase for pod in deps.cache.pods_of(KEY)} == {"Running"}
    assert result.requeue_after == 0
