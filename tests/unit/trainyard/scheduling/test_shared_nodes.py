"""Nodes that jobs share with each other and with pods of no job, in every resource that counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.requests import GPU, NOW, decide, job, key, pods, shape
from trainyard.api.cluster import Cluster, Node, PodInfo
from trainyard.api.reasons import Reason
from trainyard.scheduling.allocation import MAX_PREFERRED_NODES
from trainyard.scheduling.capacity import Basis, Ledger
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.shapes import NodeMatcher, PodShape
from trainyard.scheduling.usage import ClusterUsage
from trainyard_trainer.contract.env import Role

EFA = "vpc.amazonaws.com/efa"
RESOURCES = [GPU, EFA, "cpu", "memory", "pods"]


def node(name: str, gpus: int = 0, cores: int = 8, **fields: Any) -> Node:
    allocatable = {GPU: gpus, "cpu": cores * 1000, "pods": fields.pop("pods", 110)}
    present = {resource: count for resource, count in allocatable.items() if count}
    return Node(name=name, allocatable=present, **fields)


def nodes(*given: Node, bound: tuple[PodInfo, ...] = ()) -> Cluster:
    return Cluster(nodes=given, pods=bound)


def stranger(node: str, name: str = "notebook", **requests: Any) -> PodInfo:
    amounts = {GPU if r == "gpu" else r: n for r, n in requests.items()}
    return PodInfo(namespace="other", name=name, requests=amounts, node=node)


def later(name: str, **fields: Any) -> JobRequest:
    """A job that came after all others."""
    return job(name, created_at=NOW, **fields)


amounts = st.dictionaries(st.sampled_from(RESOURCES), st.integers(1, 8))
all_pods = st.lists(
    st.builds(
        PodInfo,
        namespace=st.just("x"),
        name=st.just("x"),
        requests=amounts,
        node=st.sampled_from(["", "n0", "n1", "gone"]),
        job=st.sampled_from([None, key("a")]),
        is_deleting=st.booleans(),
    ),
    max_size=8,
)


@given(
    allocatable=st.tuples(amounts, amounts),
    bound=all_pods,
    shapes=st.lists(amounts.filter(bool).map(PodShape.of), max_size=4),
)
def test_nothing_is_free_that_any_pod_holds(
    allocatable: tuple[dict[str, int], ...],
    bound: list[PodInfo],
    shapes: list[PodShape],
) -> None:
    """For every resource of every node, whatever is placed."""
    given_nodes = tuple(Node(name=f"n{n}", allocatable=a) for n, a in enumerate(allocatable))
    ledger = Ledger(ClusterUsage(Cluster(nodes=given_nodes, pods=tuple(bound))))
    left: Counter[tuple[str, str]] = Counter()
    for each in given_nodes:
        left.update({(each.name, r): each.allocatable.get(r, 0) for r in RESOURCES})
    for pod in bound:
        left.subtract({(pod.node, r): n for r, n in pod.requests.items()})
    for wanted in shapes:
        mark = ledger.mark()
        slots = ledger.slots(wanted)
        assert slots == sum(
            max(0, min(left[name, r] // n for r, n in wanted.requests)) for name in ("n0", "n1")
        )
        assert ledger.take(wanted, 1) == min(slots, 1)
        for placed in ledger._placements[mark:]:
            left.subtract({(placed.node, r): placed.pods * n for r, n in wanted.requests})


def test_a_pod_with_gpus_and_network_devices_holds_both() -> None:
    """Only the resource with the largest amount counted: the GPUs of full nodes looked free."""
    full = Node(name="p5", allocatable={GPU: 8, EFA: 32, "pods": 110})
    holder = replace(stranger("p5"), requests={GPU: 8, EFA: 32})
    decision = decide(nodes(full, bound=(holder,)), job("a", gpus_per_worker=8))["a"]
    assert decision.reason is Reason.WAITING_FOR_GPUS
    assert decision.message == (
        f"needs 1 × 8 {GPU} (min); 0 free on 0 nodes; pods of no job in the way: other/notebook"
    )


def test_a_bound_worker_counts_whatever_it_requests_beside_its_gpus() -> None:
    """It counted as one without a node, and its GPUs were kept a second time."""
    wide = PodShape.of({GPU: 1, EFA: 4, "cpu": 1000}, first=GPU)
    large = Node(name="n0", allocatable={GPU: 2, EFA: 8, "cpu": 8000})
    running = job("a", 1, max_workers=1, shape=wide)
    bound = replace(pods("a", "n0", 1)[0], requests=dict(wide.requests))
    assert decide(nodes(large, bound=(bound,)), running, job("b"))["b"].workers == 1


@pytest.mark.parametrize(
    ("requests", "fields", "message"),
    [
        pytest.param(
            {"cpu": 4000},
            {"cores": 1},
            f"needs 2 × (1 {GPU}, 4 cpu) (min); 3 free on 1 node, but node a has 1 cpu free "
            f"beside 3 {GPU}",
            id="CPU",
        ),
        pytest.param(
            {"pods": 1},
            {"pods": 1},
            f"needs 2 × 1 {GPU} (min); 3 free on 1 node, but node a has 1 pods free beside 3 {GPU}",
            id="places for pods",
        ),
    ],
)
def test_a_worker_needs_more_than_free_gpus(
    requests: dict[str, Any], fields: dict[str, int], message: str
) -> None:
    """It was admitted, and its pods stayed Pending."""
    resources = {"cpu": 8000, "pods": 110}
    big = Node(name="a", allocatable={GPU: 3, **resources})
    taken = {"cpu": resources["cpu"] - 1000 * fields.get("cores", 8)}
    taken["pods"] = resources["pods"] - fields.get("pods", 110)
    bound = PodInfo(namespace="x", name="x", requests=taken, node="a", job=key("ending"))
    wanted = job("b", min_workers=2, max_workers=2, shape=shape(1, **requests))
    decision = decide(nodes(big, bound=(bound,)), wanted)["b"]
    assert (decision.workers, decision.reason) == (0, Reason.WAITING_FOR_RESOURCES)
    assert decision.message == message


def test_a_job_does_not_grow_where_cpu_is_short() -> None:
    """It grew, and had one worker Pending for ever: its GPU was lost to all others."""
    wide = shape(1, cpu=6000)
    bound = replace(pods("a", "n0", 1)[0], requests=dict(wide.requests))
    growing = job("a", 1, speeds={1: 100}, shape=wide)
    decision = decide(nodes(node("n0", 8), bound=(bound,)), growing)["a"]
    assert (decision.workers, decision.reason) == (1, Reason.NO_FREE_GPUS)
    assert f"7 free on 1 node, but node n0 has 2 cpu free beside 7 {GPU}" in decision.message


def test_a_thousand_cpu_jobs_queue_by_cpu() -> None:
    """All of their pods were created at once."""
    jobs = [
        job(
            f"j{n:04}",
            min_workers=64,
            max_workers=64,
            gpus_per_worker=0,
            created_at=NOW - timedelta(minutes=2000 - n),
        )
        for n in range(1000)
    ]
    decisions = decide(nodes(node("n0", cores=100), node("n1", cores=100)), *jobs)
    admitted = [name for name, decision in decisions.items() if decision.workers]
    assert sorted(admitted) == ["j0000", "j0001", "j0002"]
    assert decisions["j0999"].reason is Reason.WAITING_FOR_RESOURCES
    assert decisions["j0999"].message == (
        "needs 64 × 1 cpu (min); 8 fit on 1 node, but node n0 has 0 cpu free; 996 jobs before it"
    )


def test_one_pod_of_no_job_does_not_stop_the_queue() -> None:
    """A notebook that stayed for weeks closed every node to all jobs but one."""
    snapshot = nodes(node("n0", 8), node("n1", 8), bound=(stranger("n0", gpu=1),))
    decisions = decide(snapshot, job("huge", min_workers=16, max_workers=16), later("small"))
    assert decisions["huge"].message == (
        f"needs 16 × 1 {GPU} (min); 14 free on 2 nodes; pods of no job in the way: other/notebook"
    )
    assert decisions["small"].workers == 1


def test_at_most_three_pods_in_the_way_are_named_the_largest_first() -> None:
    holders = tuple(stranger("n0", f"p{n}", gpu=1 + n % 2) for n in range(5))
    decision = decide(nodes(node("n0", 8), bound=holders), job("a", gpus_per_worker=8))["a"]
    assert decision.message.endswith("in the way: other/p1, other/p3, other/p0")


def test_a_pod_of_no_job_that_is_being_deleted_is_waited_for() -> None:
    ending = replace(stranger("n0", gpu=4), is_deleting=True)
    snapshot = nodes(node("n0", 8), bound=(ending,))
    decisions = decide(snapshot, job("large", gpus_per_worker=8), later("small"))
    assert "in the way" not in decisions["large"].message
    assert decisions["small"].reason is Reason.WAITING_IN_QUEUE


def test_the_pods_of_other_jobs_are_waited_for() -> None:
    snapshot = nodes(node("n0", 8), bound=pods("other", "n0", 4))
    decisions = decide(
        snapshot, job("other", 4, max_workers=4), job("large", gpus_per_worker=8), later("small")
    )
    assert decisions["large"].reason is Reason.WAITING_FOR_GPUS
    assert "in the way" not in decisions["large"].message
    assert decisions["small"].reason is Reason.WAITING_IN_QUEUE


@pytest.mark.parametrize(
    ("cores", "workers"),
    [
        pytest.param(2, 1, id="what the waiting job could not use"),
        pytest.param(3, 0, id="but no more"),
    ],
)
def test_a_cpu_job_passes_a_job_that_waits_for_gpus(cores: int, workers: int) -> None:
    """The node has ten cores and two GPUs of which one is free; the large job needs eight cores."""
    large = job("large", min_workers=2, max_workers=2, shape=shape(1, cpu=4000))
    running = job("other", 1, max_workers=1)
    snapshot = nodes(node("n0", 2, cores=10), bound=pods("other", "n0", 1))
    small = later("small", max_workers=1, shape=shape(0, cpu=cores * 1000))
    decisions = decide(snapshot, running, large, small)
    assert decisions["large"].reason is Reason.WAITING_FOR_GPUS
    assert decisions["small"].workers == workers
    if not workers:
        assert decisions["small"].reason is Reason.WAITING_IN_QUEUE
        assert decisions["small"].message.endswith("1 job before it")


def test_cpu_jobs_keep_off_nodes_with_gpus_while_others_have_place() -> None:
    cluster = nodes(node("a-gpu", 8, cores=64), node("b-cpu", cores=4))
    small = later("small", min_workers=3, start_workers=3, gpus_per_worker=0)
    assert decide(cluster, small)["small"].nodes == ("b-cpu",)
    large = later("large", min_workers=6, start_workers=6, gpus_per_worker=0)
    assert decide(cluster, large)["large"].nodes == ()
    assert decide(cluster, large)["large"].workers == 6


def test_a_cpu_job_that_waits_reserves_no_nodes_with_gpus_if_others_could_hold_it() -> None:
    gpu, cpu = node("a-gpu", 8, cores=2), node("b-cpu", cores=8)
    busy = PodInfo(namespace="x", name="x", requests={"cpu": 8000}, node="b-cpu", job=key("x"))
    waiting = job("waiting", min_workers=8, max_workers=8, gpus_per_worker=0)
    decisions = decide(nodes(gpu, cpu, bound=(busy,)), waiting, later("gpus", start_workers=8))
    assert decisions["waiting"].reason is Reason.WAITING_FOR_RESOURCES
    assert decisions["gpus"].workers == 8
    second = later("second", gpus_per_worker=0, max_workers=1)
    assert decide(nodes(gpu, cpu, bound=(busy,)), waiting, second)["second"].workers == 1


def test_a_job_needs_a_place_for_its_coordinator_beside_its_workers() -> None:
    """Its coordinator and its last worker took each other's place."""
    exact = job("a", min_workers=2, max_workers=2, gpus_per_worker=0, coordinator=shape(0, cpu=100))
    assert decide(nodes(node("n0", cores=2)), exact)["a"].workers == 0
    assert decide(nodes(node("n0", cores=3)), exact)["a"].workers == 2
    found = PodInfo(
        namespace="team",
        name="a-coordinator-1",
        requests={"cpu": 100},
        node="n1",
        job=key("a"),
        role=Role.COORDINATOR,
    )
    running_coordinator = nodes(node("n0", cores=2), bound=(found,))
    assert decide(running_coordinator, exact)["a"].workers == 2


