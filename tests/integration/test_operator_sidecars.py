"""Pods to which a service mesh adds a container that goes on when the trainer has ended."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.test_operator_failures import failures, restarts, start
from tests.support.kubelet import Kubelet
from tests.support.testbed import Testbed, condition
from tests.support.waiting import eventually
from trainyard_trainer.contract.exits import Exit, Result, TerminationMessage

VOLUMES = "/api/v1/persistentvolumes"

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]


@pytest.fixture(autouse=True)
def mesh(kubelet: Kubelet) -> None:
    kubelet.sidecar = "istio-proxy"


async def nothing_is_left(testbed: Testbed) -> None:
    """Wait until no pod of the job is there, so that none holds a GPU."""

    async def gone() -> None:
        assert await testbed.pods("digits") == []

    await eventually(gone)


async def test_a_trainer_that_fails_for_good_fails_the_job(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(8, is_attended=False)
    first, _ = await start(testbed, 2)
    await kubelet.fail(first, "no module 'tasks.digit'", exit_code=Exit.TASK_INVALID)
    job = await testbed.wait_for_phase("digits", "Failed")
    assert condition(job, "Failed")["reason"] == "TaskInvalid"
    await nothing_is_left(testbed)


@pytest.fixture
async def models(testbed: Testbed) -> AsyncIterator[None]:
    """A claim of that name that is bound to a volume."""
    spec = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = {
        **spec,
        "capacity": {"storage": "1Gi"},
        "hostPath": {"path": "/nowhere"},
        "claimRef": {"namespace": testbed.namespace, "name": "models"},
    }
    manifest = {"metadata": {"name": testbed.namespace}, "spec": volume}
    await testbed.client.create(VOLUMES, manifest)
    requests = {"resources": {"requests": {"storage": "1Gi"}}, "volumeName": testbed.namespace}
    claimed = {"metadata": {"name": "models"}, "spec": {**spec, **requests}}
    await testbed.create("persistentvolumeclaims", claimed)
    yield
    await testbed.client.delete(f"{VOLUMES}/{testbed.namespace}")


@pytest.mark.usefixtures("models")
async def test_a_durable_job_is_complete(testbed: Testbed, kubelet: Kubelet) -> None:
    await testbed.add_nodes(8, is_attended=False)
    [worker] = await start(testbed, 1, state={"claimName": "models"})
    message = TerminationMessage(result=Result.COMPLETE, metrics={"eval/accuracy": 0.97})
    await kubelet.end(worker, 0, message=message)
    await kubelet.end(await testbed.pod("digits-coordinator-1"), 0, message=message)
    job = await testbed.wait_for_phase("digits", "Complete")
    assert job["status"]["training"]["evaluation"] == {"eval/accuracy": 0.97}
    assert restarts(job) == 0
    await nothing_is_left(testbed)


async def test_a_killed_worker_is_replaced_and_its_pod_ended(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(8, is_attended=False)
    _, second = await start(testbed, 2)
    await kubelet.end(second, 143)
    await testbed.wait_for_pods("digits", "coordinator-1", "worker-0-1", "worker-1-2")
    job = await testbed.wait_for_phase("digits", "Running")
    assert [f["podName"] for f in failures(job)] == ["digits-worker-1-1"]

    async def replaced() -> None:
        names = [p["metadata"]["name"] for p in await testbed.pods("digits", "worker")]
        assert names == ["digits-worker-0-1", "digits-worker-1-2"]

    await eventually(replaced)
