"""Two jobs of one name and of different kinds in one namespace."""

from __future__ import annotations

import pytest

from tests.support import manifests
from tests.support.manifests import Object
from tests.support.process import OperatorProcess
from tests.support.testbed import Testbed, condition
from tests.support.waiting import consistently, eventually
from trainyard.api.names import FEDERATED_JOB

pytestmark = pytest.mark.integration


async def federation(testbed: Testbed) -> Object:
    return await testbed.client.get(f"{testbed.jobs_path(FEDERATED_JOB)}/digits")


async def untouched(testbed: Testbed, before: list[Object]) -> None:
    """Check that there are the first job's pods, and no others."""
    found = {p["metadata"]["uid"] for p in await testbed.pods()}
    assert found == {p["metadata"]["uid"] for p in before}


async def test_the_second_is_refused_by_name_until_the_first_is_gone(
    testbed: Testbed, restartable: OperatorProcess
) -> None:
    await testbed.add_nodes(8)
    await restartable.start_until_ready()
    await testbed.submit("digits", 2)
    await testbed.wait_for_phase("digits", "Running")
    pods = await testbed.pods()
    parties = [{"name": "ann", "gpus": 1}, {"name": "bob", "gpus": 1}]
    twin = manifests.federation("digits", testbed.namespace, parties, rounds={"minParties": 2})
    await testbed.client.create(testbed.jobs_path(FEDERATED_JOB), twin)

    async def refused() -> None:
        accepted = condition(await federation(testbed), "Accepted")
        assert (accepted["status"], accepted["reason"]) == ("False", "NameTaken")
        assert accepted["message"].startswith("DistributedJob digits in namespace")

    await eventually(refused)
    await consistently(lambda: untouched(testbed, pods), seconds=3)
    assert not (await federation(testbed))["status"].get("admission", {}).get("parties")
    # Whatever restarts, the first one's coordinator included.
    restartable.kill()
    await restartable.start_until_ready()
    await testbed.client.delete(testbed.path("pods", "digits-coordinator-1"))
    await testbed.wait_for_pods("digits", "coordinator-2", "worker-0-1", "worker-1-1")
    await refused()
    await testbed.delete("digits")

    async def begun() -> None:
        found = await federation(testbed)
        assert condition(found, "Accepted")["status"] == "True"
        names = {p["metadata"]["name"] for p in await testbed.pods()}
        assert {"digits-coordinator-1", "digits-party-ann-1", "digits-party-bob-1"} <= names

    await eventually(begun)


async def test_pods_that_are_left_without_an_owner_are_told_of_and_keep_the_name(
    testbed: Testbed, restartable: OperatorProcess
) -> None:
    await testbed.add_nodes(8)
    await restartable.start_until_ready()
    await testbed.submit("digits", 1)
    await testbed.wait_for_phase("digits", "Running")
    body = {"propagationPolicy": "Orphan"}
    await testbed.client.request("DELETE", testbed.job_path("digits"), body=body)

    async def told() -> None:
        events = (await testbed.client.get(testbed.path("events")))["items"]
        names = {e["involvedObject"]["name"] for e in events if e["reason"] == "Orphaned"}
        assert names == {"digits-coordinator-1", "digits-worker-0-1"}

    await eventually(told)
    await testbed.submit("digits", 1)
    job = await testbed.wait_for("digits", lambda job: condition(job, "Accepted")["message"])
    assert condition(job, "Accepted")["reason"] == "NameTaken"
    assert "delete that pod" in condition(job, "Accepted")["message"]
    for name in ("digits-coordinator-1", "digits-worker-0-1"):
        await testbed.client.delete(testbed.path("pods", name))
    await testbed.wait_for_phase("digits", "Running")
