"""Exchanges with coordinators: which Plans they get, and when they are asked again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.dependencies import dependencies_of, make_state
from tests.support.fakeapi import FakeApi
from tests.support.federations import make_federation
from tests.support.jobs import KEY, NOW, make_job
from tests.support.jobs import coordinator as coordinator_pod
from trainyard.api.jobs import Job
from trainyard.api.names import Key
from trainyard.api.report import CoordinatorReport
from trainyard.cluster.coordinator import (
    Address,
    PeerIdentityError,
    StalePlanError,
    UnreachableError,
)
from trainyard.cluster.lease import LeadershipLost
from trainyard.cluster.store import ObjectKey
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.exchange import (
    FIRST_RETRY_SECONDS,
    PEER_IDENTITY_RETRY_SECONDS,
    _send,
    exchange,
)
from trainyard.reconcile.state import CoordinatorLink
from trainyard.render.trainer_config import AnyPlan
from trainyard_trainer.contract.env import WIRE_VERSION
from trainyard_trainer.contract.federated import FederatedPlan, PartyConfig, RoundsConfig
from trainyard_trainer.contract.plan import Plan


class Coordinator:
    """Takes Plans as the real one does: none older than what it has."""

    def __init__(self, generation: int, fencing_token: int) -> None:
        self.generation, self.fencing_token = generation, fencing_token
        self.taken: list[AnyPlan] = []

    async def put_plan(self, _: Address, __: Any, plan: AnyPlan) -> None:
        if plan.fencing_token < self.fencing_token or plan.generation < self.generation:
            raise StalePlanError(self.generation, self.fencing_token)
        self.taken.append(plan)


class FakeElection:
    """An election that this process won, and whose Lease it may have lost since."""

    def __init__(self, fencing_token: int, *, is_held: bool) -> None:
        self.fencing_token, self.is_held, self.is_leader = fencing_token, is_held, True

    async def confirm(self) -> None:
        if not self.is_held:
            raise LeadershipLost("it is another's")


async def send(coordinator: Coordinator, election: FakeElection | None) -> CoordinatorLink:
    deps = dependencies_of(FakeApi(), coordinators=coordinator, election=election)
    plan = Plan(generation=1, workers=2)
    link = CoordinatorLink(plan_generation=0, plan=plan)
    address = Address(key=KEY, pod=coordinator_pod(), server_name="digits-coordinator")
    await _send(deps, link, address, None, plan)
    return link


async def test_a_plan_carries_the_fencing_token_of_its_sender() -> None:
    coordinator = Coordinator(generation=0, fencing_token=2)
    await send(coordinator, FakeElection(3, is_held=True))
    assert [(p.generation, p.fencing_token) for p in coordinator.taken] == [(1, 3)]


async def test_generations_continue_after_those_that_an_earlier_operator_sent() -> None:
    coordinator = Coordinator(generation=7, fencing_token=2)
    link = await send(coordinator, FakeElection(3, is_held=True))
    assert [(p.generation, p.fencing_token) for p in coordinator.taken] == [(8, 3)]
    assert link.plan_generation == 8


async def test_a_plan_of_a_later_operator_ends_this_one_if_the_lease_agrees() -> None:
    coordinator = Coordinator(generation=7, fencing_token=4)
    with pytest.raises(LeadershipLost):
        await send(coordinator, FakeElection(3, is_held=False))
    assert coordinator.taken == []


@pytest.mark.parametrize(
    "election", [FakeElection(3, is_held=True), None], ids=["elected", "alone"]
)
async def test_a_coordinator_alone_cannot_end_the_operator(election: FakeElection | None) -> None:
    """It lies, or somebody deleted the Lease: it gets the fencing token that it insists on."""
    coordinator = Coordinator(generation=7, fencing_token=9)
    link = await send(coordinator, election)
    assert [(p.generation, p.fencing_token) for p in coordinator.taken] == [(8, 9)]
    assert link.fencing_token == 9


class Trainer(Coordinator):
    """A coordinator whose image speaks this wire version."""

    def __init__(self, wire: int) -> None:
        super().__init__(generation=0, fencing_token=0)
        self.wire, self.scrapes = wire, 0

    def is_open(self, _: str) -> bool:
        return True

    async def scrape(self, *_: Any) -> CoordinatorReport:
        self.scrapes += 1
        return CoordinatorReport(at=NOW, wire=self.wire, term=1)


def deps_with(trainer: Trainer) -> Dependencies:
    return dependencies_of(FakeApi(), coordinators=trainer)


async def exchange_once(trainer: Trainer, job: Job, plan: AnyPlan) -> CoordinatorLink:
    """The first exchange with a coordinator."""
    deps = deps_with(trainer)
    deps.cache.put_job(job)
    deps.cache.put_pod(coordinator_pod(job=job.key))
    state = deps.job_states[job.key] = make_state(plan, job.uid)
    reported: list[Key] = []
    assert await exchange(deps, job.key, reported.append) is not None
    assert reported == [job.key]
    return state.coordinator


class Starting(Trainer):
    """A coordinator whose process does not listen yet."""

    def is_open(self, _: str) -> bool:
        return False

    async def probe(self, _: Address) -> None:
        self.scrapes += 1
        raise UnreachableError("connection refused")


async def test_a_coordinator_that_does_not_listen_yet_is_retried_with_exponential_backoff() -> None:
    deps = deps_with(trainer := Starting(WIRE_VERSION))
    job = make_job()
    deps.cache.put_job(job)
    deps.cache.put_pod(coordinator_pod(job=job.key))
    state = deps.job_states[job.key] = make_state()
    pauses = [await exchange(deps, job.key, lambda _: None) for _ in range(4)]
    assert pauses == [FIRST_RETRY_SECONDS * n for n in (1, 1, 2, 4)]
    assert trainer.scrapes == 3, "not in the first attempt"
    deps.cache.pods.remove(ObjectKey("team", "digits-coordinator-1"))
    deps.cache.put_pod(coordinator_pod(2, job=job.key))
    assert await exchange(deps, job.key, lambda _: None) == FIRST_RETRY_SECONDS
    assert (trainer.scrapes, state.coordinator.failures) == (3, 0), (
        "the next one starts with the shortest backoff"
    )


async def test_a_peer_without_the_coordinators_certificate_is_retried_much_later() -> None:
    class Impostor(Starting):
        async def probe(self, _: Address) -> None:
            raise PeerIdentityError("another's certificate")

    deps = deps_with(Impostor(WIRE_VERSION))
    job = make_job()
    deps.cache.put_job(job)
    deps.cache.put_pod(coordinator_pod(job=job.key))
    deps.job_states[job.key] = make_state()
    await exchange(deps, job.key, lambda _: None)
    assert await exchange(deps, job.key, lambda _: None) == PEER_IDENTITY_RETRY_SECONDS


DISTRIBUTED = (make_job(), Plan(generation=1, workers=2))
FEDERATED = (
    make_federation(),
    FederatedPlan(generation=1, parties=(PartyConfig(name="ann"),), rounds=RoundsConfig()),
)
BOTH = pytest.mark.parametrize(
    ("job", "plan"), [DISTRIBUTED, FEDERATED], ids=["distributed", "federated"]
)


@BOTH
@pytest.mark.parametrize("wire", [0, WIRE_VERSION], ids=["unknown", "same"])
async def test_a_coordinator_of_the_same_or_an_unknown_wire_version_gets_the_plan(
    job: Job, plan: AnyPlan, wire: int
) -> None:
    trainer = Trainer(wire)
    link = await exchange_once(trainer, job, plan)
    assert (trainer.taken, trainer.scrapes) == ([plan], 1)
    assert link.acknowledged == ("coordinator-0-1", 1)


@BOTH
@pytest.mark.parametrize("wire", [WIRE_VERSION - 1 or -1, WIRE_VERSION + 1], ids=["old", "new"])
async def test_a_coordinator_that_could_misread_it_gets_no_plan_and_is_still_scraped(
    job: Job, plan: AnyPlan, wire: int
) -> None:
    trainer = Trainer(wire)
    link = await exchange_once(trainer, job, plan)
    assert trainer.taken == []
    assert link.acknowledged == ("", 0)
    assert link.report is not None
    assert link.report.wire == wire
