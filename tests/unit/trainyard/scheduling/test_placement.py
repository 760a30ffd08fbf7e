"""What kube-scheduler and the API server do not follow is given back, and asked for later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.requests import GPU, NOW, cluster, job, key, pods, shape
from trainyard.api.cluster import Cluster, Node, PodInfo
from trainyard.api.reasons import Reason
from trainyard.api.refusals import Refusal
from trainyard.api.status import NotPlaced
from trainyard.scheduling.allocation import allocate
from trainyard.scheduling.decision import Decision
from trainyard.scheduling.proposal import SchedulerSettings
from trainyard.scheduling.request import JobRequest, PodRequest
from trainyard.scheduling.shapes import PodShape
from trainyard_trainer.contract.env import Role

NO_CPU = "0/1 nodes are available: 1 Insufficient cpu."
VOLUME = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
QUOTA = "exceeded quota: team"
SETTINGS = SchedulerSettings()
MINUTE = timedelta(minutes=1)


def pending(
    name: str, count: int, message: str = NO_CPU, age: timedelta = MINUTE, **fields: Any
) -> tuple[PodInfo, ...]:
    """Pods that have no node."""
    created_at, values = NOW - age, {"scheduling_message": message, **fields}
    found = pods(f"{name}-pending", "", count)
    return tuple(replace(p, job=key(name), created_at=created_at, **values) for p in found)


def decide(
    snapshot: Cluster,
    *jobs: JobRequest,
    room_for: timedelta | None = MINUTE,
    now: datetime = NOW,
    settings: SchedulerSettings = SETTINGS,
) -> dict[str, Decision]:
    """Decide; for `room_for` there has been room for pods like the jobs' own."""
    since: Mapping[PodShape, datetime] = {}
    if room_for is not None:
        shapes = [s for job in jobs for s in (job.shape, *(pod.shape for pod in job.gang))]
        since = dict.fromkeys(shapes, now - room_for)
    known = {job.key: since for job in jobs}
    allocation = allocate(jobs, snapshot, now, settings=settings, room_since=known)
    return {k.name: decision for k, decision in allocation.items()}


def grown(admitted: int = 4, **fields: Any) -> JobRequest:
    """A job that has just been given so many workers."""
    return job("a", admitted, **{"is_running": False, "decision_time": NOW - 10 * MINUTE, **fields})


# --- The deadline ---


def test_a_growth_that_got_no_node_is_given_back_with_kube_schedulers_words() -> None:
    """It held its GPUs for ever, idle, and the policy waited for all workers to train."""
    snapshot = cluster(8, bound=(*pods("a", "n0", 2), *pending("a", 2)))
    decisions = decide(snapshot, grown(), job("other", min_workers=6, max_workers=6))
    assert decisions["a"].workers == 2
    assert decisions["a"].reason is Reason.NOT_PLACED
    assert "2 of 4 workers got no node in time (0/1 nodes are available: 1 Insufficient cpu)" in (
        decisions["a"].message
    )
    retry_time = NOW + timedelta(minutes=5)
    assert decisions["a"].not_placed == NotPlaced(workers=2, attempts=1, retry_time=retry_time)
    assert decisions["other"].reason is Reason.ADMITTED, "the GPUs are free at once"


