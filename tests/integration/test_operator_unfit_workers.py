"""A worker that alone cannot take part while others train: it is left out, and costs nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from tests.support.coordinators import HONEST, CoordinatorKubelet, PlayedCoordinator
from tests.support.manifests import Object
from tests.support.testbed import Testbed, condition, phase, scaling, training, workers
from tests.support.waiting import eventually
from trainyard_trainer.contract.exits import Exit

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]


@pytest.fixture(scope="module")
def operator_options() -> tuple[str, ...]:
    return ("--reach=direct", "--scrape-interval=1s")


class Membership(PlayedCoordinator):
    """A coordinator that tells how many workers train."""

    def __init__(self) -> None:
        super().__init__(self._members)
        self.active = 2

    async def _members(self, _: web.Request) -> web.StreamResponse:
        step = b"# TYPE trainyard_training_step gauge\ntrainyard_training_step 7.0\n"
        active = HONEST.replace(b'"active"} 1.0', f'"active"}} {self.active}.0'.encode())
        return web.Response(body=step + active)


@pytest.fixture
async def played(testbed: Testbed) -> AsyncIterator[tuple[Membership, CoordinatorKubelet]]:
    await testbed.add_nodes(8, is_attended=False)
    membership = Membership()
    async with CoordinatorKubelet(testbed, {"digits": membership}) as kubelet:
        yield membership, kubelet


async def start(testbed: Testbed) -> None:
    """Submit a job whose two workers train."""
    await testbed.submit("digits", 2, minimum=1, maximum=4)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1))
    await testbed.wait_for("digits", lambda job: training(job).get("workers") == 2)


async def running(testbed: Testbed, name: str) -> Object:
    """The pod, once it runs."""

    async def check() -> Object:
        pods = {pod["metadata"]["name"]: pod for pod in await testbed.pods("digits")}
        assert name in pods
        assert pods[name]["status"].get("phase") == "Running"
        return pods[name]

    return await eventually(check)


async def test_a_job_trains_on_without_a_joiner_that_fails_again_and_again(
    testbed: Testbed, played: tuple[Membership, CoordinatorKubelet]
) -> None:
    _, kubelet = played
    await start(testbed)
    await testbed.scale("digits", 3)
    codes = (Exit.MEMBER_UNFIT, Exit.TASK_INVALID, Exit.TASK_FAILED)
    for attempt, code in enumerate(codes, start=1):
        joiner = await running(testbed, f"digits-worker-2-{attempt}")
        await kubelet.fail(joiner, "no data on this node", code)
    job = await testbed.wait_for(
        "digits", lambda job: condition(job, "Degraded")["reason"] == "WorkersLeftOut"
    )
    message = condition(job, "Degraded")["message"]
    assert message.startswith("Worker 2 is left out, and the others train on; tried again at ")
    assert "(pod digits-worker-2-3)" in message
    assert "no data on this node" in message
    job = await testbed.wait_for("digits", lambda job: scaling(job).get("leftOutWorkers") == [2])
    assert (scaling(job)["desired"], scaling(job)["reason"]) == (2, "LeftOut")
    assert (phase(job), job["status"].get("restarts", 0)) == ("Running", 0)
    [failure] = job["status"]["workerFailures"]
    assert (failure["index"], failure["count"], failure["leftOut"]) == (2, 3, 1)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1))


async def test_the_worker_that_is_left_out_goes_and_not_the_last_one(
    testbed: Testbed, played: tuple[Membership, CoordinatorKubelet]
) -> None:
    membership, kubelet = played
    await start(testbed)
    membership.active = 3
    await testbed.scale("digits", 3)
    await testbed.wait_for("digits", lambda job: training(job).get("workers") == 3)
    membership.active = 2
    for attempt in range(1, 4):
        worker = await running(testbed, f"digits-worker-1-{attempt}")
        await kubelet.fail(worker, "out of memory", Exit.MEMBER_UNFIT)
    await testbed.wait_for("digits", lambda job: scaling(job).get("leftOutWorkers") == [1])
    pods = await testbed.wait_for_pods("digits", "coordinator-1", "worker-0-1", "worker-2-1")
    assert all(pod["status"]["phase"] == "Running" for pod in pods)


async def test_a_fault_of_all_workers_fails_the_job_at_once(
    testbed: Testbed, played: tuple[Membership, CoordinatorKubelet]
) -> None:
    membership, kubelet = played
    membership.active = 0
    await testbed.submit("digits", 2)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1))
    await kubelet.fail(
        await running(testbed, "digits-worker-1-1"), "no such column", Exit.TASK_INVALID
    )
    job = await testbed.wait_for_phase("digits", "Failed")
    assert condition(job, "Failed")["reason"] == "TaskInvalid"
