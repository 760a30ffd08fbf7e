"""Admission: gangs, foreign pods, the order of the queue, and nodes that change."""

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


async def occupy(
    testbed: Testbed, name: str, count: int, node: str, resource: str = manifests.GPU
) -> None:
    """Bind a foreign pod that holds so much of the resource to the node."""
    pod = manifests.foreign_pod(name, testbed.namespace, count, node, resource)
    await testbed.create("pods", pod)

    async def bound() -> None:
        assert (await testbed.pod(name))["spec"].get("nodeName") == node

    await eventually(bound)


async def vacate(testbed: Testbed, name: str) -> None:
    """Delete the foreign pod."""
    await testbed.client.delete(testbed.path("pods", name), grace_seconds=0)


async def wait_for_waiting(testbed: Testbed, name: str, reason: str, message: str = "") -> None:
    """Wait until the job waits with that reason and message, apart from the selector.

    A message that changes alone is written a few seconds later than a reason.
    """

    def predicate(job: Object) -> bool:
        admitted = condition(job, "Admitted")
        actual = str(admitted["message"]).replace(
            f" with selector trainyard.dev/pool={testbed.namespace}", ""
        )
        return admitted["reason"] == reason and (not message or actual == message)

    job = await testbed.wait_for(name, predicate)
    assert phase(job) == "Waiting"


def adapters(count: int) -> Object:
    """Options of a job whose workers have so many network adapters and no GPU."""
    return {"gpus": 0, "resources": {"limits": {manifests.ADAPTER: count}}}


async def test_foreign_pods_occupy_devices_of_their_own_node_only(testbed: Testbed) -> None:
    """Five adapters are free in total, but no node has four."""
    first, second = await testbed.add_nodes(8, 8)
    await occupy(testbed, "one", 6, first, manifests.ADAPTER)
    await occupy(testbed, "two", 5, second, manifests.ADAPTER)
    await testbed.submit("digits", 1, **adapters(4))
    message = (
        f"needs 1 × 4 {manifests.ADAPTER} (min); 5 free on 2 nodes; pods of no job in the way: "
        f"{testbed.namespace}/one, {testbed.namespace}/two"
    )
    await wait_for_waiting(testbed, "digits", "WaitingForGPUs", message)
    await vacate(testbed, "one")
    await testbed.wait_for_pods("digits", "coordinator-1", "worker-0-1")


async def test_a_gang_starts_whole_or_not_at_all(testbed: Testbed) -> None:
    """Two nodes of three adapters have capacity for one worker with two adapters each."""
    await testbed.add_nodes(3, 3)
    await testbed.submit("digits", 3, minimum=3, maximum=3, **adapters(2))
    message = (
        f"needs 3 × 2 {manifests.ADAPTER} (min); 2 nodes match by size, labels and taints, "
        "with capacity for 2 workers when empty"
    )
    await wait_for_waiting(testbed, "digits", "NoSuchNodes", message)
    assert await testbed.pods() == []
    await testbed.add_nodes(3)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1, 2))


async def test_the_queue_is_ordered_by_priority_then_age(
    testbed: Testbed, kube: KubeClient
) -> None:
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    [node] = await testbed.add_nodes(2)
    await occupy(testbed, "foreign", 2, node)
    await testbed.submit("old", 2)
    await _next_second()
    await testbed.submit("new", 2)
    await kube.create(classes, {"metadata": {"name": testbed.namespace}, "value": 50})
    try:
        await testbed.submit("high", 2, priorityClassName=testbed.namespace)
        for name in ("old", "new", "high"):
            await wait_for_waiting(testbed, name, "WaitingForGPUs")
        await vacate(testbed, "foreign")
        for name in ("high", "old", "new"):
            await testbed.wait_for_phase(name, "Running")
            others = {phase(j) for j in await testbed.jobs() if j["metadata"]["name"] != name}
            assert others <= {"Waiting"}
            await testbed.delete(name)
    finally:
        await kube.delete(f"{classes}/{testbed.namespace}")


