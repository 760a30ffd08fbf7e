"""Failed pods, simulated by status patches: the job's status, restarts and replacements."""

from __future__ import annotations

import pytest

from tests.support.kubelet import Kubelet
from tests.support.manifests import Object
from tests.support.testbed import Testbed, condition, phase, workers
from tests.support.waiting import eventually
from trainyard.api.names import LABEL_SIMULATED_GPUS
from trainyard_trainer.contract.env import DEVICE_REQUIRED, ENV_DEVICE
from trainyard_trainer.contract.exits import Exit, Result, TerminationMessage

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]


def restarts(job: Object) -> int:
    return int(job["status"].get("restarts", 0))


def failures(job: Object) -> list[Object]:
    return list(job["status"].get("failures", []))


async def start(testbed: Testbed, replicas: int, **options: object) -> list[Object]:
    """Submit a job `digits` and wait until its pods run; returns its workers' pods."""
    await testbed.submit("digits", replicas, **options)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(*range(replicas)))
    await testbed.wait_for_phase("digits", "Running")
    return await testbed.pods("digits", "worker")


async def test_a_termination_message_reaches_the_status_and_the_worker_is_replaced(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(8, is_attended=False)
    _, second = await start(testbed, 2)
    await kubelet.fail(second, "ValueError: no such column 'age'")
    await testbed.wait_for_pods("digits", "coordinator-1", "worker-0-1", "worker-1-2")
    job = await testbed.wait_for_phase("digits", "Running")
    [failed] = failures(job)
    message = (
        "worker 1 (pod digits-worker-1-1) failed with exit code 1: ValueError: no such column 'age'"
    )
    assert (failed["podName"], failed["exitCode"]) == ("digits-worker-1-1", 1)
    assert failed["message"] == message
    assert restarts(job) == 1
    [event] = await testbed.wait_for_events("digits", "PodFailed")
    assert event["message"] == message


async def test_a_failure_by_the_memory_limit_names_the_field_to_raise(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(8, is_attended=False)
    [worker] = await start(testbed, 1)
    await kubelet.end(worker, 137, reason="OOMKilled")
    job = await testbed.wait_for("digits", failures)
    assert "exceeding its memory limit (OOMKilled" in failures(job)[0]["message"]
    assert "raise spec.workers.resources.limits.memory" in failures(job)[0]["message"]
    await testbed.wait_for_pods("digits", "coordinator-1", "worker-0-2")


async def test_a_missing_gpu_is_reported_with_pytorchs_words(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(8, is_attended=False, labels={LABEL_SIMULATED_GPUS: "false"})
    [worker] = await start(testbed, 1)
    env = {e["name"]: e.get("value") for e in worker["spec"]["containers"][0]["env"]}
    assert env[ENV_DEVICE] == DEVICE_REQUIRED
    kubelet.starts = False
    error = "this pod requests a GPU, and PyTorch finds none: Found no NVIDIA driver"
    await kubelet.fail(worker, error, Exit.NO_DEVICE)
    job = await testbed.wait_for(
        "digits", lambda job: condition(job, "Degraded")["reason"] == "NoDevice"
    )
    assert error in condition(job, "Degraded")["message"]
    assert restarts(job) == 1


async def test_a_simulated_gpu_is_not_required(testbed: Testbed, kubelet: Kubelet) -> None:
    await testbed.add_nodes(8, is_attended=False)
    [worker] = await start(testbed, 1)
    assert ENV_DEVICE not in {e["name"] for e in worker["spec"]["containers"][0]["env"]}


async def test_an_image_that_cannot_be_pulled_is_reported_at_once(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(8, is_attended=False)
    kubelet.starts = False
    await testbed.submit("digits", 1)

    async def created() -> Object:
        workers = await testbed.pods("digits", "worker")
        assert [w["spec"].get("nodeName") for w in workers] == [f"{testbed.namespace}-0"]
        return workers[0]

    worker = await eventually(created)
    await kubelet.block(worker, "ImagePullBackOff", "Back-off pulling image: not found")
    job = await testbed.wait_for(
        "digits", lambda job: condition(job, "Degraded")["status"] == "True"
    )
    message = (
        "Pod digits-worker-0-1: spec.image 'trainyard-trainer:test' cannot be pulled "
        "(ImagePullBackOff: Back-off pulling image: not found)."
    )
    assert condition(job, "Degraded")["reason"] == "PodTrouble"
    assert condition(job, "Degraded")["message"] == message
    assert condition(job, "Running")["message"] == message
    for pod in await testbed.pods("digits"):
        await kubelet.run(pod)
    job = await testbed.wait_for_phase("digits", "Running")
    assert condition(job, "Degraded")["status"] == "False"


async def test_a_disruption_does_not_count_as_a_restart(testbed: Testbed, kubelet: Kubelet) -> None:
    await testbed.add_nodes(8, is_attended=False)
    [worker] = await start(testbed, 1, failure={"maxRestarts": 0})
    await kubelet.disrupt(worker)
    await testbed.wait_for_pods("digits", "coordinator-1", "worker-0-2")
    job = await testbed.wait_for_phase("digits", "Running")
    assert restarts(job) == 0
    assert failures(job)[0]["message"].endswith("was ended by the cluster (Error).")


async def test_a_deleted_worker_is_replaced_without_counting_a_restart(testbed: Testbed) -> None:
    await testbed.add_nodes(8)
    await start(testbed, 2)
    await testbed.client.delete(testbed.path("pods", "digits-worker-0-1"))

    async def replaced() -> None:
        names = [p["metadata"]["name"] for p in await testbed.pods("digits", "worker")]
        assert len(names) == 2
        assert await testbed.pod("digits-worker-1-1")

    await eventually(replaced)
    job = await testbed.wait_for_phase("digits", "Running")
    assert restarts(job) == 0


async def test_too_many_failures_fail_the_job(testbed: Testbed, kubelet: Kubelet) -> None:
    await testbed.add_nodes(8, is_attended=False)
    [worker] = await start(testbed, 1, failure={"maxRestarts": 1})
    await kubelet.fail(worker, "first")
    await testbed.wait_for_pods("digits", "coordinator-1", "worker-0-2")
    await kubelet.fail(await testbed.pod("digits-worker-0-2"), "second")
    job = await testbed.wait_for_phase("digits", "Failed")
    failed = condition(job, "Failed")
    assert (failed["status"], failed["reason"]) == ("True", "TooManyRestarts")
    assert failed["message"] == (
        "Failed more often than spec.failure.maxRestarts=1; last: worker 0 (pod digits-worker-0-2) "
        "failed with exit code 1: second"
    )
    assert condition(job, "Running")["status"] == "False"
    assert job["status"]["completionTime"]
    await only_failed_pods_remain(testbed)


async def test_an_invalid_task_fails_the_job_without_a_retry(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(8, is_attended=False)
    first, _ = await start(testbed, 2)
    error = "there is no module 'tasks.digit': did you mean 'tasks.digits'?"
    await kubelet.fail(first, error, exit_code=Exit.TASK_INVALID)
    job = await testbed.wait_for_phase("digits", "Failed")
    assert condition(job, "Failed")["reason"] == "TaskInvalid"
    assert error in condition(job, "Failed")["message"]
    await only_failed_pods_remain(testbed)
    [event] = await testbed.wait_for_events("digits", "TaskInvalid")
    assert event["type"] == "Warning"


async def only_failed_pods_remain(testbed: Testbed) -> None:
    """Wait until only the failed pods remain, which are kept for their logs."""

    async def stopped() -> None:
        assert {p["status"]["phase"] for p in await testbed.pods("digits")} == {"Failed"}

    await eventually(stopped)


async def test_a_lost_coordinator_gets_the_next_term(testbed: Testbed, kubelet: Kubelet) -> None:
    await testbed.add_nodes(8, is_attended=False)
    await start(testbed, 2)
    await kubelet.fail(
        await testbed.pod("digits-coordinator-1"), "disk full", exit_code=Exit.INTERNAL
    )
    pods = await testbed.wait_for_pods("digits", "coordinator-2", *workers(0, 1))
    [coordinator, *_] = pods
    env = {e["name"]: e.get("value") for e in coordinator["spec"]["containers"][0]["env"]}
    assert env["TRAINYARD_TERM"] == "2"
    job = await testbed.wait_for("digits", lambda job: job["status"]["term"] == 2)
    assert failures(job)[0]["message"].startswith("coordinator (pod digits-coordinator-1) failed")
    await testbed.client.delete(testbed.path("pods", "digits-coordinator-2"))
    await testbed.wait_for_pods("digits", "coordinator-3", *workers(0, 1))


async def test_a_fenced_coordinator_does_not_count_as_a_restart(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(8, is_attended=False)
    await start(testbed, 1, failure={"maxRestarts": 0})
    coordinator = await testbed.pod("digits-coordinator-1")
    await kubelet.end(coordinator, Exit.FENCED, message=TerminationMessage(result=Result.FAILED))
    await testbed.wait_for_pods("digits", "coordinator-2", "worker-0-1")
    job = await testbed.wait_for("digits", failures)
    assert (phase(job), restarts(job)) != ("Failed", 1)


async def test_workers_that_fail_together_count_as_one_restart(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    """They are more than the status has room for."""
    await testbed.add_nodes(8, 8, is_attended=False)
    for worker in await start(testbed, 16, failure={"maxRestarts": 1}):
        await kubelet.fail(worker, "CUDA error")
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(*range(16), attempt=2))
    job = await testbed.wait_for_phase("digits", "Running")
    assert restarts(job) == 1
    assert len(failures(job)) == 10
    events = await testbed.wait_for_events("digits", "PodFailed", 16)
    assert len({e["message"] for e in events}) == 16


async def test_the_workers_termination_messages_complete_the_job(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(8, is_attended=False)
    for worker in await start(testbed, 2):
        message = TerminationMessage(result=Result.COMPLETE, metrics={"eval/accuracy": 0.97})
        await kubelet.end(worker, 0, message=message)
    job = await testbed.wait_for_phase("digits", "Complete")
    complete = condition(job, "Complete")
    assert complete["message"] == "Training is complete: eval/accuracy 0.97."
    assert job["status"]["training"]["evaluation"] == {"eval/accuracy": 0.97}
    assert "desired" not in job["status"]["scaling"]
    names = [p["metadata"]["name"] for p in await testbed.pods("digits")]
    assert names == ["digits-coordinator-1", "digits-worker-0-1", "digits-worker-1-1"]


async def test_a_success_without_a_message_is_a_failure(testbed: Testbed, kubelet: Kubelet) -> None:
    await testbed.add_nodes(8, is_attended=False)
    [worker] = await start(testbed, 1)
    await kubelet.end(worker, 0, message="bye")
    job = await testbed.wait_for("digits", failures)
    assert restarts(job) == 1
    await testbed.wait_for_pods("digits", "coordinator-1", "worker-0-2")


async def test_an_image_of_another_release_is_reported_and_does_not_fail_the_job(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(2, is_attended=False)
    kubelet.starts = False
    await testbed.submit("digits", 2, failure={"maxRestarts": 0})

    async def created() -> list[Object]:
        pods = await testbed.pods("digits")
        assert len(pods) == 3
        return pods

    message = "the operator speaks wire version 1, this trainer 2"
    await testbed.wait_for_phase("digits", "Starting")
    for pod in await eventually(created):
        await kubelet.fail(pod, message, Exit.WIRE_MISMATCH)
    job = await testbed.wait_for("digits", lambda job: len(failures(job)) == 3)
    degraded = condition(job, "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "WireMismatch")
    assert message in degraded["message"]
    assert "its pods are tried again every 5 min" in degraded["message"]
    assert (restarts(job), phase(job)) == (0, "Starting")


async def test_a_worker_of_another_release_does_not_stop_the_others(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(2, is_attended=False)
    first, second = await start(testbed, 2)
    await kubelet.fail(second, "the operator speaks another wire version", Exit.WIRE_MISMATCH)
    job = await testbed.wait_for(
        "digits", lambda job: condition(job, "Degraded")["status"] == "True"
    )
    assert condition(job, "Degraded")["reason"] == "WireMismatch"
    assert condition(job, "Running")["status"] == "True"
    assert (await testbed.pod(first["metadata"]["name"]))["status"]["phase"] == "Running"
