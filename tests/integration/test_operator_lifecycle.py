"""Suspension, resumption, deadlines and time to live of a job."""

from __future__ import annotations

import pytest

from tests.support.kubelet import Kubelet
from tests.support.manifests import Object
from tests.support.testbed import Testbed, condition, phase, scaling, workers
from tests.support.waiting import eventually
from trainyard.cluster.client import KubeClient
from trainyard_trainer.contract.exits import Result, TerminationMessage

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]


async def test_a_job_may_be_created_suspended(testbed: Testbed, kube: KubeClient) -> None:
    await testbed.add_nodes(8)
    await testbed.submit("digits", 2, suspend=True)
    job = await testbed.wait_for_phase("digits", "Suspended")
    assert condition(job, "Suspended")["status"] == "True"
    assert condition(job, "Suspended")["message"] == "spec.suspend is true; the GPUs are free."
    assert condition(job, "Admitted")["reason"] == "Suspended"
    assert "startTime" not in job["status"]
    assert await testbed.pods() == []
    assert (await kube.get(testbed.path("secrets")))["items"] == []
    await testbed.update_spec("digits", suspend=False)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1))
    job = await testbed.wait_for_phase("digits", "Running")
    assert condition(job, "Suspended")["status"] == "False"
    assert job["status"]["startTime"]


async def test_suspending_waits_for_a_checkpoint_then_frees_the_gpus(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(2, is_attended=False)
    await testbed.submit("digits", 2)
    await testbed.wait_for_phase("digits", "Running")
    await testbed.update_spec("digits", suspend=True)
    job = await testbed.wait_for_phase("digits", "Suspending")
    assert condition(job, "Suspended")["reason"] == "Checkpointing"
    assert len(await testbed.pods("digits", "worker")) == 2
    await testbed.submit("next", 2)
    await testbed.wait_for("next", lambda job: condition(job, "Admitted")["status"] == "False")
    for worker in await testbed.pods("digits", "worker"):
        await kubelet.end(worker, 0, message=TerminationMessage(result=Result.SUSPENDED, step=7))
    job = await testbed.wait_for_phase("digits", "Suspended")
    assert "The coordinator stays" in condition(job, "Suspended")["message"]
    await testbed.wait_for_pods("digits", "coordinator-1")
    assert int(job["status"].get("restarts", 0)) == 0
    await testbed.wait_for_phase("next", "Running")
    await testbed.update_spec("digits", suspend=False)
    await testbed.wait_for_phase("digits", "Waiting")
    await testbed.delete("next")
    pods = await eventually(lambda: _with_workers(testbed, 2))
    assert pods[0]["metadata"]["name"] == "digits-coordinator-1"
    job = await testbed.wait_for_phase("digits", "Running")
    assert job["status"]["term"] == 1


async def test_a_waiting_job_is_suspended_at_once(testbed: Testbed) -> None:
    await testbed.add_nodes(1)
    await testbed.submit("digits", 2)
    await testbed.wait_for_phase("digits", "Waiting")
    await testbed.update_spec("digits", suspend=True)
    await testbed.wait_for_phase("digits", "Suspended")


async def test_a_suspension_that_is_cancelled_in_time_keeps_the_workers(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(8, is_attended=False)
    await testbed.submit("digits", 2)
    await testbed.wait_for_phase("digits", "Running")
    await testbed.update_spec("digits", suspend=True)
    await testbed.wait_for_phase("digits", "Suspending")
    await testbed.update_spec("digits", suspend=False)
    await testbed.wait_for_phase("digits", "Running")
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1))


async def test_a_job_that_runs_too_long_fails(testbed: Testbed) -> None:
    await testbed.add_nodes(8)
    await testbed.submit("digits", 2, activeDeadlineSeconds=2)
    job = await testbed.wait_for_phase("digits", "Failed")
    failed = condition(job, "Failed")
    assert failed["reason"] == "DeadlineExceeded"
    assert failed["message"] == "The job ran longer than spec.activeDeadlineSeconds=2."
    await eventually(lambda: _with_pods(testbed, 0))
    assert "desired" not in scaling(job)


async def test_a_finished_job_is_deleted_after_its_time_to_live(
    testbed: Testbed, kubelet: Kubelet, operator_namespace: str
) -> None:
    await testbed.add_nodes(8, is_attended=False)
    await testbed.submit("digits", 1, ttlSecondsAfterFinished=1)
    await testbed.wait_for_phase("digits", "Running")
    [worker] = await testbed.pods("digits", "worker")
    await kubelet.end(worker, 0, message=TerminationMessage(result=Result.COMPLETE))

    async def forgotten() -> None:
        assert not await testbed.exists(testbed.job_path("digits"))
        assert await testbed.pods() == []
        assert (await testbed.client.get(testbed.path("secrets")))["items"] == []

    await eventually(forgotten)
    own = await testbed.client.get(f"/api/v1/namespaces/{operator_namespace}/secrets")
    assert [s["metadata"]["name"] for s in own["items"]] == ["trainyard-master"]


async def test_a_failed_job_frees_its_gpus_for_the_next(testbed: Testbed, kubelet: Kubelet) -> None:
    await testbed.add_nodes(2, is_attended=False)
    await testbed.submit("first", 2)
    await testbed.wait_for_phase("first", "Running")
    await testbed.submit("second", 2)
    await testbed.wait_for_phase("second", "Waiting")
    for worker in await testbed.pods("first", "worker"):
        await kubelet.fail(worker, "no such task", exit_code=64)
    await testbed.wait_for_phase("first", "Failed")
    job = await testbed.wait_for_phase("second", "Running")
    assert phase(await testbed.get("first")) == "Failed"
    assert scaling(job)["desired"] == 2


async def _with_pods(testbed: Testbed, number: int) -> None:
    assert len(await testbed.pods("digits")) == number


async def _with_workers(testbed: Testbed, number: int) -> list[Object]:
    pods = await testbed.pods("digits")
    assert len(pods) == number + 1
    return pods
