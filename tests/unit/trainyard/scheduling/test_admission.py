"""The queue: its order, who starts, and what the others are told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trainyard.api.cluster import Cluster, GpuPod, Node, Taint
from trainyard.api.names import Key
from trainyard.api.reasons import Reason
from trainyard.scheduling.admission import admit, queue_position
from trainyard.scheduling.capacity import Ledger
from trainyard.scheduling.request import Decision, JobRequest

GPU = "nvidia.com/gpu"
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


def job(name: str, *, age: int = 0, **fields: Any) -> JobRequest:
    """A waiting job of 1 × 1 GPU, `age` minutes old."""
    key = Key("DistributedJob", "team", name)
    return JobRequest(key=key, created_at=NOW - timedelta(minutes=age), **fields)


def cluster(*gpus: int, pods: tuple[GpuPod, ...] = (), **fields: Any) -> Cluster:
    nodes = (Node(name=f"n{n}", gpus={GPU: count}, **fields) for n, count in enumerate(gpus))
    return Cluster(nodes=tuple(nodes), pods=pods)


def stranger(node: str, gpus: int) -> GpuPod:
    return GpuPod(namespace="other", name="notebook", resource=GPU, gpus=gpus, node=node)


def admit_all(where: Cluster, *jobs: JobRequest) -> dict[str, Decision]:
    ledger = Ledger(where)
    return {j.key.name: admit(j, ledger, NOW) for j in sorted(jobs, key=queue_position)}


def test_the_queue_goes_by_priority_then_age_then_key() -> None:
    jobs = [job("b"), job("a"), job("old", age=9), job("urgent", priority=7)]
    order = [j.key.name for j in sorted(jobs, key=queue_position)]
    assert order == ["urgent", "old", "a", "b"]


@pytest.mark.parametrize(
    ("gpus", "fields", "workers"),
    [
        pytest.param((8,), {"start_workers": 4, "max_workers": 8}, 4, id="what it starts with"),
        pytest.param((3,), {"start_workers": 4, "max_workers": 8}, 3, id="as many as fit"),
        pytest.param((8,), {"start_workers": 9, "max_workers": 2}, 2, id="no more than its max"),
        pytest.param((8,), {"min_workers": 3, "max_workers": 4}, 3, id="no fewer than its min"),
        pytest.param((3, 3), {"min_workers": 2, "gpus_per_worker": 2}, 2, id="across nodes"),
        pytest.param((), {"gpus_per_worker": 0, "start_workers": 5, "max_workers": 8}, 5, id="CPU"),
    ],
)
def test_a_job_that_fits_starts_with(
    gpus: tuple[int, ...], fields: dict[str, Any], workers: int
) -> None:
    fields = {"max_workers": 2, **fields}
    decision = admit_all(cluster(*gpus), job("a", **fields))["a"]
    assert (decision.workers, decision.reason) == (workers, Reason.ADMITTED)
    assert decision.recommended == workers


def test_a_job_whose_gang_does_not_fit_waits_and_says_for_what() -> None:
    where = cluster(8, 2, pods=(stranger("n0", 7),), labels={"zone": "a"})
    large = job("b", min_workers=4, max_workers=4, gpus_per_worker=2, node_selector={"zone": "a"})
    decision = admit_all(where, large, job("a", age=5, min_workers=5, max_workers=5))["b"]
    assert (decision.workers, decision.reason) == (0, Reason.WAITING_FOR_GPUS)
    assert decision.message == (
        "needs 4 × 2 nvidia.com/gpu with selector zone=a (min); 3 free on 2 nodes; 1 job before it"
    )


def test_gpus_scattered_over_nodes_are_no_room_for_a_large_worker() -> None:
    where = cluster(4, 4, pods=(stranger("n0", 2), stranger("n1", 2)))
    decision = admit_all(where, job("a", gpus_per_worker=4))["a"]
    assert decision.reason is Reason.WAITING_FOR_GPUS
    assert decision.message.endswith("4 free on 2 nodes")


def test_a_small_job_does_not_pass_a_large_one_on_nodes_that_both_could_use() -> None:
    where = cluster(4, pods=(stranger("n0", 2),))
    large = job("large", age=9, min_workers=4, max_workers=4)
    decisions = admit_all(where, large, job("small"), job("urgent", priority=1))
    assert decisions["urgent"].reason is Reason.ADMITTED
    assert decisions["large"].reason is Reason.WAITING_FOR_GPUS
    assert decisions["small"].reason is Reason.WAITING_IN_QUEUE
    assert decisions["small"].message.endswith("1 free on 1 node; 1 job before it")


def test_a_small_job_passes_a_large_one_on_nodes_that_the_large_one_could_not_use() -> None:
    small_node = Node(name="m", gpus={GPU: 1})
    held = cluster(4, pods=(stranger("n0", 3),))
    where = Cluster(nodes=(*held.nodes, small_node), pods=held.pods)
    large = job("large", age=9, gpus_per_worker=4)
    decisions = admit_all(where, large, job("first"), job("second"))
    assert decisions["first"].reason is Reason.ADMITTED
    assert decisions["second"].reason is Reason.WAITING_IN_QUEUE


def test_other_resources_and_cpu_jobs_are_not_held_up() -> None:
    amd = Node(name="amd", gpus={"amd.com/gpu": 1})
    where = Cluster(nodes=(*cluster(4).nodes, amd), pods=(stranger("n0", 1),))
    decisions = admit_all(
        where,
        job("large", age=9, min_workers=4, max_workers=4),
        job("other", resource="amd.com/gpu"),
        job("cpu", gpus_per_worker=0),
    )
    assert decisions["large"].reason is Reason.WAITING_FOR_GPUS
    assert decisions["other"].reason is decisions["cpu"].reason is Reason.ADMITTED


def test_a_job_that_fits_on_no_cluster_like_this_says_so_and_holds_up_nobody() -> None:
    decisions = admit_all(
        cluster(4, 4), job("huge", age=9, min_workers=3, max_workers=3, gpus_per_worker=4), job("a")
    )
    assert decisions["huge"].reason is Reason.NO_SUCH_NODES
    assert decisions["huge"].message == (
        "needs 3 × 4 nvidia.com/gpu (min); 2 nodes could hold such a worker by size, labels and "
        "taints, 2 of them in all even if empty"
    )
    assert decisions["a"].reason is Reason.ADMITTED


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"labels": {"zone": "b"}}, id="other labels"),
        pytest.param({"taints": (Taint(key="dedicated"),)}, id="taints"),
    ],
)
def test_nodes_that_repel_the_job_are_no_nodes(fields: dict[str, Any]) -> None:
    decisions = admit_all(cluster(4, **fields), job("a", node_selector={"zone": "a"}))
    assert decisions["a"].reason is Reason.NO_SUCH_NODES


def test_a_job_for_nodes_that_are_not_ready_waits_but_holds_up_nobody() -> None:
    resting = Node(name="big", gpus={GPU: 8}, is_ready=False)
    where = Cluster(nodes=(*cluster(2).nodes, resting))
    decisions = admit_all(where, job("large", age=9, min_workers=4, max_workers=4), job("a"))
    assert decisions["large"].reason is Reason.WAITING_FOR_GPUS
    assert decisions["large"].message.endswith("1 node that could hold it not ready")
    assert decisions["a"].reason is Reason.ADMITTED


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [
        pytest.param(30, Reason.START_TIMED_OUT, id="until then it stands back"),
        pytest.param(0, Reason.ADMITTED, id="then it queues again"),
    ],
)
def test_a_gang_that_did_not_start_in_time_stands_back(seconds: int, reason: Reason) -> None:
    until = NOW + timedelta(seconds=seconds)
    decisions = admit_all(cluster(1), job("late", age=9, refused_until=until), job("next"))
    assert decisions["late"].reason is reason
    if reason is Reason.START_TIMED_OUT:
        assert decisions["late"].requeue_at == until
        assert "12:00:30" in decisions["late"].message
        assert decisions["next"].reason is Reason.ADMITTED
