"""What holds for every decision over every cluster, whatever the jobs are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.requests import GPU, NOW, figure, follow, key, pods
from trainyard.api.cluster import Cluster, GpuPod, Node
from trainyard.api.names import Key
from trainyard.api.reasons import Reason
from trainyard.scheduling.allocation import allocate
from trainyard.scheduling.capacity import PodShape, matches
from trainyard.scheduling.request import JobRequest, PastChange

_ZONES = st.sampled_from(["a", "b"])


@st.composite
def _clusters(draw: st.DrawFn) -> tuple[Node, ...]:
    sizes = draw(st.lists(st.tuples(st.integers(0, 5), _ZONES, st.integers(0, 9)), max_size=4))
    return tuple(
        Node(name=f"n{n}", gpus={GPU: gpus}, labels={"zone": zone}, is_ready=luck > 0)
        for n, (gpus, zone, luck) in enumerate(sizes)
    )


_SPEEDS = st.one_of(
    st.floats(1, 1000),
    st.sampled_from([math.nan, math.inf, -1.0, 0.0, 1e300]),
)


@st.composite
def _demands(draw: st.DrawFn, name: str) -> JobRequest:
    low = draw(st.integers(1, 3))
    high = low + draw(st.integers(0, 5))
    long_ago = NOW - timedelta(seconds=draw(st.integers(1, 4000)))
    here = draw(st.just(0) | st.integers(1, 6))
    sizes = draw(st.sets(st.integers(1, 8), max_size=4)) | {here}
    history = [
        PastChange(from_workers=a, to_workers=b, decided_at=long_ago - timedelta(minutes=age))
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
        admitted_workers=here,
        admitted_at=long_ago if here else None,
        is_running=draw(st.booleans()) if here else False,
        refused_until=draw(st.sampled_from([None, None, NOW + timedelta(minutes=1)])),
        decided_at=long_ago if here else None,
        measured_at=NOW - timedelta(seconds=draw(st.integers(0, 20))),
        profile=tuple(figure(size, draw(_SPEEDS)) for size in sorted(sizes) if size),
        history=tuple(history),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    jobs: tuple[JobRequest, ...]
    cluster: Cluster


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """A cluster, strangers, and jobs whose pods are bound, as far as they fit, or some not yet."""
    nodes = draw(_clusters())
    jobs = [draw(_demands(f"j{n}")) for n in range(draw(st.integers(1, 5)))]
    free = {node.name: node.gpus[GPU] for node in nodes}
    bound: list[GpuPod] = []
    for node in nodes:
        held = draw(st.integers(0, 2))
        bound.append(GpuPod(namespace="x", name=node.name, resource=GPU, gpus=held, node=node.name))
        free[node.name] -= held
    for one in jobs:
        for n in range(draw(st.integers(0, one.admitted_workers)) if one.gpus_per_worker else 0):
            homes = [x for x in nodes if matches(x, PodShape.of(one))]
            home = next((x for x in homes if free[x.name] >= one.gpus_per_worker), None)
            if home is not None:
                free[home.name] -= one.gpus_per_worker
                gpus = one.gpus_per_worker
                bound.extend(
                    replace(pod, name=f"{n}") for pod in pods(one.key.name, home.name, 1, gpus)
                )
    return Scene(jobs=tuple(jobs), cluster=Cluster(nodes=nodes, pods=tuple(bound)))


def is_placeable(jobs: Sequence[JobRequest], where: Cluster) -> bool:
    """Whether workers without a node can all be placed: every way is tried."""
    free = {node.name: node.gpus[GPU] for node in where.nodes if node.is_ready}
    held: dict[Key | None, int] = {}
    for pod in where.pods:
        held[pod.job] = held.get(pod.job, 0) + 1
        if pod.node in free:
            free[pod.node] -= pod.gpus
    names = sorted(free)
    wanted: list[tuple[int, tuple[int, ...]]] = []
    for one in jobs:
        shape = PodShape.of(one)
        homes = tuple(
            names.index(n.name) for n in where.nodes if n.name in free and matches(n, shape)
        )
        missing = one.admitted_workers - held.get(one.key, 0) if one.gpus_per_worker else 0
        wanted += [(one.gpus_per_worker, homes)] * missing

    @cache
    def fits(index: int, left: tuple[int, ...]) -> bool:
        if index == len(wanted):
            return True
        gpus, homes = wanted[index]
        return any(
            left[home] >= gpus
            and fits(index + 1, (*left[:home], left[home] - gpus, *left[home + 1 :]))
            for home in homes
        )

    return fits(0, tuple(free[name] for name in names))


many = settings(max_examples=200, deadline=None)


@many
@given(scenes())
def test_every_job_gets_an_answer_within_its_bounds(scene: Scene) -> None:
    allocation = allocate(scene.jobs, scene.cluster, NOW)
    assert set(allocation) == {one.key for one in scene.jobs}
    for one in scene.jobs:
        decision = allocation[one.key]
        lowest = min(one.min_workers, one.admitted_workers)
        assert lowest <= decision.workers <= one.max_workers
        assert decision.message
        assert decision.workers == decision.recommended or one.mode == "Recommend"
        assert decision.requeue_at is None or decision.requeue_at > NOW


@many
@given(scenes())
def test_what_is_decided_has_a_placement_of_whole_workers_on_every_node(scene: Scene) -> None:
    assume(is_placeable(scene.jobs, scene.cluster))
    decided = follow(scene.jobs, allocate(scene.jobs, scene.cluster, NOW))
    assert is_placeable(decided, scene.cluster)


@many
@given(scenes())
def test_deciding_again_on_the_result_changes_nothing(scene: Scene) -> None:
    first = allocate(scene.jobs, scene.cluster, NOW)
    second = allocate(follow(scene.jobs, first), scene.cluster, NOW)
    assert {k: d.workers for k, d in second.items()} == {k: d.workers for k, d in first.items()}


@many
@given(scenes(), st.randoms())
def test_the_order_of_the_input_does_not_matter(scene: Scene, random: Any) -> None:
    jobs, nodes, bound = (
        random.sample(x, len(x)) for x in (scene.jobs, scene.cluster.nodes, scene.cluster.pods)
    )
    shuffled = Cluster(nodes=tuple(nodes), pods=tuple(bound))
    assert allocate(jobs, shuffled, NOW) == allocate(scene.jobs, scene.cluster, NOW)


@many
@given(scenes(), st.data())
def test_a_higher_priority_is_not_passed_by_an_equal_job(scene: Scene, data: st.DataObject) -> None:
    lower = data.draw(st.sampled_from(scene.jobs))
    lower = replace(lower, admitted_workers=0, refused_until=None)
    higher = replace(lower, key=key("higher"), priority=lower.priority + 1)
    others = tuple(one for one in scene.jobs if one.key != lower.key)
    allocation = allocate((*others, lower, higher), scene.cluster, NOW)
    assert allocation[higher.key].workers or not allocation[lower.key].workers


@many
@given(scenes())
def test_no_policy_changes_a_job_that_is_not_steady(scene: Scene) -> None:
    decided = allocate(scene.jobs, scene.cluster, NOW)
    for one in scene.jobs:
        is_fresh = one.measured_at is not None and NOW - one.measured_at < timedelta(seconds=15)
        if (
            one.admitted_workers
            and one.policy == "Throughput"
            and not (one.is_running and is_fresh)
        ):
            decision = decided[one.key]
            not_the_policys = [Reason.BOUNDS_CHANGED, Reason.SHRINK_NODES_LOST]
            if one.mode == "Recommend":
                not_the_policys.append(Reason.REQUESTED)
            assert decision.workers == one.admitted_workers or decision.reason in not_the_policys
