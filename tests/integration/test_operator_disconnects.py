"""The operator is disconnected from the API server while objects change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.apiserver import restart_api_server, wait_until_expired
from tests.support.manifests import Object
from tests.support.process import OperatorProcess
from tests.support.proxy import Proxy
from tests.support.testbed import Testbed, workers
from tests.support.waiting import eventually
from tools.localcluster import Cluster
from trainyard.api.names import DISTRIBUTED_JOB
from trainyard.cluster.client import KubeClient

pytestmark = pytest.mark.integration


@pytest.fixture
async def proxy(api_cluster: Cluster) -> AsyncIterator[Proxy]:
    async with Proxy(api_cluster.kubeconfig) as opened:
        yield opened


@pytest.fixture
async def remote(
    proxy: Proxy, operator_namespace: str, tmp_path: Path
) -> AsyncIterator[OperatorProcess]:
    """An operator that connects to the API server through the proxy."""
    kubeconfig = proxy.write_kubeconfig(tmp_path / "kubeconfig")
    process = OperatorProcess(kubeconfig, operator_namespace, tmp_path / "operator.log")
    yield process
    await asyncio.to_thread(process.stop)


async def change_everything(testbed: Testbed) -> None:
    """Delete a job and a pod, and add a job and a node, without events for the operator."""
    await testbed.delete("deleted")
    await testbed.client.delete(testbed.path("pods", "degraded-worker-1-1"))

    async def settled() -> None:
        assert await testbed.pods("deleted") == []
        assert len(await testbed.pods("degraded", "worker")) == 1

    await eventually(settled)
    await testbed.submit("new", 2)
    await testbed.add_nodes(8)


async def wait_until_reconciled(
    testbed: Testbed, deleted_job: Object, operator_namespace: str
) -> None:
    await testbed.wait_for_phase("new", "Running")
    await testbed.wait_for_pods("new", "coordinator-1", *workers(0, 1))
    await testbed.wait_for_phase("large", "Running")
    await eventually(lambda: _two_workers(testbed))
    await testbed.wait_for_phase("degraded", "Running")
    uid = deleted_job["metadata"]["uid"]

    async def collected() -> None:
        secrets = (await testbed.client.get(testbed.path("secrets")))["items"]
        owners = {s["metadata"]["ownerReferences"][0]["uid"] for s in secrets}
        assert owners
        assert uid not in owners

    await eventually(collected)
    own = await testbed.client.get(f"/api/v1/namespaces/{operator_namespace}/secrets")
    assert [s["metadata"]["name"] for s in own["items"]] == ["trainyard-master"]


async def _two_workers(testbed: Testbed) -> None:
    pods = await testbed.pods("degraded", "worker")
    assert sorted(p["metadata"]["labels"]["trainyard.dev/index"] for p in pods) == ["0", "1"]


async def prepare(testbed: Testbed) -> Object:
    """Submit three jobs: two that run, and one that is too large; returns the one to delete."""
    await testbed.add_nodes(8)
    deleted_job = await testbed.submit("deleted", 2)
    await testbed.submit("degraded", 2)
    await testbed.wait_for_phase("deleted", "Running")
    await testbed.wait_for_phase("degraded", "Running")
    await testbed.submit("large", 8)
    await testbed.wait_for_phase("large", "Waiting")
    return deleted_job


async def test_changes_during_a_disconnect_are_reconciled_afterwards(
    testbed: Testbed, proxy: Proxy, remote: OperatorProcess, operator_namespace: str
) -> None:
    await remote.start_until_ready()
    deleted_job = await prepare(testbed)
    await proxy.cut()
    await change_everything(testbed)
    await proxy.restore()
    await wait_until_reconciled(testbed, deleted_job, operator_namespace)


async def test_changes_older_than_the_watch_cache_are_reconciled(
    testbed: Testbed,
    kube: KubeClient,
    proxy: Proxy,
    remote: OperatorProcess,
    operator_namespace: str,
    api_cluster: Cluster,
) -> None:
    """A watch from a version before the API server's restart returns 410 Gone."""
    await remote.start_until_ready()
    deleted_job = await prepare(testbed)
    jobs = await kube.get(testbed.jobs_path(DISTRIBUTED_JOB))
    await proxy.cut()
    await change_everything(testbed)
    await restart_api_server(api_cluster.kubeconfig)
    await wait_until_expired(kube, jobs["metadata"]["resourceVersion"])
    await proxy.restore()
    await wait_until_reconciled(testbed, deleted_job, operator_namespace)


async def test_connections_that_break_while_pods_are_created_cause_no_restart(
    testbed: Testbed, proxy: Proxy, remote: OperatorProcess
) -> None:
    await remote.start_until_ready()
    await testbed.add_nodes(*[8] * 4)
    for number in range(8):
        await testbed.submit(f"job-{number}", 4)
        proxy.reset()
    for number in range(8):
        await testbed.wait_for_pods(f"job-{number}", "coordinator-1", *workers(0, 1, 2, 3))
        job = await testbed.wait_for_phase(f"job-{number}", "Running")
        assert "restarts" not in job["status"]


async def test_the_operator_is_not_healthy_before_its_caches_are_synced(
    proxy: Proxy, remote: OperatorProcess
) -> None:
    await proxy.cut()
    remote.start()

    async def listens() -> int:
        status = await asyncio.to_thread(remote.health)
        assert status
        return status

    assert await eventually(listens) == 503
    await proxy.restore()
    await asyncio.to_thread(remote.wait_until_ready)
