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

from tests.support.requests import GPU, NOW, apply_all, key, measurement, pods
from trainyard.api.cluster import Cluster, GpuPod, Node
from trainyard.api.names import Key
from trainyard.api.reasons import Reason
from trainyard.api.status import Change
from trainyard.scheduling.allocation import allocate
from trainyard.scheduling.capacity import PodShape, matches
from trainyard.scheduling.request import JobRequest

_ZONES = st.sampled_from(["a", "b"])


@st.composite
def _clusters(draw: st.DrawFn) -> tuple[Node, ...]:
    sizes = draw(st.lists(st.tuples(st.integers(0, 5), _ZONES, st.integers(0, 9)), max_size=4))
    return tuple(
        Node(name=f"n{n}", gpus={GPU: gpus}, labels={"zone": zone}, is_ready=chance > 0)
        for n, (gpus, zone, chance) in enumerate(sizes)
    )


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
        gpus_per_worker=draw(st.integers(0, 3)),
        node_selector=draw(st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}])),
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
    free = {node.name: node.gpus[GPU] for node in nodes}
    bound: list[GpuPod] = []
    for node in nodes:
        used = draw(st.integers(0, 2))
        bound.append(GpuPod(namespace="x", name=node.name, resource=GPU, gpus=used, node=node.name))
        free[node.name] -= used
    for job in jobs:
        for n in range(draw(st.integers(0, job.admitted_workers)) if job.gpus_per_worker else 0):
            gpus = job.gpus_per_worker
            matching = (node.name for node in nodes if matches(node, PodShape.of(job)))
            name = next((name for name in matching if free[name] >= gpus), None)
            if name is not None:
                free[name] -= gpus
                bound.extend(replace(pod, name=f"{n}") for pod in pods(job.key.name, name, 1, gpus))
    return Snapshot(jobs=tuple(jobs), cluster=Cluster(nodes=nodes, pods=tuple(bound)))


def is_placeable(jobs: Sequence[JobRequest], cluster: Cluster) -> bool:
    """Whether all workers without a node can be placed, by exhaustive search."""
    free = {node.name: node.gpus[GPU] for node in cluster.nodes if node.is_ready}
    bound: dict[Key | None, int] = {}
    for pod in cluster.pods:
        bound[pod.job] = bound.get(pod.job, 0) + 1
        if pod.node in free:
            free[pod.node] -= pod.gpus
    names = sorted(free)
    workers: list[tuple[int, tuple[int, ...]]] = []
    for job in jobs:
        shape = PodShape.of(job)
        matching = tuple(
            names.index(n.name) for n in cluster.nodes if n.name in free and matches(n, shape)
        )
        missing = job.admitted_workers - bound.get(job.key, 0) if job.gpus_per_worker else 0
        workers += [(job.gpus_per_worker, matching)] * missing

    @cache
    def fits(index: int, left: tuple[int, ...]) -> bool:
        if index == len(workers):
            return True
        gpus, matching = workers[index]
        return any(
            left[n] >= gpus and fits(index + 1, (*left[:n], left[n] - gpus, *left[n + 1 :]))
            for n in matching
        )

    return fits(0, tuple(free[name] for name in names))


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