@pytest.mark.parametrize(
    ("message", "age", "room_for", "fields", "workers"),
    [
        pytest.param(NO_CPU, 60, 60, {}, 2, id="at the deadline"),
        pytest.param(NO_CPU, 59, 600, {}, 4, id="the pod is younger"),
        pytest.param(NO_CPU, 600, 59, {}, 4, id="something ended on its node a moment ago"),
        pytest.param(NO_CPU, 600, None, {}, 4, id="after a restart the time begins again"),
        pytest.param(
            NO_CPU, 600, 600, {"decision_time": NOW - MINUTE / 2}, 4, id="the size has just changed"
        ),
        pytest.param("", 60, 60, {}, 2, id="kube-scheduler says nothing"),
        pytest.param("", 599, 600, {"mounts_claims": True}, 4, id="it may wait for a volume"),
        pytest.param("", 600, 600, {"mounts_claims": True}, 2, id="but not for ever"),
        pytest.param(VOLUME, 599, 600, {}, 4, id="a volume is provisioned"),
        pytest.param(VOLUME, 600, 600, {}, 2, id="a volume is not provisioned"),
        pytest.param(NO_CPU, 60, 60, {"mode": "Recommend", "start_workers": 4}, 2, id="Recommend"),
        pytest.param(NO_CPU, 60, 60, {"policy": "Manual", "start_workers": 4}, 2, id="Manual"),
        pytest.param(NO_CPU, 60, 60, {"min_workers": 3}, 3, id="not below the minimum"),
        pytest.param(NO_CPU, 60, 60, {"min_workers": 4}, 4, id="nothing above the minimum"),
    ],
)
def test_workers_have_a_deadline_to_get_a_node(
    message: str, age: int, room_for: int | None, fields: dict[str, Any], workers: int
) -> None:
    late = pending("a", 2, message, timedelta(seconds=age))
    snapshot = cluster(8, bound=(*pods("a", "n0", 2), *late))
    since = None if room_for is None else timedelta(seconds=room_for)
    decision = decide(snapshot, grown(**fields), room_for=since)["a"]
    assert decision.workers == workers
    if workers == 4 and "min_workers" not in fields:
        assert decision.requeue_at is not None
        assert NOW < decision.requeue_at <= NOW + timedelta(minutes=1)


def test_the_time_does_not_run_while_something_terminating_holds_the_place() -> None:
    ending = replace(pods("gone", "n0", 2)[0], job=None, is_deleting=True, requests={GPU: 2})
    late = pending("a", 2, age=timedelta(minutes=30))
    snapshot = cluster(4, bound=(*pods("a", "n0", 2), *late, ending))
    decision = decide(snapshot, grown(decision_time=NOW - timedelta(seconds=30)))["a"]
    assert (decision.workers, decision.room_since) == (4, {})
    free = cluster(4, bound=(*pods("a", "n0", 2), *late))
    decision = decide(free, grown(decision_time=NOW), room_for=None)["a"]
    assert (decision.workers, decision.room_since) == (4, {shape(): NOW})
    assert decision.requeue_at == NOW + MINUTE


def test_a_pod_that_the_api_server_refuses_has_the_same_deadline() -> None:
    refused = grown(refusal=Refusal(message=QUOTA, since=NOW - MINUTE))
    snapshot = cluster(8, bound=pods("a", "n0", 3))
    decision = decide(snapshot, refused)["a"]
    assert (decision.workers, decision.reason) == (3, Reason.NOT_PLACED)
    assert QUOTA in decision.message
    fresh = replace(refused, refusal=Refusal(message=QUOTA, since=NOW))
    assert decide(snapshot, fresh)["a"].workers == 4


def test_a_worker_that_failed_and_is_replaced_later_is_not_overdue() -> None:
    decision = decide(cluster(8, bound=pods("a", "n0", 3)), grown())["a"]
    assert decision.workers == 4


def test_what_a_gang_at_its_minimum_could_not_bind_is_free_for_others() -> None:
    snapshot = cluster(2, bound=(*pods("a", "n0", 1), *pending("a", 1)))
    decisions = decide(snapshot, grown(2, min_workers=2), job("other"))
    assert decisions["a"].workers == 2
    assert decisions["other"].reason is Reason.ADMITTED
    early = decide(snapshot, grown(2, min_workers=2), job("other"), room_for=MINUTE / 2)
    assert early["other"].workers == 0, "until then its place is kept"


def test_a_party_that_could_not_be_bound_keeps_no_gpu() -> None:
    gang = tuple(PodRequest(party=name, shape=shape()) for name in ("x", "y"))
    federated = job("a", 2, gang=gang, admitted_parties=("x", "y"), min_workers=2)
    bound = replace(pods("a", "n0", 1)[0], role=Role.PARTY, party="x")
    late = pending("a", 1, role=Role.PARTY, party="y")
    snapshot = cluster(2, bound=(bound, *late))
    assert decide(snapshot, federated, job("other"))["other"].reason is Reason.ADMITTED
    early = decide(snapshot, federated, job("other"), room_for=MINUTE / 2)
    assert early["other"].workers == 0


