"""Manual scaling through the scale subresource: pods, status and Events."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.manifests import Object
from tests.support.testbed import Testbed, condition, scaling, workers
from tests.support.waiting import eventually
from tools.localcluster import Cluster
from tools.localcluster.commands import run
from trainyard.cluster.errors import ApiError

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]


def changes(job: Object) -> list[tuple[int, int, str]]:
    return [(c.get("from", 0), c["to"], c["reason"]) for c in scaling(job).get("history", [])]


def sizes(job: Object) -> tuple[int, int, int]:
    """Desired and current workers, and those of the scale subresource."""
    status = scaling(job)
    return status["desired"], status.get("current", 0), job["status"].get("replicas", 0)


def uids(pods: list[Object]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


async def test_a_job_is_scaled_from_two_to_five_to_three_workers(
    testbed: Testbed, api_cluster: Cluster
) -> None:
    await testbed.add_nodes(8)
    await testbed.submit("digits", 2, minimum=1, maximum=8)
    await testbed.wait_for_phase("digits", "Running")
    two = uids(await testbed.pods("digits"))
    await testbed.scale("digits", 5)
    five = uids(await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1, 2, 3, 4)))
    assert two < five
    kubectl: list[str | Path] = [api_cluster.kubectl, "--kubeconfig", api_cluster.kubeconfig]
    kubectl += ["--namespace", testbed.namespace]
    run([*kubectl, "scale", "dj/digits", "--replicas=3"])
    three = uids(await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1, 2)))
    assert two < three < five
    job = await testbed.wait_for("digits", lambda job: sizes(job) == (3, 3, 3))
    assert changes(job) == [(0, 2, "Admitted"), (2, 5, "Requested"), (5, 3, "Requested")]
    messages = [e["message"] for e in await testbed.wait_for_events("digits", "Requested", 2)]
    pool = f"with selector trainyard.dev/pool={testbed.namespace}"
    assert messages == [
        f"workers.replicas asks for 5 and 3 × 1 nvidia.com/gpu {pool} fit: growing 2→5",
        "workers.replicas asks for 3: shrinking 5→3",
    ]
    scale = await testbed.client.get(f"{testbed.job_path('digits')}/scale")
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (3, 3)


async def test_scaling_up_beyond_the_capacity_reports_the_shortage(testbed: Testbed) -> None:
    await testbed.add_nodes(4)
    await testbed.submit("digits", 2, minimum=1, maximum=8)
    await testbed.wait_for_phase("digits", "Running")
    await testbed.scale("digits", 6)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1, 2, 3))
    job = await testbed.wait_for("digits", lambda job: scaling(job)["reason"] == "NoFreeGPUs")
    assert changes(job) == [(0, 2, "Admitted"), (2, 4, "Requested")]
    assert "to grow it needs 2 × 1 nvidia.com/gpu" in scaling(job)["message"]
    assert "0 free on 0 nodes" in scaling(job)["message"]


async def test_changed_bounds_scale_a_running_job(testbed: Testbed) -> None:
    await testbed.add_nodes(8)
    await testbed.submit("digits", 4, minimum=1, maximum=8, policy="Throughput")
    await testbed.wait_for_phase("digits", "Running")
    await testbed.update_spec("digits", workers={"max": 2})
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1))
    await testbed.update_spec("digits", workers={"min": 3, "max": 3})
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1, 2))
    job = await testbed.wait_for("digits", lambda job: sizes(job) == (3, 3, 3))
    assert changes(job)[1:] == [(4, 2, "BoundsChanged"), (2, 3, "BoundsChanged")]


async def test_replicas_cannot_change_under_a_policy(testbed: Testbed) -> None:
    await testbed.add_nodes(8)
    await testbed.submit("digits", 1, minimum=1, maximum=4, policy="Throughput")
    await testbed.wait_for_phase("digits", "Running")
    with pytest.raises(ApiError, match=r"set scaling\.policy to Manual, or change min and max"):
        await testbed.scale("digits", 3)
    with pytest.raises(ApiError, match="set suspend to true instead"):
        await testbed.scale("digits", 0)


async def test_rapid_scaling_ends_at_the_last_size(testbed: Testbed) -> None:
    """The sizes change faster than pods start and end."""
    await testbed.add_nodes(8)
    await testbed.submit("digits", 2, minimum=1, maximum=8)
    await testbed.wait_for_phase("digits", "Running")
    for replicas in (6, 2, 7, 1, 4):
        await testbed.scale("digits", replicas)

    job = await testbed.wait_for("digits", lambda job: sizes(job) == (4, 4, 4))
    assert condition(job, "Running")["status"] == "True"

    async def only_four() -> None:
        pods = await testbed.pods("digits", "worker")
        indices = [p["metadata"]["labels"]["trainyard.dev/index"] for p in pods]
        assert sorted(indices) == ["0", "1", "2", "3"]

    await eventually(only_four)
