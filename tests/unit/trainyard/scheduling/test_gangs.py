"""Federations in the queue: unlike parties start together, or wait and name what they need."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.requests import GPU, NOW, cluster, decide, job, pods, shape
from trainyard.api.cluster import Cluster, Node, PodInfo
from trainyard.api.reasons import Reason
from trainyard.scheduling.allocation import allocate
from trainyard.scheduling.request import JobRequest, PodRequest

SITES = Cluster(
    nodes=(
        Node(name="a", allocatable={GPU: 1}, labels={"site": "ann"}),
        Node(name="b", allocatable={GPU: 2}, labels={"site": "bob"}),
    )
)


def party(name: str, gpus: int = 1, **selector: str) -> PodRequest:
    return PodRequest(party=name, shape=shape(gpus, node_selector=selector))


def gang(
    name: str, *parties: PodRequest, admitted: tuple[str, ...] = (), **fields: object
) -> JobRequest:
    values: dict[str, object] = {
        "gang": parties,
        "policy": "Manual",
        "admitted_parties": admitted,
        "created_at": NOW - timedelta(hours=4),
        **fields,
    }
    return replace(job(name, len(admitted)), **values)  # type: ignore[arg-type]


def at_sites(*names: str) -> tuple[PodRequest, ...]:
    return tuple(party(name, site=name) for name in names)


def test_a_gang_is_admitted_as_a_whole() -> None:
    decision = decide(SITES, gang("heart", *at_sites("ann", "bob")))["heart"]
    assert (decision.parties, decision.workers) == (("ann", "bob"), 2)
    assert decision.reason is Reason.ADMITTED
    assert decision.message == f"admitted with 2 parties: 2 {GPU}"


def test_parties_on_cpus_need_no_gpu() -> None:
    node = Node(name="n0", allocatable={"cpu": 2000})
    decision = decide(Cluster(nodes=(node,)), gang("heart", party("ann", 0), party("bob", 0)))[
        "heart"
    ]
    assert decision.parties == ("ann", "bob")
    assert decision.message == "admitted with 2 parties: no GPU"


def test_one_party_that_does_not_fit_keeps_all_waiting_and_is_named() -> None:
    taken = PodInfo(namespace="x", name="x", requests={GPU: 1}, node="a")
    decision = decide(replace(SITES, pods=(taken,)), gang("heart", *at_sites("ann", "bob")))[
        "heart"
    ]
    assert (decision.parties, decision.reason) == ((), Reason.WAITING_FOR_GPUS)
    assert decision.message == (
        f"all 2 parties start together; party ann waits for 1 {GPU} with selector site=ann "
        "(0 free on 0 of 1 matching node); pods of no job in the way: x/x"
    )


@pytest.mark.parametrize(
    "parties",
    [
        pytest.param(at_sites("ann", "cid"), id="no such node"),
        pytest.param((party("ann", 2, site="ann"),), id="nodes too small"),
        pytest.param((party("x", 2), party("y", 2)), id="not all at once"),
    ],
)
def test_a_gang_that_could_never_fit_says_so_and_blocks_nobody(
    parties: tuple[PodRequest, ...],
) -> None:
    decisions = decide(SITES, gang("heart", *parties), job("later"))
    assert decisions["heart"].reason is Reason.NO_SUCH_NODES
    assert decisions["later"].workers == 1


def test_a_gang_that_waits_keeps_later_jobs_off_its_nodes() -> None:
    busy = replace(SITES, pods=pods("older", "a", 1))
    older = job("older", 1, max_workers=1, created_at=NOW - timedelta(hours=9))
    decisions = decide(
        busy,
        older,
        gang("heart", *at_sites("ann", "bob")),
        job("later", created_at=NOW - timedelta(hours=1)),
    )
    assert decisions["heart"].reason is Reason.WAITING_FOR_GPUS
    assert (decisions["later"].workers, decisions["later"].reason) == (0, Reason.WAITING_IN_QUEUE)


def test_a_gang_waits_behind_an_older_job() -> None:
    both = cluster(2, bound=pods("x", "n0", 1))
    older = job("older", min_workers=2, start_workers=2, created_at=NOW - timedelta(hours=9))
    decisions = decide(both, older, gang("heart", party("ann")))
    assert decisions["heart"].reason is Reason.WAITING_IN_QUEUE
    assert "1 job before it" in decisions["heart"].message


def test_the_most_constrained_party_is_placed_first() -> None:
    mixed = Cluster(
        nodes=(
            Node(name="a", allocatable={GPU: 1}, labels={"site": "ann"}),
            Node(name="b", allocatable={GPU: 1}),
        )
    )
    decision = decide(mixed, gang("heart", party("any"), party("ann", site="ann")))["heart"]
    assert decision.parties == ("any", "ann")


def test_a_party_that_joins_is_assigned_or_waits() -> None:
    bound = replace(SITES, pods=(replace(pods("heart", "a", 1)[0], party="ann"),))
    fitting = gang("heart", *at_sites("ann", "bob"), admitted=("ann",))
    decision = decide(bound, fitting)["heart"]
    assert (decision.parties, decision.reason) == (("ann", "bob"), Reason.PARTY_ADDED)
    nowhere = gang("heart", *at_sites("ann", "cid"), admitted=("ann",))
    decision = decide(bound, nowhere)["heart"]
    assert (decision.parties, decision.reason) == (("ann",), Reason.NO_FREE_GPUS)
    assert "1 party has room; party cid waits for" in decision.message


def test_gpus_are_kept_for_an_assigned_party_whose_pod_is_gone() -> None:
    heart = gang("heart", *at_sites("ann", "bob"), admitted=("ann", "bob"))
    decisions = decide(SITES, heart, job("later", min_workers=3, start_workers=3))
    assert decisions["heart"].parties == ("ann", "bob")
    assert decisions["later"].workers == 0
    assert decide(SITES, heart, job("small"))["small"].workers == 1


def test_a_site_without_nodes_blocks_no_job_of_another() -> None:
    """Its party was assigned and has no node now: its own nodes are reserved, no others."""
    down = replace(SITES, nodes=(replace(SITES.nodes[0], is_ready=False), SITES.nodes[1]))
    heart = gang("heart", *at_sites("ann"), admitted=("ann",))
    starting = job("starting", 1, node_selector={"site": "bob"}, max_workers=1)
    later = job("later", node_selector={"site": "bob"}, created_at=NOW - timedelta(hours=1))
    assert decide(down, heart, starting, later)["later"].workers == 1


def test_a_gang_whose_start_timed_out_backs_off() -> None:
    until = NOW + timedelta(minutes=1)
    decision = decide(SITES, gang("heart", *at_sites("ann"), backoff_until=until))["heart"]
    assert (decision.reason, decision.requeue_at) == (Reason.START_TIMED_OUT, until)


party_lists = st.lists(
    st.builds(
        PodRequest,
        party=st.sampled_from("abcdefgh"),
        shape=st.builds(
            shape,
            gpus=st.integers(0, 3),
            node_selector=st.sampled_from([{}, {"site": "ann"}, {"site": "bob"}]),
        ),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda pod: pod.party,
)


@given(parties=party_lists, left=st.lists(st.integers(0, 4), max_size=2))
def test_an_admitted_gang_keeps_its_parties_whatever_happens_to_the_cluster(
    parties: list[PodRequest], left: list[int]
) -> None:
    names = tuple(pod.party for pod in parties)
    admitted = replace(gang("g", *parties), admitted_workers=len(names), admitted_parties=names)
    nodes = tuple(Node(name=f"n{n}", allocatable={GPU: size}) for n, size in enumerate(left))
    others = [replace(gang("h", *parties), priority=1)]
    decided = allocate([admitted, *others], Cluster(nodes=nodes), NOW)
    assert decided[admitted.key].parties == names


@given(
    gangs=st.lists(party_lists, min_size=1, max_size=4),
    sizes=st.lists(st.integers(0, 4), max_size=4),
)
def test_gpus_are_assigned_once_and_deciding_again_changes_nothing(
    gangs: list[list[PodRequest]], sizes: list[int]
) -> None:
    nodes = tuple(
        Node(
            name=f"n{n}",
            allocatable={GPU: size, "cpu": 64000},
            labels={"site": ("ann", "bob")[n % 2]},
        )
        for n, size in enumerate(sizes)
    )
    requests = [gang(f"g{n}", *parties) for n, parties in enumerate(gangs)]
    first = allocate(requests, Cluster(nodes=nodes), NOW)
    assigned = 0
    for request in requests:
        parties = first[request.key].parties
        assert parties in ((), tuple(pod.party for pod in request.gang)), "in part"
        assigned += sum(
            dict(pod.shape.requests).get(GPU, 0) for pod in request.gang if pod.party in parties
        )
    assert assigned <= sum(sizes)
    applied = [
        replace(r, admitted_workers=first[r.key].workers, admitted_parties=first[r.key].parties)
        for r in requests
    ]
    second = allocate(applied, Cluster(nodes=nodes), NOW)
    assert {k: d.parties for k, d in second.items()} == {k: d.parties for k, d in first.items()}
