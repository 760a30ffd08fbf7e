"""The operator loses its API server while objects change: afterwards all is as it should be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.apiserver import restart_api_server, until_gone
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
    async with Proxy(api_cluster.kubeconfig) as found:
        yield found


@pytest.fixture
async def remote(
    proxy: Proxy, operator_namespace: str, tmp_path: Path
) -> AsyncIterator[OperatorProcess]:
    """An operator that reaches the API server through the proxy alone."""
    kubeconfig = proxy.write_kubeconfig(tmp_path / "kubeconfig")
    process = OperatorProcess(kubeconfig, operator_namespace, tmp_path / "operator.log")
    yield process
    await asyncio.to_thread(process.stop)


async def start(operator: OperatorProcess) -> None:
    operator.start()
    await asyncio.to_thread(operator.wait_until_ready)


async def change_everything(testbed: Testbed, gone: Object) -> None:
    """What no event will tell of: a job and a pod are deleted, a job and a node come."""
    await testbed.delete("gone")
    await testbed.client.delete(testbed.path("pods", "hurt-worker-1-1"))

    async def settled() -> None:
        assert await testbed.pods("gone") == []
        assert len(await testbed.pods("hurt", "worker")) == 1

    await eventually(settled)
    await testbed.submit("new", 2)
    await testbed.add_nodes(8)


async def all_is_right(testbed: Testbed, gone: Object, operator_namespace: str) -> None:
    await testbed.wait_for_phase("new", "Running")
    await testbed.wait_for_pods("new", "coordinator-1", *workers(0, 1))
    await testbed.wait_for_phase("large", "Running")
    await eventually(lambda: _two_workers(testbed))
    await testbed.wait_for_phase("hurt", "Running")
    uid = gone["metadata"]["uid"]
    authority = f"/api/v1/namespaces/{operator_namespace}/secrets/trainyard-ca-{uid}"

    async def swept() -> None:
        assert not await testbed.exists(authority)

    await eventually(swept)


async def _two_workers(testbed: Testbed) -> None:
    pods = await testbed.pods("hurt", "worker")
    assert sorted(p["metadata"]["labels"]["trainyard.dev/index"] for p in pods) == ["0", "1"]


async def prepare(testbed: Testbed) -> Object:
    """Three jobs: two that run, and one too large for the nodes there are."""
    await testbed.add_nodes(8)
    gone = await testbed.submit("gone", 2)
    await testbed.submit("hurt", 2)
    await testbed.wait_for_phase("gone", "Running")
    await testbed.wait_for_phase("hurt", "Running")
    await testbed.submit("large", 8)
    await testbed.wait_for_phase("large", "Waiting")
    return gone


async def test_changes_during_a_disconnect_are_found(
    testbed: Testbed, proxy: Proxy, remote: OperatorProcess, operator_namespace: str
) -> None:
    await start(remote)
    gone = await prepare(testbed)
    await proxy.cut()
    await change_everything(testbed, gone)
    await proxy.restore()
    await all_is_right(testbed, gone, operator_namespace)


async def test_changes_that_the_api_server_has_forgotten_are_found(
    testbed: Testbed,
    kube: KubeClient,
    proxy: Proxy,
    remote: OperatorProcess,
    operator_namespace: str,
    api_cluster: Cluster,
) -> None:
    """A watch that goes on from before the API server's restart is answered 410 Gone."""
    await start(remote)
    gone = await prepare(testbed)
    jobs = await kube.get(testbed.jobs_path(DISTRIBUTED_JOB))
    await proxy.cut()
    await change_everything(testbed, gone)
    await restart_api_server(api_cluster.kubeconfig)
    await until_gone(kube, jobs["metadata"]["resourceVersion"])
    await proxy.restore()
    await all_is_right(testbed, gone, operator_namespace)


async def test_connections_that_break_while_pods_are_created_repeat_nothing(
    testbed: Testbed, proxy: Proxy, remote: OperatorProcess
) -> None:
    await start(remote)
    await testbed.add_nodes(*[8] * 4)
    for number in range(8):
        await testbed.submit(f"job-{number}", 4)
        proxy.reset()
    for number in range(8):
        await testbed.wait_for_pods(f"job-{number}", "coordinator-1", *workers(0, 1, 2, 3))
        job = await testbed.wait_for_phase(f"job-{number}", "Running")
        assert "restarts" not in job["status"]


async def test_it_is_not_healthy_before_it_has_seen_the_cluster(
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
