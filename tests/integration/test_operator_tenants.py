"""One namespace's quota, webhook or second operator costs no other namespace anything."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.process import OperatorProcess
from tests.support.proxy import Proxy
from tests.support.testbed import Testbed, condition
from tests.support.waiting import eventually
from tools.localcluster import Cluster
from trainyard.cluster.client import KubeClient

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("collected")]

LARGE = 64
JOBS = 40
"""More than the operator has workers for reconciles."""


@pytest.fixture
async def proxy(api_cluster: Cluster) -> AsyncIterator[Proxy]:
    async with Proxy(api_cluster.kubeconfig, records=True) as opened:
        yield opened


@pytest.fixture
async def remote(
    proxy: Proxy, operator_namespace: str, tmp_path: Path
) -> AsyncIterator[OperatorProcess]:
    """An operator whose requests the proxy records and holds back."""
    kubeconfig = proxy.write_kubeconfig(tmp_path / "kubeconfig")
    process = OperatorProcess(kubeconfig, operator_namespace, tmp_path / "operator.log")
    await process.start_until_ready()
    yield process
    await asyncio.to_thread(process.kill)


@pytest.fixture
async def neighbor(kube: KubeClient) -> AsyncIterator[Testbed]:
    """Another namespace, whose owner causes trouble."""
    created = Testbed(kube, f"neighbor-{uuid.uuid4().hex[:8]}")
    await created.open()
    yield created
    await created.close()


def pods_created(proxy: Proxy, testbed: Testbed) -> int:
    path = testbed.path("pods")
    return sum(
        method == "POST" and found.partition("?")[0] == path for method, found in proxy.changes
    )


@pytest.mark.usefixtures("remote")
async def test_jobs_that_a_quota_refuses_cost_few_requests(
    testbed: Testbed, neighbor: Testbed, kube: KubeClient, proxy: Proxy
) -> None:
    """It was a request for each pod each time that anything of the job changed."""
    await testbed.add_nodes(8)
    await neighbor.add_nodes(0, 0)
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    await kube.create(neighbor.path("resourcequotas"), quota)

    async def in_force() -> None:
        found = await kube.get(neighbor.path("resourcequotas", "none"))
        assert found.get("status", {}).get("hard"), "the quota's controller has not synced it"

    await eventually(in_force)
    names = [f"large-{number}" for number in range(3)]
    for name in names:
        await neighbor.submit(name, LARGE, gpus=0)
    for name in names:
        refused = await neighbor.wait_for(
            name, lambda job: condition(job, "Degraded")["reason"] == "ChildRefused"
        )
        assert "exceeded quota: none" in condition(refused, "Degraded")["message"]
    for number in range(4):  # events of the refused jobs
        for name in names:
            await neighbor.update_spec(name, failure={"maxRestarts": number})
    await testbed.submit("honest", 1)
    await testbed.wait_for_pods("honest", "coordinator-1", "worker-0-1")
    await testbed.wait_for_phase("honest", "Running")
    # One for each change of a spec, and one after each pause; their sum doubles.
    assert 3 <= pods_created(proxy, neighbor) <= 3 * (5 + 8)
    await kube.delete(neighbor.path("resourcequotas", "none"))

    async def created() -> None:
        assert len(await neighbor.pods()) == 3 * (LARGE + 1)

    await eventually(created)


@pytest.mark.usefixtures("remote")
async def test_a_slow_webhook_delays_no_other_namespace(
    testbed: Testbed, neighbor: Testbed, proxy: Proxy
) -> None:
    """It did: its requests held all slots, and its jobs all workers."""
    await testbed.add_nodes(8)
    await neighbor.add_nodes(0, 0)
    path = neighbor.path("pods")
    proxy.hold(path)
    for number in range(JOBS):
        await neighbor.submit(f"slow-{number}", 1, gpus=0)

    async def in_flight() -> None:
        assert pods_created(proxy, neighbor) >= 2

    await eventually(in_flight)
    for number in range(3):
        await testbed.submit(f"honest-{number}", 1)
    for number in range(3):
        await testbed.wait_for_phase(f"honest-{number}", "Running")
    assert await neighbor.pods() == [], "all of them are still held back"
    proxy.release(path)

    async def created() -> None:
        pods = await neighbor.pods()
        owners = Counter(pod["metadata"]["ownerReferences"][0]["name"] for pod in pods)
        assert list(owners.values()) == [2] * JOBS

    await eventually(created)


async def test_a_second_installation_leaves_the_jobs_alone(
    testbed: Testbed, kube: KubeClient, api_cluster: Cluster, neighbor: Testbed, tmp_path: Path
) -> None:
    """Both operators created the pods, each with an authority of its own."""
    await testbed.add_nodes(8)
    shared = f"--installations-namespace={neighbor.namespace}"
    processes = []
    for name in ("first", "second"):
        own = await kube.create(
            "/api/v1/namespaces", {"metadata": {"name": f"{testbed.namespace}-{name}"}}
        )
        namespaces = f"--namespace={testbed.namespace}"
        processes.append(
            OperatorProcess(
                api_cluster.kubeconfig,
                own["metadata"]["name"],
                tmp_path / f"{name}.log",
                *(shared, namespaces),
            )
        )
    first, second = processes
    try:
        await first.start_until_ready()
        await testbed.submit("digits", 1)
        await testbed.wait_for_phase("digits", "Running")
        second.start()

        async def ended() -> None:
            assert second.poll() == 4

        await eventually(ended)
        log = second.log.read_text()
        assert "refusing to act as a second installation" in log
        assert f"{testbed.namespace}-first.trainyard serves {testbed.namespace}" in log
        assert "decision made" not in log
        assert first.poll() is None
    finally:
        for process in processes:
            await asyncio.to_thread(process.kill)
        for name in ("first", "second"):
            await kube.delete(f"/api/v1/namespaces/{testbed.namespace}-{name}")
