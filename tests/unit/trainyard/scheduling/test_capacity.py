"""The ledger: what is free, which nodes match a shape, and how workers are packed."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from trainyard.api.cluster import Cluster, Node, PodInfo, Taint, Toleration
from trainyard.scheduling.capacity import Availability, Ledger
from trainyard.scheduling.shapes import PodShape, matches
from trainyard.scheduling.usage import ClusterUsage

GPU = "nvidia.com/gpu"


def shape(gpus: int = 1, **selector: str) -> PodShape:
    return PodShape.of({GPU: gpus}, node_selector=selector)


def nodes(*gpus: int) -> tuple[Node, ...]:
    return tuple(
        Node(name=f"n{index}", allocatable={GPU: count}) for index, count in enumerate(gpus)
    )


def pod(node: str, gpus: int, resource: str = GPU) -> PodInfo:
    return PodInfo(namespace="other", name="notebook", requests={resource: gpus}, node=node)


def ledger_of(nodes: Iterable[Node], pods: Iterable[PodInfo] = ()) -> Ledger:
    return Ledger(ClusterUsage(Cluster(nodes=tuple(nodes), pods=tuple(pods))))


TAINTED = Taint(key="dedicated", value="a", effect="NoSchedule")
TOLERANT = Toleration(key="dedicated", operator="Equal", value="a")


@pytest.mark.parametrize(
    ("labels", "taints", "tolerations", "gpus", "expected"),
    [
        pytest.param({"zone": "a"}, (), (), 1, True, id="a node with the label matches"),
        pytest.param({}, (), (), 1, False, id="a node without the label does not"),
        pytest.param({"zone": "b"}, (), (), 1, False, id="another value does not"),
        pytest.param({"zone": "a"}, (), (), 9, False, id="a worker larger than the node does not"),
        pytest.param({"zone": "a"}, (TAINTED,), (), 1, False, id="a taint blocks"),
        pytest.param(
            {"zone": "a"}, (TAINTED,), (TOLERANT,), 1, True, id="a toleration overrides it"
        ),
        pytest.param(
            {"zone": "a"},
            (Taint(key="gone", effect="NoExecute"),),
            (TOLERANT,),
            1,
            False,
            id="a toleration of another taint does not",
        ),
        pytest.param(
            {"zone": "a"},
            (Taint(key="soft", effect="PreferNoSchedule"),),
            (),
            1,
            True,
            id="a preference does not block",
        ),
    ],
)
def test_a_shape_matches_a_node_as_kube_scheduler_would(
    labels: dict[str, str],
    taints: tuple[Taint, ...],
    tolerations: tuple[Toleration, ...],
    gpus: int,
    expected: bool,
) -> None:
    node = Node(name="n", allocatable={GPU: 8}, labels=labels, taints=taints)
    labelled = PodShape.of({GPU: gpus}, node_selector={"zone": "a"}, tolerations=tolerations)
    assert matches(node, labelled) is expected


@pytest.mark.parametrize(
    ("pods", "slots"),
    [
        pytest.param((), 6, id="all that is allocatable"),
        pytest.param((pod("n0", 3),), 4, id="other pods count, and a remainder is lost"),
        pytest.param((pod("", 8),), 6, id="a pod without a node uses nothing"),
        pytest.param((pod("gone", 8),), 6, id="a pod on a deleted node uses nothing"),
        pytest.param((pod("n0", 4, "amd.com/gpu"),), 6, id="another resource does not count"),
        pytest.param((pod("n0", 99),), 2, id="an overcommitted node does not go negative"),
    ],
)
def test_slots_count_whole_workers_on_free(pods: tuple[PodInfo, ...], slots: int) -> None:
    ledger = ledger_of(nodes(8, 5), pods=pods)
    assert ledger.slots(shape(2)) == slots


def test_a_node_that_is_not_ready_counts_only_for_the_capacity_when_empty() -> None:
    cordoned = Node(name="n9", allocatable={GPU: 4}, is_ready=False)
    ledger = ledger_of((*nodes(4), cordoned))
    candidates = ledger.candidates(shape(2))
    assert (ledger.slots(shape(2)), candidates.ready_capacity, candidates.capacity) == (2, 2, 4)
    assert candidates.ready == {"n0"}


def test_an_unknown_resource_has_no_slots() -> None:
    ledger = ledger_of(nodes(4))
    other = PodShape.of({"amd.com/gpu": 1})
    nothing = Availability(free=0, nodes=0, jobs_ahead=0)
    assert (ledger.slots(other), ledger.take(other, 1)) == (0, 0)
    assert ledger.availability(other) == nothing


@pytest.mark.parametrize(
    ("gpus", "workers", "left"),
    [
        pytest.param((4, 2, 8), 2, [4, 0, 8], id="a small job goes where it fits best"),
        pytest.param((4, 2, 8), 5, [4, 2, 3], id="a job that fits on one node is not split"),
        pytest.param((4, 2, 8), 10, [4, 0, 0], id="a large one fills the largest, then best fit"),
        pytest.param((4, 2, 8), 14, [0, 0, 0], id="all of it"),
        pytest.param((4, 2, 8), 99, [0, 0, 0], id="as many as fit"),
        pytest.param((4, 4), 4, [0, 4], id="ties go by name"),
        pytest.param((4, 4), 0, [4, 4], id="none"),
    ],
)
def test_workers_are_packed_on_few_nodes(
    gpus: tuple[int, ...], workers: int, left: list[int]
) -> None:
    ledger = ledger_of(nodes(*gpus))
    assert ledger.take(shape(), workers) == min(workers, sum(gpus))
    assert _left(ledger, len(gpus)) == left


def _left(ledger: Ledger, count: int) -> list[int]:
    names = [f"n{index}" for index in range(count)]
    return [ledger.take(shape(), 99, avoid=frozenset(names) - {name}) for name in names]


def test_a_reservation_keeps_later_jobs_off_its_nodes_and_is_counted() -> None:
    labelled = Node(name="m", allocatable={GPU: 4}, labels={"zone": "a"})
    ledger = ledger_of((*nodes(2), labelled))
    ledger.reserve(shape(4, zone="a"), 1)
    assert ledger.slots(shape()) == 2
    assert ledger.slots(shape(), include_reserved=True) == 6
    assert ledger.take(shape(), 6) == 2
    assert ledger.availability(shape()) == Availability(free=4, nodes=1, jobs_ahead=1)
    assert ledger.availability(shape(zone="b")).jobs_ahead == 0
