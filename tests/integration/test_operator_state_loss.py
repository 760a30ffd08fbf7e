"""The only copy of a job's state goes with its coordinator's pod: a person is told at once."""

from __future__ import annotations

import pytest

from tests.support.kubelet import Kubelet
from tests.support.manifests import Object
from tests.support.testbed import Testbed, condition
from trainyard_trainer.contract.exits import Result, TerminationMessage

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]


async def is_told(testbed: Testbed, text: str) -> Object:
    """Wait for the condition and for the one Warning of a lost state; returns the job."""

    def is_lost(job: Object) -> bool:
        return bool(condition(job, "StateDurable")["reason"] == "StateLost")

    job = await testbed.wait_for("digits", is_lost)
    [event] = await testbed.wait_for_events("digits", "StateLost")
    assert event["type"] == "Warning"
    assert text in event["message"]
    assert condition(job, "StateDurable")["message"] == event["message"]
    return job


async def test_a_suspended_job_loses_its_state_before_anybody_resumes_it(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(8, is_attended=False)
    await testbed.submit("digits", 1)
    await testbed.wait_for_phase("digits", "Running")
    trained = {"status": {"training": {"term": 1, "step": 696}}}
    await testbed.patch(f"{testbed.job_path('digits')}/status", trained)
    await testbed.update_spec("digits", suspend=True)
    [worker] = await testbed.pods("digits", "worker")
    await kubelet.end(worker, 0, message=TerminationMessage(result=Result.SUSPENDED, step=696))
    job = await testbed.wait_for_phase("digits", "Suspended")
    assert condition(job, "StateDurable")["reason"] == "NoClaim"
    await testbed.client.delete(testbed.path("pods", "digits-coordinator-1"))
    job = await is_told(testbed, "step 696: training begins anew")
    assert job["spec"]["suspend"]
    await testbed.update_spec("digits", suspend=False)
    job = await testbed.wait_for_phase("digits", "Running")
    assert condition(job, "StateDurable")["reason"] == "StateLost", "until it has trained again"


async def test_a_complete_job_loses_its_only_result(testbed: Testbed, kubelet: Kubelet) -> None:
    await testbed.add_nodes(8, is_attended=False)
    await testbed.submit("digits", 1)
    await testbed.wait_for_phase("digits", "Running")
    [worker] = await testbed.pods("digits", "worker")
    await kubelet.end(worker, 0, message=TerminationMessage(result=Result.COMPLETE))
    await testbed.wait_for_phase("digits", "Complete")
    await testbed.client.delete(testbed.path("pods", "digits-coordinator-1"))
    job = await is_told(testbed, "the only copy of the result")
    assert condition(job, "Complete")["status"] == "True"
