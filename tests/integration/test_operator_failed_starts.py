"""Jobs that cannot start say why, give their GPUs back, and stand behind those that can."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.support.kubelet import Kubelet
from tests.support.manifests import Object
from tests.support.process import OperatorProcess
from tests.support.testbed import Testbed, condition, scaling
from tests.support.waiting import consistently, eventually

START_TIMEOUT, BACKOFF = 12, 3
"""Seconds; the first is enough for a job that does start on a busy machine."""
NO_CONFIG_MAP = 'MountVolume.SetUp failed for volume "settings" : configmap "settings" not found'
NOWHERE = {"key": "no-node-has-this", "operator": "Exists"}
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [NOWHERE]}]
        }
    }
}

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]


@pytest.fixture(scope="module")
def operator_options() -> tuple[str, ...]:
    return (
        *("--start-timeout", f"{START_TIMEOUT}s", "--blocked-start-timeout", "4s"),
        *("--start-backoff", f"{BACKOFF}s", "--max-start-backoff", "1m"),
        *("--pod-events-after", "1s"),
    )


async def test_a_job_that_no_node_takes_lets_others_pass_and_stands_back_longer_each_time(
    testbed: Testbed, kubelet: Kubelet, operator: OperatorProcess
) -> None:
    await testbed.add_nodes(2, is_attended=False)
    await testbed.submit("squatter", 2, template={"affinity": AFFINITY})
    await testbed.wait_for_phase("squatter", "Starting")
    await testbed.submit("honest", 2)
    await testbed.wait_for_phase("honest", "Waiting")
    await testbed.wait_for_phase("honest", "Running", seconds=START_TIMEOUT + 30)
    squatter = await testbed.wait_for("squatter", waits_for_gpus, "it queues again, behind")
    assert scaling(squatter)["failedStarts"] == 1
    assert backoff_seconds(squatter) == BACKOFF
    # Another operator knows of the failed start by the status.
    operator.kill()
    operator.start()
    operator.wait_until_ready()
    await testbed.delete("honest")
    squatter = await testbed.wait_for(
        "squatter", lambda job: scaling(job).get("failedStarts") == 2, "it fails again", 90
    )
    assert backoff_seconds(squatter) == 2 * BACKOFF


def waits_for_gpus(job: Object) -> bool:
    return bool(condition(job, "Admitted")["reason"] == "WaitingForGPUs")


def backoff_seconds(job: Object) -> float:
    start, end = scaling(job)["lastFailedStartTime"], scaling(job)["cooldownEndTime"]
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


async def test_a_missing_config_map_is_told_soon_and_not_held_against_the_job(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(1, is_attended=False)
    kubelet.starts = kubelet.stops = False
    await testbed.submit("stuck")

    async def bound() -> Object:
        pods = await testbed.pods("stuck", "worker")
        assert [bool(pod["spec"].get("nodeName")) for pod in pods] == [True]
        return pods[0]

    await kubelet.warn(await eventually(bound), "FailedMount", NO_CONFIG_MAP)
    await testbed.wait_for("stuck", says_why, "Degraded quotes the pod's Event")
    await testbed.wait_for(
        "stuck", lambda job: condition(job, "Admitted")["reason"] == "StartTimedOut"
    )
    stuck = await testbed.get("stuck")
    assert says_why(stuck)
    assert "waiting does not help" in condition(stuck, "Degraded")["message"]

    async def deleted() -> list[Object]:
        pods = await testbed.pods("stuck")
        assert all("deletionTimestamp" in pod["metadata"] for pod in pods)
        return pods

    for pod in await eventually(deleted):
        await kubelet.lose(pod)

    async def unharmed() -> None:
        status = (await testbed.get("stuck"))["status"]
        assert (status.get("restarts", 0), status.get("failures", [])) == (0, [])

    await consistently(unharmed, 3)
    for pod in await testbed.pods("stuck"):
        await kubelet.remove(pod)
    await unharmed()


def says_why(job: Object) -> bool:
    return NO_CONFIG_MAP in condition(job, "Degraded")["message"]


async def test_a_job_whose_pods_are_refused_gives_its_gpus_back(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(1, is_attended=False)
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    await testbed.create("resourcequotas", quota)

    async def enforced() -> None:
        stored = await testbed.client.get(testbed.path("resourcequotas", "none"))
        assert stored.get("status", {}).get("hard")

    await eventually(enforced)
    await testbed.submit("refused")
    refused = await testbed.wait_for(
        "refused", lambda job: condition(job, "Admitted")["reason"] == "StartTimedOut"
    )
    message = condition(refused, "Degraded")["message"]
    assert "waiting does not help" in message
    assert "exceeded quota: none" in message
    await testbed.client.delete(testbed.path("resourcequotas", "none"))
    await testbed.wait_for_phase("refused", "Running", seconds=60)
    job = await testbed.wait_for(
        "refused", lambda job: "failedStarts" not in scaling(job), "it is forgotten"
    )
    assert condition(job, "Degraded")["status"] == "False"