# --- The pause ---


def remembered(workers: int, **spans: float) -> NotPlaced:
    return NotPlaced(workers=workers, attempts=2, retry_time=NOW + timedelta(**spans))


@pytest.mark.parametrize(
    ("admitted", "memory", "workers", "reason"),
    [
        (2, remembered(2, minutes=1), 2, Reason.NOT_PLACED),
        (2, remembered(2, minutes=0), 8, Reason.REQUESTED),
        (2, remembered(5, minutes=1), 5, Reason.REQUESTED),
    ],
    ids=["not yet", "again", "a smaller size"],
)
def test_a_size_that_was_not_placed_is_not_asked_for_during_the_pause(
    admitted: int, memory: NotPlaced, workers: int, reason: Reason
) -> None:
    request = job("a", admitted, policy="Manual", start_workers=8, not_placed=memory)
    snapshot = cluster(8, bound=pods("a", "n0", admitted))
    decision = decide(snapshot, request)["a"]
    assert (decision.workers, decision.reason) == (workers, reason)
    assert decision.not_placed == memory
    if reason is Reason.NOT_PLACED:
        assert decision.requeue_at == memory.retry_time


def test_a_policy_asks_for_no_larger_size_either() -> None:
    memory = remembered(1, minutes=1)
    snapshot = cluster(8, bound=pods("a", "n0", 1))
    decision = decide(snapshot, job("a", 1, speeds={1: 100}, not_placed=memory))["a"]
    assert (decision.workers, decision.reason) == (1, Reason.NOT_PLACED)


def test_a_raised_minimum_is_asked_for_all_the_same() -> None:
    memory = remembered(1, minutes=1)
    snapshot = cluster(8, bound=pods("a", "n0", 1))
    decision = decide(snapshot, job("a", 1, min_workers=3, not_placed=memory))["a"]
    assert (decision.workers, decision.reason) == (3, Reason.BOUNDS_CHANGED)


def test_a_waiting_job_starts_with_no_more_than_was_placed() -> None:
    memory = remembered(2, minutes=1)
    decision = decide(cluster(8), job("a", start_workers=8, not_placed=memory))["a"]
    assert (decision.workers, decision.not_placed) == (2, memory)


def test_pauses_double_up_to_forty_minutes() -> None:
    memory, pauses = None, []
    snapshot = cluster(8, bound=(*pods("a", "n0", 2), *pending("a", 2)))
    for _ in range(6):
        memory = decide(snapshot, grown(not_placed=memory))["a"].not_placed
        assert memory is not None
        pauses.append((memory.retry_time - NOW) / MINUTE)
        memory = NotPlaced(workers=2, attempts=memory.attempts, retry_time=NOW)
    assert pauses == [5, 10, 20, 40, 40, 40]


def test_what_was_not_placed_is_forgotten_when_more_is_bound() -> None:
    snapshot = cluster(8, bound=pods("a", "n0", 3))
    assert decide(snapshot, job("a", 3, not_placed=remembered(2)))["a"].not_placed is None
    assert decide(snapshot, job("a", 3, not_placed=remembered(3)))["a"].not_placed is not None


def test_more_nodes_than_the_pods_could_use_change_nothing() -> None:
    """Another node has GPUs, and room is room: kube-scheduler had its time."""
    snapshot = cluster(4, 8, bound=(*pods("a", "n0", 2), *pending("a", 2)))
    assert decide(snapshot, grown())["a"].workers == 2


def test_a_node_that_is_not_ready_is_no_room() -> None:
    nodes = (
        Node(name="n0", allocatable={GPU: 2}),
        Node(name="n1", allocatable={GPU: 8}, is_ready=False),
    )
    snapshot = Cluster(nodes=nodes, pods=(*pods("a", "n0", 2), *pending("a", 2)))
    decision = decide(snapshot, grown())["a"]
    assert (decision.workers, decision.reason) == (2, Reason.SHRINK_NODES_LOST)
    assert decision.not_placed is None
