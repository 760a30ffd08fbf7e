"""The queue: its order, which jobs start, and why the others wait."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.requests import with_shape
from trainyard.api.cluster import Cluster, Node, PodInfo, Taint
from trainyard.api.names import Key
from trainyard.api.reasons import Reason
from trainyard.scheduling.admission import admit, queue_position
from trainyard.scheduling.capacity import Ledger
from trainyard.scheduling.decision import Decision
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.usage import ClusterUsage

GPU = "nvidia.com/gpu"
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


def job(name: str, *, age: int = 0, **fields: Any) -> JobRequest:
    """A waiting job of 1 × 1 GPU, `age` minutes old."""
    key = Key("DistributedJob", "team", name)
    return JobRequest(key=key, created_at=NOW - timedelta(minutes=age), **with_shape(fields))


def cluster(*gpus: int, pods: tuple[PodInfo, ...] = (), **fields: Any) -> Cluster:
    nodes = (
        Node(name=f"n{n}", allocatable={GPU: count, "cpu": 8000}, **fields)
        for n, count in enumerate(gpus)
    )
    return Cluster(nodes=tuple(nodes), pods=pods)


def of_a_job(node: str, gpus: int) -> PodInfo:
    """A pod of a running job, which ends some day."""
    return replace(notebook(node, gpus), job=Key("DistributedJob", "team", "running"))


def notebook(node: str, gpus: int) -> PodInfo:
    return PodInfo(namespace="other", name=f"notebook-{node}", requests={GPU: gpus}, node=node)


def admit_all(snapshot: Cluster, *jobs: JobRequest) -> dict[str, Decision]:
    ledger = Ledger(ClusterUsage(snapshot))
    return {j.key.name: admit(j, ledger, NOW) for j in sorted(jobs, key=queue_position)}


def test_the_queue_is_ordered_by_priority_then_age_then_key() -> None:
    jobs = [job("b"), job("a"), job("old", age=9), job("urgent", priority=7)]
    order = [j.key.name for j in sorted(jobs, key=queue_position)]
    assert order == ["urgent", "old", "a", "b"]


def test_a_job_whose_start_failed_stands_behind_its_equals_of_that_moment() -> None:
    failed = job("failed", age=60, last_failed_start=NOW - timedelta(minutes=10))
    jobs = [job("new", age=1), job("urgent", priority=7), failed, job("old", age=20)]
    order = [j.key.name for j in sorted(jobs, key=queue_position)]
    assert order == ["urgent", "old", "failed", "new"]


def test_a_job_that_was_suspended_comes_after_those_that_waited_meanwhile() -> None:
    resumed = job("resumed", age=60 * 24 * 30, resumed_at=NOW - timedelta(minutes=1))
    assert min(resumed, job("patient", age=9), key=queue_position).key.name == "patient"


@pytest.mark.parametrize(
    ("gpus", "fields", "workers"),
    [
        pytest.param((8,), {"start_workers": 4, "max_workers": 8}, 4, id="as requested"),
        pytest.param((3,), {"start_workers": 4, "max_workers": 8}, 3, id="as many as fit"),
        pytest.param((8,), {"start_workers": 9, "max_workers": 2}, 2, id="no more than its max"),
        pytest.param((8,), {"min_workers": 3, "max_workers": 4}, 3, id="no fewer than its min"),
        pytest.param((3, 3), {"min_workers": 2, "gpus_per_worker": 2}, 2, id="across nodes"),
        pytest.param(
            (0,), {"gpus_per_worker": 0, "start_workers": 5, "max_workers": 8}, 5, id="CPU"
        ),
    ],
)
def test_a_job_that_fits_starts(
    gpus: tuple[int, ...], fields: dict[str, Any], workers: int
) -> None:
    fields = {"max_workers": 2, **fields}
    decision = admit_all(cluster(*gpus), job("a", **fields))["a"]
    assert (decision.workers, decision.reason) == (workers, Reason.ADMITTED)
    assert decision.recommended == workers


def test_a_job_whose_minimum_does_not_fit_waits_and_names_what_it_needs() -> None:
    snapshot = cluster(8, 2, pods=(of_a_job("n0", 7),), labels={"zone": "a"})
    large = job("b", min_workers=4, max_workers=4, gpus_per_worker=2, node_selector={"zone": "a"})
    decision = admit_all(snapshot, large, job("a", age=5, min_workers=5, max_workers=5))["b"]
    assert (decision.workers, decision.reason) == (0, Reason.WAITING_FOR_GPUS)
    assert decision.message == (
        "needs 4 × 2 nvidia.com/gpu with selector zone=a (min); 3 free on 2 nodes; 1 job before it"
    )


def test_gpus_scattered_over_nodes_do_not_fit_a_large_worker() -> None:
    snapshot = cluster(4, 4, pods=(notebook("n0", 2), notebook("n1", 2)))
    decision = admit_all(snapshot, job("a", gpus_per_worker=4))["a"]
    assert decision.reason is Reason.WAITING_FOR_GPUS
    assert decision.message.endswith(
        "4 free on 2 nodes; pods of no job in the way: other/notebook-n0, other/notebook-n1"
    )


def test_a_small_job_does_not_pass_a_large_one_on_nodes_that_both_could_use() -> None:
    snapshot = cluster(4, pods=(of_a_job("n0", 2),))
    large = job("large", age=9, min_workers=4, max_workers=4)
    decisions = admit_all(snapshot, large, job("small"), job("urgent", priority=1))
    assert decisions["urgent"].reason is Reason.ADMITTED
    assert decisions["large"].reason is Reason.WAITING_FOR_GPUS
    assert decisions["small"].reason is Reason.WAITING_IN_QUEUE
    assert decisions["small"].message.endswith("1 free on 1 node; 1 job before it")


def test_a_small_job_passes_a_large_one_on_nodes_that_the_large_one_could_not_use() -> None:
    small_node = Node(name="m", allocatable={GPU: 1})
    busy = cluster(4, pods=(of_a_job("n0", 3),))
    snapshot = Cluster(nodes=(*busy.nodes, small_node), pods=busy.pods)
    large = job("large", age=9, gpus_per_worker=4)
    decisions = admit_all(snapshot, large, job("first"), job("second"))
    assert decisions["first"].reason is Reason.ADMITTED
    assert decisions["second"].reason is Reason.WAITING_IN_QUEUE


def test_other_resources_and_cpu_jobs_are_not_blocked() -> None:
    amd = Node(name="amd", allocatable={"amd.com/gpu": 1})
    snapshot = Cluster(nodes=(*cluster(4).nodes, amd), pods=(of_a_job("n0", 1),))
    decisions = admit_all(
        snapshot,
        job("large", age=9, min_workers=4, max_workers=4),
        job("other", resource="amd.com/gpu"),
        job("cpu", gpus_per_worker=0),
    )
    assert decisions["large"].reason is Reason.WAITING_FOR_GPUS
    assert decisions["other"].reason is decisions["cpu"].reason is Reason.ADMITTED


def test_a_job_too_large_for_the_cluster_is_reported_and_blocks_no_other() -> None:
    decisions = admit_all(
        cluster(4, 4), job("huge", age=9, min_workers=3, max_workers=3, gpus_per_worker=4), job("a")
    )
    assert decisions["huge"].reason is Reason.NO_SUCH_NODES
    assert decisions["huge"].message == (
        "needs 3 × 4 nvidia.com/gpu (min); 2 nodes match by size, labels and taints, "
        "with capacity for 2 workers when empty"
    )
    assert decisions["a"].reason is Reason.ADMITTED


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"labels": {"zone": "b"}}, id="other labels"),
        pytest.param({"taints": (Taint(key="dedicated"),)}, id="taints"),
    ],
)
def test_nodes_that_do_not_match_do_not_count(fields: dict[str, Any]) -> None:
    decisions = admit_all(cluster(4, **fields), job("a", node_selector={"zone": "a"}))
    assert decisions["a"].reason is Reason.NO_SUCH_NODES


def test_a_job_for_nodes_that_are_not_ready_waits_and_blocks_no_other() -> None:
    unready = Node(name="big", allocatable={GPU: 8}, is_ready=False)
    snapshot = Cluster(nodes=(*cluster(2).nodes, unready))
    decisions = admit_all(snapshot, job("large", age=9, min_workers=4, max_workers=4), job("a"))
    assert decisions["large"].reason is Reason.WAITING_FOR_GPUS
    assert decisions["large"].message.endswith("1 matching node is not ready")
    assert decisions["a"].reason is Reason.ADMITTED


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [
        pytest.param(30, Reason.START_TIMED_OUT, id="it backs off until then"),
        pytest.param(0, Reason.ADMITTED, id="then it queues again"),
    ],
)
def test_a_job_whose_start_timed_out_backs_off(seconds: int, reason: Reason) -> None:
    until = NOW + timedelta(seconds=seconds)
    decisions = admit_all(cluster(1), job("late", age=9, backoff_until=until), job("next"))
    assert decisions["late"].reason is reason
    if reason is Reason.START_TIMED_OUT:
        assert decisions["late"].requeue_at == until
        assert "12:00:30" in decisions["late"].message
        assert decisions["next"].reason is Reason.ADMITTED
