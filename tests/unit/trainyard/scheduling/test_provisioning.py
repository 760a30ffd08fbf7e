"""Jobs whose nodes an autoscaler has yet to add: admitted, awaited, and given up."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.requests import GPU, NOW, cluster, decision, job, key, pods, shape
from trainyard.api.cluster import Cluster, Node, Toleration
from trainyard.api.pools import NodePool, PoolTaint
from trainyard.api.reasons import Reason
from trainyard.api.status import Provisioning
from trainyard.scheduling.allocation import allocate
from trainyard.scheduling.decision import Decision
from trainyard.scheduling.proposal import SchedulerSettings
from trainyard.scheduling.request import JobRequest, PodRequest
from trainyard.scheduling.shapes import PodShape

LABELS = {"pool": "a100"}
POOL = NodePool(name="a100", gpus=4, labels=LABELS, max_nodes=2)
AWAITED = Provisioning(pool="a100")
MINUTE = timedelta(minutes=1)
WITH_RDMA = PodShape.of({GPU: 1, "rdma/hca": 1}, first=GPU)


def pool_node(name: str, gpus: int = 4) -> Node:
    return Node(name=name, allocatable={GPU: gpus, "cpu": 8000}, labels=LABELS)


def decide(
    snapshot: Cluster, *jobs: JobRequest, now: datetime = NOW, pool: NodePool = POOL
) -> dict[str, Decision]:
    settings = SchedulerSettings(pools=(pool,))
    return {k.name: d for k, d in allocate(jobs, snapshot, now, settings=settings).items()}


@pytest.mark.parametrize(
    ("fields", "pool", "is_admitted"),
    [
        pytest.param({"min_workers": 1}, {}, True, id="one node"),
        pytest.param({"min_workers": 8}, {}, True, id="all nodes that it may have"),
        pytest.param({"min_workers": 9, "max_workers": 9}, {}, False, id="more than these"),
        pytest.param({"shape": shape(5)}, {}, False, id="a worker larger than a node"),
        pytest.param({"shape": shape(1, cpu=4000)}, {}, True, id="CPU is not counted"),
        pytest.param({"shape": shape(0, cpu=1000)}, {}, False, id="CPU alone buys no node"),
        pytest.param({"shape": shape(1, "amd.com/gpu")}, {}, False, id="another accelerator"),
        pytest.param({"shape": WITH_RDMA}, {}, False, id="a device that it lacks"),
        pytest.param({"shape": shape(node_selector=LABELS)}, {}, True, id="selected"),
        pytest.param({"shape": shape(node_selector={"pool": "b"})}, {}, False, id="not selected"),
        pytest.param({}, {"taints": (PoolTaint(key="spot"),)}, False, id="a taint"),
        pytest.param(
            {"shape": shape(tolerations=[Toleration(key="spot", operator="Exists")])},
            {"taints": (PoolTaint(key="spot"),)},
            True,
            id="a taint that it tolerates",
        ),
    ],
)
def test_a_minimum_that_only_a_pool_could_hold_is_admitted(
    fields: dict[str, Any], pool: dict[str, Any], is_admitted: bool
) -> None:
    declared = NodePool(name="a100", gpus=4, labels=LABELS, max_nodes=2, **pool)
    request = job("a", **fields)
    found = decide(Cluster(), request, pool=declared)["a"]
    if is_admitted:
        assert (found.workers, found.reason) == (request.min_workers, Reason.PROVISIONING)
        assert found.provisioning == AWAITED
        assert found.requeue_at == NOW + MINUTE, "whether its pods are refused is seen before"
    else:
        assert (found.workers, found.reason) == (0, Reason.NO_SUCH_NODES)


def test_nodes_are_asked_for_the_minimum_alone() -> None:
    found = decide(Cluster(), job("a", start_workers=8, max_workers=8))["a"]
    assert found.workers == 1
    growing = job("b", 4, policy="Manual", start_workers=8)
    snapshot = Cluster(nodes=(pool_node("n0"),), pods=pods("b", "n0", 4))
    assert decide(snapshot, growing)["b"].workers == 4


def test_what_is_free_is_used_first() -> None:
    """A pool at one of two nodes: a job of eight needs the other one."""
    nodes = (pool_node("n0"),)
    small, large = job("a", min_workers=4, max_workers=4), job("a", min_workers=8)
    assert decide(Cluster(nodes=nodes), small)["a"].reason is Reason.ADMITTED
    assert decide(Cluster(nodes=nodes), large)["a"].reason is Reason.PROVISIONING
    busy = Cluster(nodes=nodes, pods=pods("b", "n0", 4))
    assert decide(busy, small, job("b", 4))["a"].reason is Reason.PROVISIONING
    assert decide(busy, large, job("b", 4))["a"].workers == 0


def test_nodes_that_are_awaited_are_counted() -> None:
    first, second, third = (
        job(name, created_at=NOW - MINUTE * (3 - n)) for n, name in enumerate("abc")
    )
    small = NodePool(name="a100", gpus=1, labels=LABELS, max_nodes=2)
    found = decide(Cluster(), first, second, third, pool=small)
    assert [found[name].workers for name in "abc"] == [1, 1, 0]
    admitted = [
        replace(job(name, 1, is_running=False, decision_time=NOW), provisioning=AWAITED)
        for name in "ab"
    ]
    assert decide(Cluster(), *admitted, third, pool=small)["c"].workers == 0


def test_a_job_behind_another_does_not_take_its_place_with_a_pool() -> None:
    """Its pods would go to the nodes that are kept for the first."""
    snapshot = cluster(4, bound=pods("running", "n0", 3))
    first = job("first", min_workers=4, max_workers=4, created_at=NOW - MINUTE)
    second = job("second", created_at=NOW)
    one = NodePool(name="a100", gpus=1, labels=LABELS, max_nodes=1)
    found = decide(snapshot, job("running", 3), first, second, pool=one)
    assert found["first"].workers == 0
    assert (found["second"].workers, found["second"].reason) == (0, Reason.WAITING_IN_QUEUE)


def test_a_gang_of_parties_asks_no_pool() -> None:
    gang = (PodRequest(party="x", shape=shape()),)
    assert decide(Cluster(), job("a", gang=gang))["a"].reason is Reason.NO_SUCH_NODES


def awaiting(minutes: float, **fields: Any) -> JobRequest:
    since = NOW - MINUTE * minutes
    values = {"decision_time": since, "is_running": False, "min_workers": 2, **fields}
    return job("a", 2, **{"provisioning": AWAITED, **values})


def test_nodes_are_awaited_for_a_quarter_of_an_hour() -> None:
    found = decide(Cluster(), awaiting(14))["a"]
    assert (found.workers, found.reason) == (2, Reason.PROVISIONING)
    assert found.provisioning == AWAITED
    found = decide(Cluster(), awaiting(15))["a"]
    assert (found.workers, found.reason) == (0, Reason.NOT_PROVISIONED)
    assert found.provisioning == Provisioning(
        pool="a100", attempts=1, retry_time=NOW + timedelta(minutes=5)
    )


def test_a_node_that_came_late_leaves_time_to_start() -> None:
    snapshot = Cluster(nodes=(pool_node("n0"),), pods=pods("a", "n0", 2))
    found = decide(snapshot, awaiting(20))["a"]
    assert (found.workers, found.provisioning) == (2, AWAITED)
    assert decide(snapshot, awaiting(20, is_running=True))["a"].provisioning is None


def test_a_dry_pool_is_asked_less_and_less_often() -> None:
    pauses, known = [], AWAITED
    for _ in range(6):
        found = decide(Cluster(), awaiting(15, provisioning=known))["a"].provisioning
        assert found is not None
        assert found.retry_time is not None
        pauses.append((found.retry_time - NOW) / MINUTE)
        known = Provisioning(pool="a100", attempts=found.attempts)
    assert pauses == [5, 10, 20, 40, 60, 60]


def test_a_job_waits_until_a_dry_pool_is_asked_again() -> None:
    retry_time = NOW + MINUTE
    dry = Provisioning(pool="a100", attempts=3, retry_time=retry_time)
    found = decide(Cluster(), job("a", provisioning=dry))["a"]
    assert (found.workers, found.reason) == (0, Reason.NOT_PROVISIONED)
    assert (found.requeue_at, found.provisioning) == (retry_time, dry)
    again = decide(Cluster(), job("a", provisioning=dry), now=retry_time)["a"]
    assert again.provisioning == Provisioning(pool="a100", attempts=3)
    snapshot = Cluster(nodes=(pool_node("n0"),))
    assert decide(snapshot, job("a", provisioning=dry))["a"].reason is Reason.ADMITTED


def test_without_pools_nothing_is_asked_for() -> None:
    assert allocate([job("a")], Cluster(), NOW)[key("a")].reason is Reason.NO_SUCH_NODES
    assert decision(1).provisioning is None