async def test_a_small_job_does_not_starve_the_first_in_the_queue(testbed: Testbed) -> None:
    await testbed.add_nodes(4)
    await testbed.submit("running", 2)
    await testbed.wait_for_phase("running", "Running")
    await _next_second()
    await testbed.submit("large", 4)
    await wait_for_waiting(testbed, "large", "WaitingForGPUs")
    await _next_second()
    await testbed.submit("small", 1)
    message = "needs 1 × 1 nvidia.com/gpu (min); 2 free on 1 node; 1 job before it"
    await wait_for_waiting(testbed, "small", "WaitingInQueue", message)
    await testbed.delete("running")
    await testbed.wait_for_phase("large", "Running")
    await wait_for_waiting(testbed, "small", "WaitingForGPUs")
    await testbed.delete("large")
    await testbed.wait_for_phase("small", "Running")


async def test_a_pod_of_no_job_does_not_stop_the_queue(testbed: Testbed) -> None:
    [node] = await testbed.add_nodes(4)
    await occupy(testbed, "notebook", 1, node)
    await testbed.submit("large", 4)
    message = (
        "needs 4 × 1 nvidia.com/gpu (min); 3 free on 1 node; pods of no job in the way: "
        f"{testbed.namespace}/notebook"
    )
    await wait_for_waiting(testbed, "large", "WaitingForGPUs", message)
    await _next_second()
    await testbed.submit("small", 1)
    await testbed.wait_for_phase("small", "Running")


async def test_workers_are_admitted_by_cpu_too(testbed: Testbed) -> None:
    """A simulated node has 64 cores; a worker for which there is no CPU stayed Pending."""
    await testbed.add_nodes(8)
    resources: Object = {"resources": {"requests": {"cpu": "40"}}}
    await testbed.submit("digits", 2, minimum=1, maximum=2, **resources)
    await testbed.wait_for_pods("digits", "coordinator-1", "worker-0-1")
    short = "has 23900m cpu free beside 7 nvidia.com/gpu"
    await testbed.wait_for("digits", lambda job: short in scaling(job)["message"])
    await testbed.submit("cpu", 1, gpus=0, **resources)
    message = (
        "needs 1 × 40 cpu (min); 0 fit on 0 nodes, but node "
        f"{testbed.namespace}-0 has 23900m cpu free"
    )
    await wait_for_waiting(testbed, "cpu", "WaitingForResources", message)
    await testbed.delete("digits")
    await testbed.wait_for_phase("cpu", "Running")


async def test_as_many_workers_start_as_fit_and_the_rest_follow(testbed: Testbed) -> None:
    await testbed.add_nodes(4)
    await testbed.submit("digits", 6, minimum=1, maximum=8)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1, 2, 3))
    job = await testbed.wait_for_phase("digits", "Running")
    message = scaling(job)["message"]
    assert ", of 6 wanted" in message or "workers.replicas asks for 6" in message
    await testbed.add_nodes(4)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(*range(6)))
    job = await testbed.wait_for("digits", lambda job: scaling(job)["desired"] == 6)
    changes = [(c.get("from", 0), c["to"], c["reason"]) for c in scaling(job)["history"]]
    assert changes == [(0, 4, "Admitted"), (4, 6, "Requested")]


async def test_no_job_starts_on_a_cordoned_node(testbed: Testbed) -> None:
    [node] = await testbed.add_nodes(8, is_cordoned=True)
    await testbed.submit("digits", 1)
    message = "needs 1 × 1 nvidia.com/gpu (min); 0 free on 0 nodes; 1 matching node is not ready"
    await wait_for_waiting(testbed, "digits", "WaitingForGPUs", message)
    await testbed.patch(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": None}})
    await testbed.wait_for_phase("digits", "Running")


async def test_a_job_with_an_unsatisfied_selector_does_not_block_others(testbed: Testbed) -> None:
    """The first job waits for nodes that the second does not use."""
    await testbed.add_nodes(2, labels={"gpu": "old"})
    new = {"trainyard.dev/pool": testbed.namespace, "gpu": "new"}
    await testbed.submit("selective", 1, template={"nodeSelector": new})
    await wait_for_waiting(testbed, "selective", "NoSuchNodes")
    await testbed.submit("small", 2)
    await testbed.wait_for_phase("small", "Running")
    await testbed.add_nodes(1, labels={"gpu": "new"})
    await testbed.wait_for_phase("selective", "Running")


async def test_the_workers_of_a_lost_node_wait_for_another(
    testbed: Testbed, kubelet: Kubelet
) -> None:
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
    """Wait for the next second of the clock: creation timestamps have whole seconds."""
    now = datetime.now(UTC).replace(microsecond=0)
    while datetime.now(UTC).replace(microsecond=0) == now:
        await asyncio.sleep(0.02)
