"""Properties of every decision, whatever the cluster and the jobs are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.requests import GPU, NOW, apply_all, key, measurement, pods, shape
from trainyard.api.cluster import Cluster, Node, PodInfo
from trainyard.api.names import Key
from trainyard.api.reasons import Reason
from trainyard.api.status import Change
from trainyard.scheduling.allocation import allocate
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.shapes import matches
from trainyard.scheduling.usage import subtract

_ZONES = st.sampled_from(["a", "b"])


@st.composite
def _clusters(draw: st.DrawFn) -> tuple[Node, ...]:
    size = st.tuples(st.integers(0, 5), st.integers(0, 12), _ZONES, st.integers(0, 9))
    return tuple(
        Node(
            name=f"n{n}",
            allocatable={GPU: gpus, "cpu": cores * 1000},
            labels={"zone": zone},
            is_ready=chance > 0,
        )
        for n, (gpus, cores, zone, chance) in enumerate(draw(st.lists(size, max_size=4)))
    )


_CPU: st.SearchStrategy[dict[str, Any]] = st.sampled_from([{}, {}, {"cpu": 1000}, {"cpu": 3000}])
_SPEEDS = st.one_of(
    st.floats(1, 1000),
    st.sampled_from([math.nan, math.inf, -1.0, 0.0, 1e300]),
)


@st.composite
def _requests(draw: st.DrawFn, name: str) -> JobRequest:
    low = draw(st.integers(1, 3))
    high = low + draw(st.integers(0, 5))
    long_ago = NOW - timedelta(seconds=draw(st.integers(1, 4000)))
    admitted = draw(st.just(0) | st.integers(1, 6))
    sizes = draw(st.sets(st.integers(1, 8), max_size=4)) | {admitted}
    history = [
        Change(from_=a, to=b, reason="", decision_time=long_ago - timedelta(minutes=age))
        for a, b, age in draw(
            st.lists(
                st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(0, 60)), max_size=3
            )
        )
    ]
    return JobRequest(
        key=key(name),
        created_at=NOW - timedelta(minutes=draw(st.integers(0, 3))),
        priority=draw(st.integers(0, 1)),
        shape=shape(
            draw(st.integers(0, 3)),
            node_selector=draw(st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}])),
            **draw(_CPU),
        ),
        min_workers=low,
        max_workers=high,
        start_workers=draw(st.integers(low, high)),
        policy=draw(st.sampled_from(["Manual", "Throughput", "Throughput"])),
        mode=draw(st.sampled_from(["Apply", "Apply", "Recommend"])),
        admitted_workers=admitted,
        admitted_at=long_ago if admitted else None,
        is_running=draw(st.booleans()) if admitted else False,
        backoff_until=draw(st.sampled_from([None, None, NOW + timedelta(minutes=1)])),
        decision_time=long_ago if admitted else None,
        measured_at=NOW - timedelta(seconds=draw(st.integers(0, 20))),
        profile=tuple(measurement(size, draw(_SPEEDS)) for size in sorted(sizes) if size),
        history=tuple(history),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    jobs: tuple[JobRequest, ...]
    cluster: Cluster


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """A cluster, foreign pods, and jobs of which some or all pods are bound, as far as they fit."""
    nodes = draw(_clusters())
    jobs = [draw(_requests(f"j{n}")) for n in range(draw(st.integers(1, 5)))]
    free = {node.name: dict(node.allocatable) for node in nodes}
    bound: list[PodInfo] = []
    for node in nodes:
        used = {GPU: draw(st.integers(0, 2)), "cpu": 500 * draw(st.integers(0, 3))}
        bound.append(PodInfo(namespace="x", name=node.name, requests=used, node=node.name))
        subtract(free[node.name], used)
    for job in jobs:
        requests = dict(job.shape.requests)
        for n in range(draw(st.integers(0, job.admitted_workers))):
            matching = (node.name for node in nodes if matches(node, job.shape))
            name = next((name for name in matching if job.shape.fits(free[name])), None)
            if name is not None:
                subtract(free[name], requests)
                pod = replace(pods(job.key.name, name, 1)[0], name=f"{n}", requests=requests)
                bound.append(pod)
    return Snapshot(jobs=tuple(jobs), cluster=Cluster(nodes=nodes, pods=tuple(bound)))


def is_placeable(jobs: Sequence[JobRequest], cluster: Cluster) -> bool:
    """Whether all workers without a node can be placed, by exhaustive search."""
    free = {node.name: dict(node.allocatable) for node in cluster.nodes if node.is_ready}
    bound: dict[Key | None, int] = {}
    for pod in cluster.pods:
        bound[pod.job] = bound.get(pod.job, 0) + 1
        if pod.node in free:
            subtract(free[pod.node], pod.requests)
    names = sorted(free)
    workers: list[tuple[int, int, tuple[int, ...]]] = []
    for job in jobs:
        requests = dict(job.shape.requests)
        matching = tuple(
            names.index(n.name) for n in cluster.nodes if n.name in free and matches(n, job.shape)
        )
        missing = job.admitted_workers - bound.get(job.key, 0)
        workers += [(requests.get(GPU, 0), requests.get("cpu", 0), matching)] * missing
    workers.sort()  # equal ones in a row, so that fewer states differ

    @cache
    def fits(index: int, left: tuple[tuple[int, int], ...]) -> bool:
        if index == len(workers):
            return True
        gpus, cpu, matching = workers[index]
        return any(
            # Nothing of what is not requested needs to be free.
            (not gpus or left[n][0] >= gpus)
            and (not cpu or left[n][1] >= cpu)
            and fits(
                index + 1,
                (*left[:n], (left[n][0] - gpus, left[n][1] - cpu), *left[n + 1 :]),
            )
            for n in matching
        )

    return fits(0, tuple((free[name][GPU], free[name]["cpu"]) for name in names))


many = settings(max_examples=200, deadline=None)


@many
@given(snapshots())
def test_every_job_gets_a_decision_within_its_bounds(snapshot: Snapshot) -> None:
    allocation = allocate(snapshot.jobs, snapshot.cluster, NOW)
    assert set(allocation) == {job.key for job in snapshot.jobs}
    for job in snapshot.jobs:
        decision = allocation[job.key]
        lowest = min(job.min_workers, job.admitted_workers)
        assert lowest <= decision.workers <= job.max_workers
        assert decision.message
        assert decision.workers == decision.recommended or job.mode == "Recommend"
        assert decision.requeue_at is None or decision.requeue_at > NOW


@many
@given(snapshots())
def test_an_admitted_job_keeps_workers_whatever_happens_to_the_cluster(snapshot: Snapshot) -> None:
    """Without any its state would live in the coordinator alone, or nowhere: only people stop it,
    by a suspension, which stores the state first.
    """
    for cluster in (snapshot.cluster, Cluster(nodes=(), pods=())):
        decided = allocate(snapshot.jobs, cluster, NOW)
        assert all(decided[job.key].workers for job in snapshot.jobs if job.admitted_workers)


@many
@given(snapshots())
def test_decided_workers_can_all_be_placed(snapshot: Snapshot) -> None:
    assume(is_placeable(snapshot.jobs, snapshot.cluster))
    decided = apply_all(snapshot.jobs, allocate(snapshot.jobs, snapshot.cluster, NOW))
    assert is_placeable(decided, snapshot.cluster)


@many
@given(snapshots())
def test_deciding_again_on_the_result_changes_nothing(snapshot: Snapshot) -> None:
    first = allocate(snapshot.jobs, snapshot.cluster, NOW)
    second = allocate(apply_all(snapshot.jobs, first), snapshot.cluster, NOW)
    assert {k: d.workers for k, d in second.items()} == {k: d.workers for k, d in first.items()}


@many
@given(snapshots(), st.randoms())
def test_the_order_of_the_input_does_not_matter(snapshot: Snapshot, random: Any) -> None:
    jobs, nodes, bound = (
        random.sample(x, len(x))
        for x in (snapshot.jobs, snapshot.cluster.nodes, snapshot.cluster.pods)
    )
    shuffled = Cluster(nodes=tuple(nodes), pods=tuple(bound))
    assert allocate(jobs, shuffled, NOW) == allocate(snapshot.jobs, snapshot.cluster, NOW)


@many
@given(snapshots(), st.data())
def test_a_higher_priority_is_not_overtaken_by_an_equal_job(
    snapshot: Snapshot, data: st.DataObject
) -> None:
    lower = data.draw(st.sampled_from(snapshot.jobs))
    lower = replace(lower, admitted_workers=0, backoff_until=None)
    higher = replace(lower, key=key("higher"), priority=lower.priority + 1)
    others = tuple(job for job in snapshot.jobs if job.key != lower.key)
    allocation = allocate((*others, lower, higher), snapshot.cluster, NOW)
    assert allocation[higher.key].workers or not allocation[lower.key].workers


@many
@given(snapshots())
def test_no_policy_changes_a_job_that_is_not_steady(snapshot: Snapshot) -> None:
    decided = allocate(snapshot.jobs, snapshot.cluster, NOW)
    for job in snapshot.jobs:
        is_fresh = job.measured_at is not None and NOW - job.measured_at < timedelta(seconds=15)
        if (
            job.admitted_workers
            and job.policy == "Throughput"
            and not (job.is_running and is_fresh)
        ):
            decision = decided[job.key]
            by_people_or_cluster = [Reason.BOUNDS_CHANGED, Reason.SHRINK_NODES_LOST]
            if job.mode == "Recommend":
                by_people_or_cluster.append(Reason.REQUESTED)
            assert (
                decision.workers == job.admitted_workers or decision.reason in by_people_or_cluster
            )
