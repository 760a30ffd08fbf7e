"""Leader election between two operators: one leads, the other takes over, never both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.support.pod_recorder import PodRecorder
from tests.support.replicas import Replica, lease, open_replicas, wait_until_leads
from tests.support.testbed import Testbed, workers
from tests.support.waiting import eventually
from tools.localcluster import Cluster
from trainyard.__main__ import EXIT_LOST
from trainyard.cluster.client import KubeClient

pytestmark = pytest.mark.integration

JOBS = 18


@pytest.fixture
async def replicas(
    api_cluster: Cluster, collected: None, operator_namespace: str, tmp_path: Path
) -> AsyncIterator[list[Replica]]:
    """Two operators, the leader first."""
    async with AsyncExitStack() as stack:
        opened = await open_replicas(
            stack, api_cluster.kubeconfig, operator_namespace, tmp_path, "one", "other"
        )
        await asyncio.gather(*(replica.start() for replica in opened))

        async def one_leads() -> list[Replica]:
            leads = [await replica.leads() for replica in opened]
            assert sorted(leads) == [False, True]
            return opened if leads[0] else opened[::-1]

        yield await eventually(one_leads)


async def wait_for_exit(replica: Replica) -> int:
    async def check() -> int:
        code = replica.process.poll()
        assert code is not None, f"the operator still runs:\n{replica.process.tail()}"
        return code

    return await eventually(check)


async def test_a_disconnected_leader_exits_and_leads_again_after_its_successor_is_killed(
    testbed: Testbed, kube: KubeClient, replicas: list[Replica], operator_namespace: str
) -> None:
    first, second = replicas
    before = await lease(kube, operator_namespace)
    await first.proxy.cut()
    assert await wait_for_exit(first) == EXIT_LOST
    await wait_until_leads(second)
    await first.proxy.restore()
    await first.start()
    assert not await first.leads()
    await testbed.add_nodes(8)
    async with PodRecorder(testbed) as recorder:
        await testbed.submit("digits", 2, maximum=4)
        await testbed.wait_for_phase("digits", "Running")
        await testbed.submit("cut-short", 3)
        await recorder.wait_for_creations(4, seconds=5)
        second.process.kill()
        await testbed.wait_for_phase("cut-short", "Running")
        await testbed.scale("digits", 3)
        await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1, 2))
        await testbed.wait_for_pods("cut-short", "coordinator-1", *workers(0, 1, 2))
        assert await first.leads()
        assert recorder.duplicates == []
        assert set(recorder.creation_counts().values()) == {1}
    after = await lease(kube, operator_namespace)
    assert after["leaseTransitions"] == before["leaseTransitions"] + 2


async def test_a_leader_that_is_replaced_while_paused_exits_without_a_write(
    testbed: Testbed, replicas: list[Replica]
) -> None:
    """It is paused with work in progress, which its successor finishes."""
    first, second = replicas
    await testbed.add_nodes(8, 8)
    await testbed.submit("digits", 4)
    await testbed.submit("shrunk", 3, minimum=1)
    await testbed.wait_for_phase("digits", "Running")
    await testbed.wait_for_phase("shrunk", "Running")
    async with PodRecorder(testbed, allows_existing=True) as recorder:
        await testbed.update_spec("digits", scaling={"policy": "Manual", "maxChangesPerHour": 99})
        await testbed.submit("new", 2)
        first.process.pause()
        await wait_until_leads(second)
        await testbed.wait_for_phase("new", "Running")
        await testbed.scale("shrunk", 1)
        await testbed.wait_for_pods("shrunk", "coordinator-1", *workers(0))
        before = len(first.proxy.changes)
        assert before, "the proxy has recorded no request"
        first.process.resume()
        assert await wait_for_exit(first) == EXIT_LOST
        assert first.proxy.changes[before:] == []
        await testbed.wait_for_pods("shrunk", "coordinator-1", *workers(0))
        await testbed.wait_for_pods("new", "coordinator-1", *workers(0, 1))
        assert recorder.duplicates == []


async def test_an_upgrade_under_load_loses_no_job_and_creates_no_pod_twice(
    testbed: Testbed,
    api_cluster: Cluster,
    replicas: list[Replica],
    operator_namespace: str,
    tmp_path: Path,
) -> None:
    """The new operators start beside the old, which then stop one after the other."""
    await testbed.add_nodes(*[8] * 6)
    async with AsyncExitStack() as stack:
        new = await open_replicas(
            stack, api_cluster.kubeconfig, operator_namespace, tmp_path, "third", "fourth"
        )
        recorder = await stack.enter_async_context(PodRecorder(testbed))
        load = asyncio.create_task(_load(testbed))
        for old, replica in zip(replicas, new, strict=True):
            await replica.start()
            assert await asyncio.to_thread(old.process.stop) == 0
        await load
        for number in (n for n in range(JOBS) if n % 3):
            wanted = range(3 if number % 2 else 2)
            await testbed.wait_for_pods(f"job-{number}", "coordinator-1", *workers(*wanted))
            await testbed.wait_for_phase(f"job-{number}", "Running")
        assert recorder.duplicates == []
        assert {name: n for name, n in recorder.creation_counts().items() if n != 1} == {}
        await eventually(partial(_exactly_one_leads, new))
    # Its successor did not have to wait until the Lease expired.
    assert "released the Lease" in replicas[0].process.tail()


async def _exactly_one_leads(replicas: list[Replica]) -> None:
    assert [await replica.leads() for replica in replicas].count(True) == 1


async def _load(testbed: Testbed) -> None:
    """Submit jobs; a third of them are deleted, and half of the others scaled up."""
    for number in range(JOBS):
        await testbed.submit(f"job-{number}", 2, minimum=1, maximum=3)
        if number % 3 == 0:
            await testbed.delete(f"job-{number}")
        elif number % 2:
            await testbed.scale(f"job-{number}", 3)
        await asyncio.sleep(0.3)