def test_a_coordinator_that_fits_nowhere_holds_up_no_worker() -> None:
    """A pod that waits is what makes a cluster add a node."""
    large = job("a", coordinator=shape(0, cpu=64000))
    assert decide(nodes(node("n0", 1)), large)["a"].workers == 1


# --- The nodes that pods prefer ---


def test_new_pods_prefer_the_nodes_on_which_they_were_counted() -> None:
    """kube-scheduler put a small job's worker on the node of a gang, which waited in vain."""
    hostname = {"kubernetes.io/hostname": "host-b"}
    cluster = nodes(node("a", 8), node("b", 2, labels=hostname))
    assert decide(cluster, job("small", max_workers=2, start_workers=2))["small"].nodes == (
        "host-b",
    )
    kept = decide(cluster, job("small", 2, max_workers=2))["small"]
    assert (kept.workers, kept.nodes) == (2, ("host-b",))


def test_nothing_is_preferred_where_there_is_no_choice() -> None:
    assert decide(nodes(node("a", 8)), job("a"))["a"].nodes == ()
    bound = nodes(node("a", 8), node("b", 8), bound=pods("a", "a", 1))
    assert decide(bound, job("a", 1, max_workers=1))["a"].nodes == ()


def test_a_job_on_very_many_nodes_prefers_none() -> None:
    many = nodes(*(node(f"n{n:02}", 1) for n in range(MAX_PREFERRED_NODES + 2)))
    wide = job("a", start_workers=MAX_PREFERRED_NODES + 1, max_workers=MAX_PREFERRED_NODES + 1)
    assert decide(many, wide)["a"].nodes == ()
    assert len(decide(many, replace(wide, start_workers=3))["a"].nodes) == 3


