"""The scheduler as a whole: who keeps, who starts, who grows; invariants; and two hours of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trainyard.api.cluster import Cluster, GpuPod, Node
from trainyard.api.names import Key
from trainyard.policy.allocation import Settings, allocate
from trainyard.policy.demand import Allocation, Decision, Demand, PastChange, Reason, Throughput
from trainyard.policy.placement import Shape, matches

GPU = "nvidia.com/gpu"
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


def key(name: str) -> Key:
    return Key("DistributedJob", "team", name)


def figure(workers: int, speed: float, steps: int = 100) -> Throughput:
    return Throughput(
        nodes=1, workers=workers, local_batch=64, samples_per_second=speed, steps=steps
    )


def job(
    name: str, here: int = 0, *, speeds: dict[int, float] | None = None, **fields: Any
) -> Demand:
    """A job of 1-GPU workers: waiting, or with `here` workers steady for five hours."""
    long_ago = NOW - timedelta(hours=5)
    defaults: dict[str, Any] = {"max_workers": 8, "start_workers": max(1, here)}
    if here:
        defaults |= {"admitted_at": long_ago, "decided_at": long_ago, "is_running": True}
        defaults |= {"measured_at": NOW}
    profile = tuple(figure(size, speed) for size, speed in (speeds or {}).items())
    defaults |= {"created_at": long_ago, "profile": profile, **fields}
    return Demand(key=key(name), admitted_workers=here, **defaults)


def pods(name: str, node: str, count: int, gpus: int = 1) -> tuple[GpuPod, ...]:
    return tuple(
        GpuPod(
            namespace="team", name=f"{name}-{n}", resource=GPU, gpus=gpus, node=node, job=key(name)
        )
        for n in range(count)
    )


def cluster(*gpus: int, bound: Iterable[GpuPod] = ()) -> Cluster:
    nodes = tuple(Node(name=f"n{place}", gpus={GPU: count}) for place, count in enumerate(gpus))
    return Cluster(nodes=nodes, pods=tuple(bound))


def decide(where: Cluster, *jobs: Demand) -> dict[str, Decision]:
    return {k.name: decision for k, decision in allocate(jobs, where, NOW).items()}


# --- Workers in force ---


def test_an_admitted_job_keeps_its_workers_whoever_comes() -> None:
    decisions = decide(
        cluster(4, bound=pods("old", "n0", 4)),
        job("old", 4, speeds={4: 400}, max_workers=4),
        job("urgent", priority=9),
    )
    assert (decisions["old"].workers, decisions["old"].reason) == (4, Reason.STEADY)
    assert decisions["urgent"].reason is Reason.WAITING_FOR_GPUS


def test_gpus_of_workers_without_a_node_yet_are_kept_for_them() -> None:
    fresh = job("fresh", 3, decided_at=NOW, is_running=False)
    decisions = decide(cluster(4, bound=pods("fresh", "n0", 1)), fresh, job("new", start_workers=4))
    assert decisions["new"].workers == 1


def test_reservations_go_where_no_waiting_job_could_go() -> None:
    zoned = Node(name="a", gpus={GPU: 1}, labels={"zone": "a"})
    where = Cluster(nodes=(zoned, *cluster(2).nodes))
    fresh = job("fresh", 1, decided_at=NOW, is_running=False)
    decisions = decide(where, fresh, job("new", node_selector={"zone": "a"}))
    assert decisions["new"].reason is Reason.ADMITTED


@pytest.mark.parametrize(
    ("here", "fields", "workers", "reason"),
    [
        pytest.param(4, {"max_workers": 2}, 2, Reason.BOUNDS_CHANGED, id="max fell"),
        pytest.param(2, {"min_workers": 3}, 3, Reason.BOUNDS_CHANGED, id="min rose"),
        pytest.param(
            2, {"min_workers": 9, "max_workers": 9}, 6, Reason.BOUNDS_CHANGED, id="min: what fits"
        ),
        pytest.param(
            4, {"max_workers": 2, "is_running": False}, 2, Reason.BOUNDS_CHANGED, id="not running"
        ),
        pytest.param(
            4, {"max_workers": 2, "mode": "Recommend"}, 2, Reason.BOUNDS_CHANGED, id="Recommend"
        ),
        pytest.param(
            2, {"policy": "Manual", "start_workers": 2}, 2, Reason.STEADY, id="Manual: as asked"
        ),
        pytest.param(
            2, {"policy": "Manual", "start_workers": 4}, 4, Reason.REQUESTED, id="Manual: more"
        ),
        pytest.param(
            4, {"policy": "Manual", "start_workers": 1}, 1, Reason.REQUESTED, id="Manual: fewer"
        ),
        pytest.param(
            4, {"policy": "Manual", "start_workers": 8}, 6, Reason.REQUESTED, id="Manual: what fits"
        ),
        pytest.param(
            2, {"mode": "Recommend", "start_workers": 3}, 3, Reason.REQUESTED, id="Recommend: more"
        ),
        pytest.param(
            6, {"policy": "Manual", "start_workers": 8}, 6, Reason.NO_FREE_GPUS, id="Manual: full"
        ),
        pytest.param(2, {"policy": "Goodput"}, 2, Reason.STEADY, id="Goodput: not yet"),
    ],
)  # fmt: skip
def test_people_are_followed_as_far_as_gpus_go(
    here: int, fields: dict[str, Any], workers: int, reason: Reason
) -> None:
    where = cluster(6, bound=pods("a", "n0", here))
    decision = decide(where, job("a", here, speeds={here: 100}, **fields))["a"]
    assert (decision.workers, decision.reason) == (workers, reason)


def test_a_request_that_does_not_fit_says_what_is_missing() -> None:
    where = cluster(6, bound=pods("a", "n0", 4))
    asked = job("a", 4, policy="Manual", start_workers=8)
    assert decide(where, asked)["a"].message == (
        "workers.replicas asks for 8 and 2 × 1 nvidia.com/gpu fit: growing 4→6; "
        "2 × 1 nvidia.com/gpu short of 8, 0 free on 0 nodes"
    )


# --- Lost nodes ---


@pytest.mark.parametrize(
    ("age", "fields", "workers", "reason"),
    [
        pytest.param(600, {}, 3, Reason.SHRINK_NODES_LOST, id="an old decision shrinks at once"),
        pytest.param(60, {}, 3, Reason.SHRINK_NODES_LOST, id="a fresh one after its grace"),
        pytest.param(59, {}, 4, Reason.NO_FREE_GPUS, id="not before"),
        pytest.param(600, {"min_workers": 4}, 4, Reason.MEASURING, id="never below its minimum"),
    ],
)
def test_workers_that_find_no_gpus_any_more_are_given_up(
    age: int, fields: dict[str, Any], workers: int, reason: Reason
) -> None:
    decided_at = NOW - timedelta(seconds=age)
    lost = job("a", 4, is_running=False, decided_at=decided_at, **fields)
    decision = decide(cluster(3, bound=pods("a", "n0", 2)), lost)["a"]
    assert (decision.workers, decision.reason) == (workers, reason)
    if reason is Reason.NO_FREE_GPUS:
        assert decision.again_at == NOW + timedelta(seconds=1)


def test_a_job_below_its_minimum_for_lost_nodes_comes_before_newcomers() -> None:
    lost = job("a", 4, is_running=False, min_workers=4)
    decisions = decide(cluster(3, bound=pods("a", "n0", 2)), lost, job("new", priority=9))
    assert decisions["new"].reason is Reason.WAITING_FOR_GPUS
    assert decisions["new"].message.endswith("0 free on 0 nodes; 1 job before it")


# --- Growth ---


def test_a_growth_tells_the_whole_story() -> None:
    where = cluster(5, bound=pods("a", "n0", 2))
    decision = decide(where, job("a", 2, speeds={1: 410, 2: 750}))["a"]
    assert (decision.workers, decision.recommended, decision.reason) == (4, 4, Reason.GROW_PAYS)
    assert decision.message == (
        "1→2 paid 1.83× (410→750 samples/s, minGain 1.05) and 2 × 1 nvidia.com/gpu fit: "
        "growing 2→4, expected 1.71×"
    )
    assert decision.expected_speedup == pytest.approx(1.708, abs=0.001)


def test_a_growth_takes_what_is_there() -> None:
    where = cluster(5, bound=pods("a", "n0", 4))
    decision = decide(where, job("a", 4, speeds={2: 200, 4: 390}))["a"]
    assert (decision.workers, decision.reason) == (5, Reason.GROW_PAYS)


def test_a_growth_without_gpus_says_so() -> None:
    where = cluster(2, bound=pods("a", "n0", 2))
    decision = decide(where, job("a", 2, speeds={1: 410, 2: 750}))["a"]
    assert (decision.workers, decision.reason) == (2, Reason.NO_FREE_GPUS)
    assert decision.message.endswith("to grow it needs 1 × 1 nvidia.com/gpu; 0 free on 0 nodes")


def test_too_few_gpus_to_pay_are_left_alone() -> None:
    where = cluster(33, bound=pods("a", "n0", 32))
    decision = decide(where, job("a", 32, speeds={16: 1600, 32: 3200}, max_workers=64))["a"]
    assert (decision.workers, decision.reason) == (32, Reason.NO_FREE_GPUS)


def test_recommend_leaves_the_workers_and_says_what_it_would_do() -> None:
    where = cluster(5, bound=pods("a", "n0", 2))
    decision = decide(where, job("a", 2, speeds={1: 410, 2: 750}, mode="Recommend"))["a"]
    assert (decision.workers, decision.recommended, decision.reason) == (2, 4, Reason.GROW_PAYS)
    assert "would be growing 2→4, expected 1.71×" in decision.message


def test_recommendations_take_no_gpus() -> None:
    where = cluster(3, bound=[*pods("a", "n0", 1), *pods("b", "n0", 1)])
    decisions = decide(
        where,
        job("a", 1, speeds={1: 100}, mode="Recommend"),
        job("b", 1, speeds={1: 100}),
    )
    assert (decisions["a"].workers, decisions["a"].recommended) == (1, 1)
    assert decisions["b"].workers == 2


def test_a_recommended_shrink_gives_no_gpus_away() -> None:
    where = cluster(2, bound=pods("a", "n0", 1))
    decisions = decide(where, job("a", 2, speeds={1: 100, 2: 101}, mode="Recommend"), job("new"))
    assert (decisions["a"].workers, decisions["a"].recommended) == (2, 1)
    assert decisions["new"].reason is Reason.WAITING_FOR_GPUS


def test_waiting_jobs_come_before_growth_and_what_a_blocked_one_waits_for_is_not_eaten() -> None:
    where = cluster(4, bound=pods("a", "n0", 1))
    growing = job("a", 1, speeds={1: 100}, priority=9)
    assert decide(where, growing, job("b", min_workers=3, max_workers=3))["b"].workers == 3
    decisions = decide(where, growing, job("b", min_workers=4, max_workers=4))
    assert decisions["b"].reason is Reason.WAITING_FOR_GPUS
    assert decisions["a"].reason is Reason.NO_FREE_GPUS
    assert decisions["a"].message.endswith("3 free on 1 node; 1 job before it")


def test_growth_goes_to_whom_it_speeds_up_most_per_gpu() -> None:
    where = cluster(6, bound=[*pods("flat", "n0", 2), *pods("steep", "n0", 2)])
    decisions = decide(
        where,
        job("flat", 2, speeds={1: 5000, 2: 6000}, priority=1),
        job("steep", 2, speeds={1: 10, 2: 19}),
    )
    assert (decisions["steep"].workers, decisions["flat"].workers) == (4, 2)


def test_equal_gains_go_to_the_job_with_fewer_gpus_per_worker() -> None:
    where = cluster(5, bound=[*pods("wide", "n0", 1, gpus=2), *pods("narrow", "n0", 1)])
    decisions = decide(
        where,
        job("wide", 1, speeds={1: 10}, gpus_per_worker=2, priority=1),
        job("narrow", 1, speeds={1: 10}),
    )
    assert (decisions["narrow"].workers, decisions["wide"].workers) == (2, 1)


def test_equal_gains_go_to_the_first_in_the_queue_one_by_one() -> None:
    where = cluster(7, bound=[*pods("a", "n0", 2), *pods("b", "n0", 2)])
    jobs = [job(name, 2, speeds={1: 10, 2: 19}) for name in ("b", "a")]
    decisions = decide(where, *jobs)
    assert (decisions["a"].workers, decisions["b"].workers) == (4, 3)


def test_people_who_ask_come_before_policies() -> None:
    where = cluster(4, bound=[*pods("a", "n0", 1), *pods("b", "n0", 1)])
    decisions = decide(
        where,
        job("a", 1, speeds={1: 10}, priority=9),
        job("b", 1, policy="Manual", start_workers=3),
    )
    assert (decisions["b"].workers, decisions["a"].workers) == (3, 1)


def test_cpu_jobs_grow_without_counting() -> None:
    decision = decide(cluster(), job("a", 2, speeds={1: 10, 2: 19}, gpus_per_worker=0))["a"]
    assert decision.workers == 4


def test_the_settings_are_the_callers() -> None:
    where = cluster(4, bound=pods("a", "n0", 1))
    old = job("a", 1, speeds={1: 100}, measured_at=NOW - timedelta(seconds=30))
    assert allocate([old], where, NOW)[old.key].reason is Reason.METRICS_STALE
    patient = Settings(stale_after=timedelta(minutes=1))
    assert allocate([old], where, NOW, settings=patient)[old.key].workers == 2


# --- Invariants ---

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
def _demands(draw: st.DrawFn, name: str) -> Demand:
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
    return Demand(
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
    jobs: tuple[Demand, ...]
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
            homes = [x for x in nodes if matches(x, Shape.of(one))]
            home = next((x for x in homes if free[x.name] >= one.gpus_per_worker), None)
            if home is not None:
                free[home.name] -= one.gpus_per_worker
                gpus = one.gpus_per_worker
                bound.extend(
                    replace(pod, name=f"{n}") for pod in pods(one.key.name, home.name, 1, gpus)
                )
    return Scene(jobs=tuple(jobs), cluster=Cluster(nodes=nodes, pods=tuple(bound)))


def follow(jobs: Iterable[Demand], allocation: Allocation) -> tuple[Demand, ...]:
    """The jobs with the decisions in force, as a reconcile records them."""
    return tuple(_followed(one, allocation[one.key]) for one in jobs)


def _followed(one: Demand, decision: Decision) -> Demand:
    if decision.workers == one.admitted_workers:
        return one
    change = PastChange(
        from_workers=one.admitted_workers, to_workers=decision.workers, decided_at=NOW
    )
    return replace(
        one,
        admitted_workers=decision.workers,
        admitted_at=one.admitted_at or NOW,
        decided_at=NOW,
        is_running=False,
        history=(*one.history, change),
    )


def is_placeable(jobs: Sequence[Demand], where: Cluster) -> bool:
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
        shape = Shape.of(one)
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
        assert decision.again_at is None or decision.again_at > NOW


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


# --- Two hours, closed loop ---

TICK = timedelta(seconds=5)
JOIN_TICKS = 3


def knee(workers: int) -> float:
    """Pays until three workers, then not."""
    return 100 * math.pow(min(workers, 3), 0.95)


def hopeless(workers: int) -> float:
    """Never pays."""
    return 100 / math.pow(workers, 0.1)


def steep(workers: int) -> float:
    return 100 * math.pow(workers, 0.98)


def gentle(workers: int) -> float:
    return 900 * math.pow(workers, 0.3)


class World:
    """A cluster of one node that carries out decisions and measures true speeds, with noise."""

    def __init__(self, gpus: int, curves: dict[str, Callable[[int], float]], **fields: Any) -> None:
        self.curves = curves
        self.now = NOW
        self.node = Node(name="n0", gpus={GPU: gpus})
        self.jobs = {name: job(name, max_workers=8, created_at=NOW, **fields) for name in curves}
        self.joining = dict.fromkeys(curves, 0)
        self.trace: dict[str, list[int]] = {name: [] for name in curves}

    def run(self, time: timedelta) -> None:
        for tick in range(time // TICK):
            bound = [p for n, one in self.jobs.items() for p in pods(n, "n0", one.admitted_workers)]
            where = Cluster(nodes=(self.node,), pods=tuple(bound))
            assert sum(pod.gpus for pod in bound) <= self.node.gpus[GPU]
            for k, decision in allocate(tuple(self.jobs.values()), where, self.now).items():
                self._carry_out(k.name, decision)
                self._measure(k.name, tick)
            self.now += TICK

    def _carry_out(self, name: str, decision: Decision) -> None:
        one = self.jobs[name]
        if decision.workers == one.admitted_workers:
            return
        change = PastChange(
            from_workers=one.admitted_workers, to_workers=decision.workers, decided_at=self.now
        )
        self.jobs[name] = replace(
            one,
            admitted_workers=decision.workers,
            admitted_at=one.admitted_at or self.now,
            decided_at=self.now,
            history=(*one.history, change),
        )
        self.joining[name] = JOIN_TICKS
        self.trace[name].append(decision.workers)

    def _measure(self, name: str, tick: int) -> None:
        one = self.jobs[name]
        here = one.admitted_workers
        self.joining[name] -= 1
        is_running = here > 0 and self.joining[name] <= 0
        profile = {entry.workers: entry for entry in one.profile}
        if is_running:
            steps = 10 * -self.joining[name]
            noise = 1 + 0.02 * math.sin(tick * 7.3)
            profile[here] = figure(here, self.curves[name](here) * noise, steps + 1)
        self.jobs[name] = replace(
            one,
            is_running=is_running,
            measured_at=self.now,
            profile=tuple(profile[size] for size in sorted(profile)),
        )


def test_a_job_that_pays_until_three_workers_finds_three_and_stays_for_half_an_hour() -> None:
    world = World(8, {"a": knee})
    world.run(timedelta(minutes=30))
    assert world.trace["a"] == [1, 2, 4, 3]


def test_it_looks_again_less_and_less_often_and_does_not_thrash() -> None:
    world = World(8, {"a": knee})
    world.run(timedelta(hours=2))
    assert world.trace["a"] == [1, 2, 4, 3, 4, 3, 4, 3]


def test_a_job_that_never_pays_returns_to_one_worker() -> None:
    world = World(8, {"a": hopeless})
    world.run(timedelta(hours=2))
    assert world.trace["a"][:3] == [1, 2, 1]
    assert world.jobs["a"].admitted_workers == 1
    assert len(world.trace["a"]) == 7


def test_of_two_jobs_the_one_that_gains_more_ends_with_more() -> None:
    world = World(6, {"gentle": gentle, "steep": steep})
    world.run(timedelta(minutes=30))
    ends = {name: one.admitted_workers for name, one in world.jobs.items()}
    assert ends["steep"] > ends["gentle"]
    assert sum(ends.values()) == 6
    world.run(timedelta(minutes=90))
    assert {name: one.admitted_workers for name, one in world.jobs.items()} == ends


def test_a_recommending_job_is_never_changed() -> None:
    world = World(8, {"a": steep}, mode="Recommend")
    world.run(timedelta(minutes=30))
    assert world.trace["a"] == [1]
