"""The scheduler as a whole: which jobs keep their workers, which start, and which grow."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.support.requests import GPU, NOW, cluster, decide, job, pods
from trainyard.api.cluster import Cluster, Node, PodInfo
from trainyard.api.reasons import Reason
from trainyard.scheduling.allocation import SchedulerSettings, allocate

# --- Admitted workers ---


def test_an_admitted_job_keeps_its_workers_whatever_jobs_come() -> None:
    decisions = decide(
        cluster(4, bound=pods("old", "n0", 4)),
        job("old", 4, speeds={4: 400}, max_workers=4),
        job("urgent", priority=9),
    )
    assert (decisions["old"].workers, decisions["old"].reason) == (4, Reason.STEADY)
    assert decisions["urgent"].reason is Reason.WAITING_FOR_GPUS


def test_gpus_are_kept_for_workers_without_a_node() -> None:
    fresh = job("fresh", 3, decision_time=NOW, is_running=False)
    decisions = decide(cluster(4, bound=pods("fresh", "n0", 1)), fresh, job("new", start_workers=4))
    assert decisions["new"].workers == 1


def test_kept_gpus_are_where_no_waiting_job_could_go() -> None:
    zoned = Node(name="a", allocatable={GPU: 1}, labels={"zone": "a"})
    snapshot = Cluster(nodes=(zoned, *cluster(2).nodes))
    fresh = job("fresh", 1, decision_time=NOW, is_running=False)
    decisions = decide(snapshot, fresh, job("new", node_selector={"zone": "a"}))
    assert decisions["new"].reason is Reason.ADMITTED


@pytest.mark.parametrize(
    ("admitted", "fields", "workers", "reason"),
    [
        pytest.param(4, {"max_workers": 2}, 2, Reason.BOUNDS_CHANGED, id="max fell"),
        pytest.param(2, {"min_workers": 3}, 3, Reason.BOUNDS_CHANGED, id="min rose"),
        pytest.param(
            2, {"min_workers": 9, "max_workers": 9}, 6, Reason.BOUNDS_CHANGED, id="min: in part"
        ),
        pytest.param(
            4, {"max_workers": 2, "is_running": False}, 2, Reason.BOUNDS_CHANGED, id="not running"
        ),
        pytest.param(
            4, {"max_workers": 2, "mode": "Recommend"}, 2, Reason.BOUNDS_CHANGED, id="Recommend"
        ),
        pytest.param(
            2, {"policy": "Manual", "start_workers": 2}, 2, Reason.STEADY, id="Manual: as requested"
        ),
        pytest.param(
            2, {"policy": "Manual", "start_workers": 4}, 4, Reason.REQUESTED, id="Manual: more"
        ),
        pytest.param(
            4, {"policy": "Manual", "start_workers": 1}, 1, Reason.REQUESTED, id="Manual: fewer"
        ),
        pytest.param(
            4, {"policy": "Manual", "start_workers": 8}, 6, Reason.REQUESTED, id="Manual: in part"
        ),
        pytest.param(
            2, {"mode": "Recommend", "start_workers": 3}, 3, Reason.REQUESTED, id="Recommend: more"
        ),
        pytest.param(
            6, {"policy": "Manual", "start_workers": 8}, 6, Reason.NO_FREE_GPUS, id="Manual: none"
        ),
        pytest.param(2, {"policy": "Goodput"}, 2, Reason.STEADY, id="Goodput: not yet"),
    ],
)  # fmt: skip
def test_requests_of_people_are_met_as_far_as_gpus_go(
    admitted: int, fields: dict[str, Any], workers: int, reason: Reason
) -> None:
    snapshot = cluster(6, bound=pods("a", "n0", admitted))
    decision = decide(snapshot, job("a", admitted, speeds={admitted: 100}, **fields))["a"]
    assert (decision.workers, decision.reason) == (workers, reason)


def test_a_request_that_fits_in_part_names_what_is_missing() -> None:
    snapshot = cluster(6, bound=pods("a", "n0", 4))
    request = job("a", 4, policy="Manual", start_workers=8)
    assert decide(snapshot, request)["a"].message == (
        "workers.replicas asks for 8 and 2 × 1 nvidia.com/gpu fit: growing 4→6; "
        "2 × 1 nvidia.com/gpu short of 8, 0 free on 0 nodes"
    )


# --- Lost nodes ---


@pytest.mark.parametrize(
    ("age", "fields", "workers", "reason"),
    [
        pytest.param(600, {}, 3, Reason.SHRINK_NODES_LOST, id="an old decision shrinks at once"),
        pytest.param(60, {}, 3, Reason.SHRINK_NODES_LOST, id="a fresh one after the grace"),
        pytest.param(59, {}, 4, Reason.NO_FREE_GPUS, id="not before"),
        pytest.param(600, {"min_workers": 4}, 4, Reason.MEASURING, id="never below its minimum"),
    ],
)
def test_workers_that_can_no_longer_get_gpus_are_given_up(
    age: int, fields: dict[str, Any], workers: int, reason: Reason
) -> None:
    decision_time = NOW - timedelta(seconds=age)
    lost = job("a", 4, is_running=False, decision_time=decision_time, **fields)
    decision = decide(cluster(3, bound=pods("a", "n0", 2)), lost)["a"]
    assert (decision.workers, decision.reason) == (workers, reason)
    if reason is Reason.NO_FREE_GPUS:
        assert decision.requeue_at == NOW + timedelta(seconds=1)


@pytest.mark.parametrize("is_ready", [True, False])
def test_a_terminating_pods_gpu_goes_to_its_successor_unless_its_node_is_lost(
    is_ready: bool,
) -> None:
    """It counted as bound on a dead node, so that a new job got the GPU that was still missing."""
    alive = cluster(2, 1, bound=pods("a", "n0", 1))
    dead = Node(name="n2", allocatable={GPU: 1}, is_ready=is_ready)
    terminating = replace(pods("a", "n2", 2)[1], is_deleting=True)
    taken = pods("b", "n1", 1)
    snapshot = Cluster(nodes=(*alive.nodes, dead), pods=(*alive.pods, terminating, *taken))
    decisions = decide(snapshot, job("a", 2, min_workers=2, is_running=False), job("new"))
    expected = Reason.ADMITTED if is_ready else Reason.WAITING_FOR_GPUS
    assert decisions["new"].reason is expected


def test_a_job_that_lost_its_minimum_comes_before_waiting_jobs() -> None:
    lost = job("a", 4, is_running=False, min_workers=4)
    bound = [*pods("a", "n0", 2), *pods("ending", "n0", 1)]
    decisions = decide(cluster(4, bound=bound), lost, job("new", priority=9))
    assert decisions["new"].reason is Reason.WAITING_FOR_GPUS
    assert decisions["new"].message.endswith("0 free on 0 nodes; 1 job before it")


def test_a_job_whose_nodes_are_lost_for_good_reserves_nothing() -> None:
    """It reserved for ever what was too small for the worker that it lacked."""
    lost = job("a", 2, is_running=False, min_workers=2, gpus_per_worker=2)
    notebook = PodInfo(namespace="x", name="notebook", requests={GPU: 1}, node="n1")
    snapshot = cluster(2, 2, bound=[*pods("a", "n0", 1, gpus=2), notebook])
    assert decide(snapshot, lost, job("small"))["small"].workers == 1


# --- Growth ---


def test_a_growth_is_explained_in_full() -> None:
    snapshot = cluster(5, bound=pods("a", "n0", 2))
    decision = decide(snapshot, job("a", 2, speeds={1: 410, 2: 750}))["a"]
    assert (decision.workers, decision.recommended, decision.reason) == (4, 4, Reason.GROW_PAYS)
    assert decision.message == (
        "1→2 paid 1.83× (410→750 samples/s, minGain 1.05) and 2 × 1 nvidia.com/gpu fit: "
        "growing 2→4, expected 1.71×"
    )
    assert decision.expected_speedup == pytest.approx(1.708, abs=0.001)


def test_a_growth_takes_what_fits() -> None:
    snapshot = cluster(5, bound=pods("a", "n0", 4))
    decision = decide(snapshot, job("a", 4, speeds={2: 200, 4: 390}))["a"]
    assert (decision.workers, decision.reason) == (5, Reason.GROW_PAYS)


def test_a_growth_without_gpus_names_what_it_needs() -> None:
    snapshot = cluster(2, bound=pods("a", "n0", 2))
    decision = decide(snapshot, job("a", 2, speeds={1: 410, 2: 750}))["a"]
    assert (decision.workers, decision.reason) == (2, Reason.NO_FREE_GPUS)
    assert decision.message.endswith("to grow it needs 1 × 1 nvidia.com/gpu; 0 free on 0 nodes")


def test_gpus_too_few_to_pay_are_not_taken() -> None:
    snapshot = cluster(33, bound=pods("a", "n0", 32))
    decision = decide(snapshot, job("a", 32, speeds={16: 1600, 32: 3200}, max_workers=64))["a"]
    assert (decision.workers, decision.reason) == (32, Reason.NO_FREE_GPUS)


def test_recommend_keeps_the_workers_and_explains_the_change() -> None:
    snapshot = cluster(5, bound=pods("a", "n0", 2))
    decision = decide(snapshot, job("a", 2, speeds={1: 410, 2: 750}, mode="Recommend"))["a"]
    assert (decision.workers, decision.recommended, decision.reason) == (2, 4, Reason.GROW_PAYS)
    assert "would be growing 2→4, expected 1.71×" in decision.message


def test_recommendations_take_no_gpus() -> None:
    snapshot = cluster(3, bound=[*pods("a", "n0", 1), *pods("b", "n0", 1)])
    decisions = decide(
        snapshot,
        job("a", 1, speeds={1: 100}, mode="Recommend"),
        job("b", 1, speeds={1: 100}),
    )
    assert (decisions["a"].workers, decisions["a"].recommended) == (1, 1)
    assert decisions["b"].workers == 2


def test_a_recommended_shrink_frees_no_gpus() -> None:
    snapshot = cluster(2, bound=pods("a", "n0", 1))
    decisions = decide(snapshot, job("a", 2, speeds={1: 100, 2: 101}, mode="Recommend"), job("new"))
    assert (decisions["a"].workers, decisions["a"].recommended) == (2, 1)
    assert decisions["new"].reason is Reason.WAITING_FOR_GPUS


def test_waiting_jobs_come_before_growth_and_keep_their_reservations() -> None:
    snapshot = cluster(4, bound=pods("a", "n0", 1))
    growing = job("a", 1, speeds={1: 100}, priority=9)
    assert decide(snapshot, growing, job("b", min_workers=3, max_workers=3))["b"].workers == 3
    decisions = decide(snapshot, growing, job("b", min_workers=4, max_workers=4))
    assert decisions["b"].reason is Reason.WAITING_FOR_GPUS
    assert decisions["a"].reason is Reason.NO_FREE_GPUS
    assert decisions["a"].message.endswith("3 free on 1 node; 1 job before it")


def test_growth_goes_to_the_job_that_it_speeds_up_most_per_gpu() -> None:
    snapshot = cluster(6, bound=[*pods("flat", "n0", 2), *pods("steep", "n0", 2)])
    decisions = decide(
        snapshot,
        job("flat", 2, speeds={1: 5000, 2: 6000}, priority=1),
        job("steep", 2, speeds={1: 10, 2: 19}),
    )
    assert (decisions["steep"].workers, decisions["flat"].workers) == (4, 2)


def test_equal_gains_go_to_the_job_with_fewer_gpus_per_worker() -> None:
    snapshot = cluster(5, bound=[*pods("wide", "n0", 1, gpus=2), *pods("narrow", "n0", 1)])
    decisions = decide(
        snapshot,
        job("wide", 1, speeds={1: 10}, gpus_per_worker=2, priority=1),
        job("narrow", 1, speeds={1: 10}),
    )
    assert (decisions["narrow"].workers, decisions["wide"].workers) == (2, 1)


def test_equal_gains_go_to_the_first_in_the_queue_one_by_one() -> None:
    snapshot = cluster(7, bound=[*pods("a", "n0", 2), *pods("b", "n0", 2)])
    jobs = [job(name, 2, speeds={1: 10, 2: 19}) for name in ("b", "a")]
    decisions = decide(snapshot, *jobs)
    assert (decisions["a"].workers, decisions["b"].workers) == (4, 3)


def test_requests_of_people_come_before_policies() -> None:
    snapshot = cluster(4, bound=[*pods("a", "n0", 1), *pods("b", "n0", 1)])
    decisions = decide(
        snapshot,
        job("a", 1, speeds={1: 10}, priority=9),
        job("b", 1, policy="Manual", start_workers=3),
    )
    assert (decisions["b"].workers, decisions["a"].workers) == (3, 1)


def test_cpu_jobs_grow_where_cpu_is_free() -> None:
    node = Node(name="n0", allocatable={"cpu": 4000})
    decision = decide(
        Cluster(nodes=(node,), pods=pods("a", "n0", 2, gpus=0)),
        job("a", 2, speeds={1: 10, 2: 19}, gpus_per_worker=0),
    )["a"]
    assert decision.workers == 4


def test_the_caller_passes_the_settings() -> None:
    snapshot = cluster(4, bound=pods("a", "n0", 1))
    old = job("a", 1, speeds={1: 100}, measured_at=NOW - timedelta(seconds=30))
    assert allocate([old], snapshot, NOW)[old.key].reason is Reason.METRICS_STALE
    patient = SchedulerSettings(stale_after=timedelta(minutes=1))
    assert allocate([old], snapshot, NOW, settings=patient)[old.key].workers == 2
