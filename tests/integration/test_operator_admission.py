"""Who may start: gangs by node, strangers' pods, the order of the queue, and nodes that change."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from tests.support import manifests
from tests.support.kubelet import Kubelet
from tests.support.manifests import Object
from tests.support.testbed import Testbed, condition, phase, scaling, workers
from tests.support.waiting import eventually
from trainyard.cluster.client import KubeClient

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]


async def occupy(testbed: Testbed, name: str, gpus: int, node: str) -> None:
    """A stranger's pod runs on the node."""
    stranger = manifests.stranger(name, testbed.namespace, gpus, node)
    await testbed.client.create(testbed.path("pods"), stranger)

    async def bound() -> None:
        assert (await testbed.pod(name))["spec"].get("nodeName") == node

    await eventually(bound)


async def vacate(testbed: Testbed, name: str) -> None:
    """The stranger's pod goes."""
    await testbed.client.delete(testbed.path("pods", name), grace_seconds=0)


async def waits(testbed: Testbed, name: str, reason: str, told: str = "") -> None:
    """Wait until the job waits for that reason and says `told`, the selector left out.

    A sentence alone is brought up to date a few seconds later than a reason.
    """

    def holds(job: Object) -> bool:
        admitted = condition(job, "Admitted")
        said = str(admitted["message"]).replace(
            f" with selector trainyard.dev/pool={testbed.namespace}", ""
        )
        return admitted["reason"] == reason and (not told or said == told)

    job = await testbed.wait_for(name, holds)
    assert phase(job) == "Waiting"


async def test_strangers_pods_count_on_their_own_node(testbed: Testbed) -> None:
    """Five GPUs are free in all, but no node has the four of one worker."""
    first, second = await testbed.add_nodes(8, 8)
    await occupy(testbed, "one", 6, first)
    await occupy(testbed, "two", 5, second)
    await testbed.submit("digits", 1, gpus=4)
    told = "needs 1 × 4 nvidia.com/gpu (min); 5 free on 2 nodes"
    await waits(testbed, "digits", "WaitingForGPUs", told)
    await vacate(testbed, "one")
    await testbed.wait_for_pods("digits", "coordinator-1", "worker-0-1")


async def test_a_gang_starts_whole_or_not_at_all(testbed: Testbed) -> None:
    """Two nodes of three GPUs hold one worker of two each, not three workers."""
    await testbed.add_nodes(3, 3)
    await testbed.submit("digits", 3, gpus=2, minimum=3, maximum=3)
    told = (
        "needs 3 × 2 nvidia.com/gpu (min); 2 nodes match by size, labels and taints, "
        "with capacity for 2 workers when empty"
    )
    await waits(testbed, "digits", "NoSuchNodes", told)
    assert await testbed.pods() == []
    await testbed.add_nodes(3)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1, 2))


async def test_the_queue_goes_by_priority_then_age(testbed: Testbed, kube: KubeClient) -> None:
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    [node] = await testbed.add_nodes(2)
    await occupy(testbed, "stranger", 2, node)
    await testbed.submit("zebra", 2)
    await _next_second()
    await testbed.submit("ape", 2)
    await kube.create(classes, {"metadata": {"name": testbed.namespace}, "value": 50})
    try:
        await testbed.submit("high", 2, priorityClassName=testbed.namespace)
        for name in ("zebra", "ape", "high"):
            await waits(testbed, name, "WaitingForGPUs")
        await vacate(testbed, "stranger")
        for name in ("high", "zebra", "ape"):
            await testbed.wait_for_phase(name, "Running")
            others = {phase(j) for j in await testbed.jobs() if j["metadata"]["name"] != name}
            assert others <= {"Waiting"}
            await testbed.delete(name)
    finally:
        await kube.delete(f"{classes}/{testbed.namespace}")


async def test_a_small_job_does_not_starve_the_first_that_waits(testbed: Testbed) -> None:
    [node] = await testbed.add_nodes(4)
    await occupy(testbed, "stranger", 2, node)
    await testbed.submit("large", 4)
    await waits(testbed, "large", "WaitingForGPUs")
    await _next_second()
    await testbed.submit("small", 1)
    told = "needs 1 × 1 nvidia.com/gpu (min); 2 free on 1 node; 1 job before it"
    await waits(testbed, "small", "WaitingInQueue", told)
    await vacate(testbed, "stranger")
    await testbed.wait_for_phase("large", "Running")
    await waits(testbed, "small", "WaitingForGPUs")
    await testbed.delete("large")
    await testbed.wait_for_phase("small", "Running")


async def test_as_many_start_as_fit_and_the_rest_follow(testbed: Testbed) -> None:
    await testbed.add_nodes(4)
    await testbed.submit("digits", 6, minimum=1, maximum=8)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1, 2, 3))
    job = await testbed.wait_for_phase("digits", "Running")
    told = scaling(job)["message"]
    assert ", of 6 wanted" in told or "workers.replicas asks for 6" in told
    await testbed.add_nodes(4)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(*range(6)))
    job = await testbed.wait_for("digits", lambda job: scaling(job)["desired"] == 6)
    changes = [(c.get("from", 0), c["to"], c["reason"]) for c in scaling(job)["history"]]
    assert changes == [(0, 4, "Admitted"), (4, 6, "Requested")]


async def test_a_cordoned_node_takes_nobody(testbed: Testbed) -> None:
    [node] = await testbed.add_nodes(8, is_cordoned=True)
    await testbed.submit("digits", 1)
    told = "needs 1 × 1 nvidia.com/gpu (min); 0 free on 0 nodes; 1 matching node is not ready"
    await waits(testbed, "digits", "WaitingForGPUs", told)
    await testbed.patch(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": None}})
    await testbed.wait_for_phase("digits", "Running")


async def test_a_selector_keeps_jobs_apart(testbed: Testbed) -> None:
    """A job that waits for other nodes holds up nobody on these."""
    await testbed.add_nodes(2, labels={"gpu": "old"})
    new = {"trainyard.dev/pool": testbed.namespace, "gpu": "new"}
    await testbed.submit("picky", 1, template={"nodeSelector": new})
    await waits(testbed, "picky", "NoSuchNodes")
    await testbed.submit("modest", 2)
    await testbed.wait_for_phase("modest", "Running")
    await testbed.add_nodes(1, labels={"gpu": "new"})
    await testbed.wait_for_phase("picky", "Running")


async def test_a_lost_nodes_workers_wait_for_another(testbed: Testbed, kubelet: Kubelet) -> None:
    _, second = await testbed.add_nodes(2, 2)
    await testbed.submit("digits", 4, minimum=1, maximum=4)
    await testbed.wait_for_phase("digits", "Running")
    await testbed.client.delete(f"/api/v1/nodes/{second}")
    lost = [p for p in await testbed.pods("digits") if p["spec"]["nodeName"] == second]
    assert len(lost) >= 2
    for pod in lost:
        await kubelet.remove(pod)
    job = await testbed.wait_for("digits", lambda job: scaling(job)["reason"] == "NoFreeGPUs")
    assert "of 4 workers can no longer get GPUs, giving up at" in scaling(job)["message"]
    assert phase(job) == "Rescaling"
    await testbed.add_nodes(2)
    job = await testbed.wait_for_phase("digits", "Running")
    assert scaling(job)["desired"] == 4


async def _next_second() -> None:
    """Let the clock's second change: the age of jobs counts in whole seconds."""
    now = datetime.now(UTC).replace(microsecond=0)
    while datetime.now(UTC).replace(microsecond=0) == now:
        await asyncio.sleep(0.02)