# --- What is remembered ---


def test_matching_nodes_are_remembered_until_a_node_changes() -> None:
    matcher, wanted = NodeMatcher(), shape(1, node_selector={"zone": "a"})
    before = (node("n0", 1, labels={"zone": "a"}), node("n1", 1, labels={"zone": "b"}))
    matcher.use(before)
    first = matcher.matching(wanted)
    assert [found.name for found in first] == ["n0"]
    matcher.use(before)
    assert matcher.matching(wanted) is first
    matcher.use((replace(before[0], labels={"zone": "b"}), before[1]))
    assert matcher.matching(wanted) == ()


def test_what_would_fit_otherwise_is_asked_without_a_trace() -> None:
    cluster = nodes(node("n0", 4), bound=pods("a", "n0", 3))
    ledger = Ledger(ClusterUsage(cluster))
    for _ in range(2):
        assert ledger.unplaceable({shape(): 4}, Basis.ATTAINABLE) == ()
        assert ledger.unplaceable({shape(): 5}, Basis.ATTAINABLE) == (shape(),)
    assert ledger.slots(shape()) == 1
    assert ledger.take_gang({shape(): 1, shape(0): 9}) == (shape(0),)
    assert (ledger.slots(shape()), ledger.slots(shape(0))) == (1, 8)
