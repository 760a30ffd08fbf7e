"""What the reconcile and the scheduler log: one line for each event, with its fields."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import pytest

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi, Object
from tests.support.jobs import KEY, NETWORK, at, coordinator, has_run, make_job, worker
from trainyard.api.cluster import Node
from trainyard.cluster.errors import ApiError
from trainyard.lifecycle.diff import PodToCreate
from trainyard.logs import JsonFormatter
from trainyard.reconcile.children import create_pod, delete_pod
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.job import reconcile
from trainyard.reconcile.scheduler import Scheduler
from trainyard_trainer.contract.env import Role

CPU = {"workers": {"min": 1, "max": 2, "gpus": 0}}
HELD = {"desired": 1, "recommended": 1, "reason": "Admitted", "decisionTime": at()}
JOB = {"kind": "DistributedJob", "namespace": "team", "job": "digits"}
STANDARD = {"time", "level", "logger", "msg"}


class PodApi(FakeApi):
    """Completes what is created, and takes statuses unless somebody else wrote the job."""

    def __init__(self) -> None:
        super().__init__()
        self.is_conflict = False

    async def create(self, path: str, body: Object) -> Object:
        made = await super().create(path, body)
        meta = {"uid": f"uid-{path}", "resourceVersion": "9", "creationTimestamp": at()}
        made["metadata"] = {**meta, **made["metadata"]}
        return made

    async def update(self, path: str, body: Object, **rest: Any) -> Object:
        if self.is_conflict:
            raise ApiError(409, "Conflict", "the object has been modified")
        return await super().update(path, body, **rest)


@pytest.fixture
def api() -> PodApi:
    return PodApi()


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="trainyard")


def lines(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    """The fields of the lines with this message, as they are written."""
    found = [r for r in caplog.records if r.getMessage() == message]
    assert {record.levelno for record in found} <= {logging.INFO}
    written = [json.loads(JsonFormatter().format(record)) for record in found]
    return [{k: v for k, v in line.items() if k not in STANDARD} for line in written]


def scheduler_of(deps: Dependencies) -> Scheduler:
    return Scheduler(deps, lambda _: None, lambda *_: None)


async def test_a_decision_is_one_line(api: PodApi, caplog: pytest.LogCaptureFixture) -> None:
    deps = dependencies_of(api, make_job(CPU))
    deps.cache.nodes.put(Node(name="n0", allocatable={"cpu": 4000, "memory": 2**33, "pods": 110}))
    scheduler = scheduler_of(deps)
    await scheduler.schedule()
    [line] = lines(caplog, "decision made")
    assert line.pop("explanation")
    figures = {"reason": "Admitted", "workers": 1, "workers_before": 0, "recommended": 1}
    assert line == {**JOB, **figures}


async def test_a_decision_that_stays_is_not_logged_again(
    api: PodApi, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = scheduler_of(dependencies_of(api, make_job(CPU)))
    for _ in range(4):
        await scheduler.schedule()
    assert len(lines(caplog, "decision made")) == 1


async def test_each_created_pod_is_one_line(api: PodApi, caplog: pytest.LogCaptureFixture) -> None:
    deps = dependencies_of(api, make_job({}, {"scaling": HELD}))
    for _ in range(2):
        await reconcile(deps, KEY)
    assert lines(caplog, "pod created") == [
        {**JOB, "pod": "digits-coordinator-1", "role": "coordinator", "attempt": 1},
        {**JOB, "pod": "digits-worker-0-1", "role": "worker", "attempt": 1},
    ]


async def test_a_pod_of_this_job_that_was_there_already_is_adopted(
    api: PodApi, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the answer to its creation was lost."""
    deps, slot = dependencies_of(api), PodToCreate(role=Role.WORKER, member=0, attempt=1)
    for _ in range(2):
        await create_pod(deps, make_job(), slot, NETWORK)
    pod = {**JOB, "pod": "digits-worker-0-1", "role": "worker", "attempt": 1}
    assert (lines(caplog, "pod created"), lines(caplog, "pod adopted")) == ([pod], [pod])


async def test_a_refused_pod_is_not_logged_as_created(
    api: PodApi, caplog: pytest.LogCaptureFixture
) -> None:
    api.is_full = True
    slot = PodToCreate(role=Role.WORKER, member=0, attempt=1)
    with pytest.raises(ApiError):
        await create_pod(dependencies_of(api), make_job(), slot, NETWORK)
    assert lines(caplog, "pod created") == []


async def test_each_deleted_pod_is_one_line(api: PodApi, caplog: pytest.LogCaptureFixture) -> None:
    await delete_pod(dependencies_of(api), make_job(), worker(3, 2))
    assert lines(caplog, "pod deleted") == [
        {**JOB, "pod": "digits-worker-3-2", "role": "worker", "attempt": 2}
    ]


async def test_a_phase_change_is_one_line_once_the_status_is_written(
    api: PodApi, caplog: pytest.LogCaptureFixture
) -> None:
    deps = dependencies_of(api, make_job({}, has_run(scaling=HELD, phase="Starting")))
    for pod in (coordinator(), worker()):
        deps.cache.put_pod(pod)
    api.is_conflict = True
    await reconcile(deps, KEY)
    assert lines(caplog, "phase changed") == []
    api.is_conflict = False
    for _ in range(2):
        await reconcile(deps, KEY)
    assert lines(caplog, "phase changed") == [
        {**JOB, "phase": "Running", "phase_before": "Starting"}
    ]


async def test_no_line_holds_a_key(api: PodApi, caplog: pytest.LogCaptureFixture) -> None:
    """A job's start makes an authority and certificates: none of it is anybody's to read."""
    caplog.set_level(logging.DEBUG)
    await reconcile(dependencies_of(api, make_job({}, {"scaling": HELD})), KEY)
    secrets = [body["data"] for body in api.objects.values() if body.get("kind") == "Secret"]
    encoded = [value for data in secrets for value in data.values()]
    files = [base64.b64decode(value).decode(errors="replace") for value in encoded]
    pem = [line for file in files for line in file.splitlines()]
    private = {*encoded, *(line for line in pem if len(line) == 64)}
    assert len(private) >= 12
    written = "\n".join(JsonFormatter().format(record) for record in caplog.records)
    assert "pod created" in written
    assert [text for text in private if text in written] == []
