"""Objects of any size and shape: none ends the operator, blinds it or fills its memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import manifests
from tests.support.manifests import Object
from tests.support.process import OperatorProcess
from tests.support.raw import create_raw, nested
from tests.support.testbed import Testbed, condition
from tests.support.waiting import eventually
from tools.localcluster import Cluster
from trainyard.api.names import DISTRIBUTED_JOB, FEDERATED_JOB

pytestmark = pytest.mark.integration

MEBIBYTE = 2**20
FAT_JOBS = 30
MEMORY_BYTES = 80 * MEBIBYTE
"""What those jobs may cost; as Python objects each would take some 4 MiB."""


@pytest.fixture
async def operator(
    api_cluster: Cluster, operator_namespace: str, tmp_path: Path
) -> AsyncIterator[OperatorProcess]:
    """An operator that the test may restart."""
    log = tmp_path / "operator.log"
    process = OperatorProcess(api_cluster.kubeconfig, operator_namespace, log)
    await process.start_until_ready()
    yield process
    await asyncio.to_thread(process.stop)


def with_arguments(testbed: Testbed, name: str, argument: Any) -> Object:
    job = testbed.job_manifest(name, gpus=0)
    job["spec"]["suspend"] = True
    job["spec"]["task"]["args"] = {"a": argument}
    return job


async def test_a_pod_of_a_megabyte_ends_nothing_at_any_event(
    testbed: Testbed, operator: OperatorProcess
) -> None:
    """Its event is a line of six megabytes: the API server escapes each `<` to six bytes."""
    await testbed.add_nodes(1)
    big = manifests.foreign_pod("big", testbed.namespace, 1, "nowhere")
    big["spec"]["containers"][0]["env"] = [{"name": "A", "value": "<" * 1_000_000}]
    big["spec"]["schedulerName"] = "nobody"
    await testbed.create("pods", big)
    path = testbed.path("pods", "big")
    for number in range(5):
        await testbed.patch(path, {"metadata": {"annotations": {"n": str(number)}}})
    await testbed.submit("digits", 1)
    await testbed.wait_for_phase("digits", "Running")
    await testbed.client.delete(path, grace_seconds=0)
    await testbed.submit("second", 1, gpus=0)
    await testbed.wait_for_phase("second", "Running")
    assert operator.poll() is None, operator.tail()
    assert "was cut off" not in operator.log.read_text()


async def test_jobs_of_a_megabyte_cost_the_operator_little(
    testbed: Testbed, operator: OperatorProcess
) -> None:
    await testbed.add_nodes(1)
    await testbed.submit("first", 1, gpus=0)
    await testbed.wait_for_phase("first", "Running")
    before = operator.memory_bytes()
    names = [f"fat-{number}" for number in range(FAT_JOBS)]
    for name in names:
        await create_raw(testbed, with_arguments(testbed, name, [0.12345678] * 118_000))
    await expect_too_large(testbed, names)
    cost = operator.memory_bytes() - before
    print(f"{FAT_JOBS} jobs cost {cost / MEBIBYTE:.0f} MiB")
    assert cost < MEMORY_BYTES

    await asyncio.to_thread(operator.stop)
    await operator.start_until_ready()
    await testbed.submit("last", 1, gpus=0)
    await testbed.wait_for_phase("last", "Running")
    cost = operator.memory_bytes() - before
    print(f"after a restart that lists them: {cost / MEBIBYTE:.0f} MiB")
    assert cost < MEMORY_BYTES
    assert operator.poll() is None, operator.tail()


async def expect_too_large(testbed: Testbed, names: list[str]) -> None:
    """Wait until each of the jobs says why it is not accepted, and nothing else."""
    path = testbed.jobs_path(DISTRIBUTED_JOB)
    for name in names:

        async def has_status(name: str = name) -> Object:
            job = await testbed.client.get(f"{path}/{name}")
            assert job.get("status", {}).get("phase") == "Pending"
            return job

        job = await eventually(has_status)
        accepted = condition(job, "Accepted")
        assert (accepted["status"], accepted["reason"]) == ("False", "TooLarge")
        assert accepted["message"].startswith("The spec of this job takes 1298")
        assert "at most 262144" in accepted["message"]
        assert [c["type"] for c in job["status"]["conditions"]] == ["Accepted"]


@pytest.mark.parametrize("kind", [DISTRIBUTED_JOB, FEDERATED_JOB])
async def test_arguments_nested_too_deep_hide_no_other_job(
    testbed: Testbed, operator: OperatorProcess, kind: str
) -> None:
    """The API server takes thousands of levels; decoders of Python stop at about one."""
    await testbed.add_nodes(1)
    if kind == FEDERATED_JOB:
        deep = manifests.federation("deep", testbed.namespace, [{"name": "a"}])
    else:
        deep = testbed.job_manifest("deep", gpus=0)
    for name, depth in (("deep", 400), ("deeper", 5_000)):
        deep["metadata"]["name"] = name
        deep["spec"]["task"]["args"] = {"a": nested(depth)}
        await create_raw(testbed, deep)

    for name in ("deep", "deeper"):
        await expect_rejected(testbed, kind, name, "nested more than 100 levels deep")
    await testbed.submit("digits", 1, gpus=0)
    await testbed.wait_for_phase("digits", "Running")
    await asyncio.to_thread(operator.stop)
    await operator.start_until_ready()
    await testbed.submit("second", 1, gpus=0)
    await testbed.wait_for_phase("second", "Running")
    assert operator.poll() is None, operator.tail()
    assert "failed" not in operator.log.read_text()


async def expect_rejected(testbed: Testbed, kind: str, name: str, message: str) -> None:
    """Wait until a job, which is not decoded here either, has this message in its status."""
    client = testbed.client
    url = client.url(f"{testbed.jobs_path(kind)}/{name}")

    async def rejected() -> None:
        async with client.session.get(url, headers=await client.headers()) as response:
            text = await response.text()
        _, _, status = text.rpartition('"status":{')
        assert '"reason":"TooLarge"' in status
        assert message in status

    await eventually(rejected)
