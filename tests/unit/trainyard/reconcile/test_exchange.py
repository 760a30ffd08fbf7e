"""Whose Plan is taken: a coordinator may know of a later operator, or only say so."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi
from tests.support.federations import make_federation
from tests.support.jobs import KEY, NOW, make_job
from tests.support.jobs import coordinator as coordinator_pod
from trainyard.api.jobs import Job
from trainyard.api.names import Key
from trainyard.api.report import CoordinatorReport
from trainyard.api.status import ScalingStatus
from trainyard.cluster.coordinator import (
    Address,
    PeerIdentityError,
    StalePlanError,
    UnreachableError,
)
from trainyard.cluster.lease import LeadershipLost
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.exchange import (
    FIRST_RETRY_SECONDS,
    PEER_IDENTITY_RETRY_SECONDS,
    _send,
    exchange,
)
from trainyard.reconcile.state import JobState
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


class Office:
    """This process' part in an election that is over: it holds the Lease, or believes it does."""

    def __init__(self, fencing_token: int, *, is_held: bool) -> None:
        self.fencing_token, self.is_held, self.is_leader = fencing_token, is_held, True

    async def confirm(self) -> None:
        if not self.is_held:
            raise LeadershipLost("it is another's")


async def send(coordinator: Coordinator, office: Office | None) -> JobState:
    services = dependencies_of(FakeApi(), coordinators=coordinator, election=office)
    plan = Plan(generation=1, workers=2)
    state = JobState(uid="uid-of-digits", scaling=ScalingStatus(), plan=plan)
    address = Address(key=KEY, pod=coordinator_pod(), server_name="digits-coordinator")
    await _send(services, state, address, None, plan)
    return state


async def test_a_plan_carries_the_senders_term_of_office() -> None:
    coordinator = Coordinator(generation=0, fencing_token=2)
    await send(coordinator, Office(3, is_held=True))
    assert [(p.generation, p.fencing_token) for p in coordinator.taken] == [(1, 3)]


async def test_an_earlier_operator_went_further_than_its_last_status_says() -> None:
    coordinator = Coordinator(generation=7, fencing_token=2)
    state = await send(coordinator, Office(3, is_held=True))
    assert [(p.generation, p.fencing_token) for p in coordinator.taken] == [(8, 3)]
    assert state.plan_generation == 8


async def test_a_later_operator_ends_this_one() -> None:
    coordinator = Coordinator(generation=7, fencing_token=4)
    with pytest.raises(LeadershipLost):
        await send(coordinator, Office(3, is_held=False))
    assert coordinator.taken == []


@pytest.mark.parametrize("office", [Office(3, is_held=True), None], ids=["elected", "alone"])
async def test_a_coordinator_alone_ends_nobody(office: Office | None) -> None:
    """It lies, or somebody deleted the Lease: it gets the term that it insists on."""
    coordinator = Coordinator(generation=7, fencing_token=9)
    state = await send(coordinator, office)
    assert [(p.generation, p.fencing_token) for p in coordinator.taken] == [(8, 9)]
    assert state.fencing_token == 9


class Trainer(Coordinator):
    """A coordinator whose image speaks this wire version."""

    def __init__(self, wire: int) -> None:
        super().__init__(generation=0, fencing_token=0)
        self.wire, self.readings = wire, 0

    def is_open(self, _: str) -> bool:
        return True

    async def scrape(self, *_: Any) -> CoordinatorReport:
        self.readings += 1
        return CoordinatorReport(at=NOW, wire=self.wire, term=1)


def services_with(trainer: Trainer) -> Dependencies:
    return dependencies_of(FakeApi(), coordinators=trainer)


async def talk(trainer: Trainer, job: Job, plan: AnyPlan) -> JobState:
    """One contact with a coordinator that this process has not met before."""
    services = services_with(trainer)
    services.cache.put_job(job)
    services.cache.put_pod(coordinator_pod(job=job.key))
    state = services.states.jobs[job.key] = JobState(
        uid=job.uid, scaling=ScalingStatus(), plan=plan
    )
    told: list[Key] = []
    assert await exchange(services, job.key, told.append) is not None
    assert told == [job.key]
    return state


class Starting(Trainer):
    """A coordinator whose process does not listen yet."""

    def is_open(self, _: str) -> bool:
        return False

    async def probe(self, _: Address) -> None:
        self.readings += 1
        raise UnreachableError("connection refused")


async def test_a_new_coordinator_is_given_a_moment_then_asked_less_and_less_often() -> None:
    services = services_with(trainer := Starting(WIRE_VERSION))
    job = make_job()
    services.cache.put_job(job)
    services.cache.put_pod(coordinator_pod(job=job.key))
    state = services.states.jobs[job.key] = JobState(uid=job.uid, scaling=ScalingStatus())
    pauses = [await exchange(services, job.key, lambda _: None) for _ in range(4)]
    assert pauses == [FIRST_RETRY_SECONDS * n for n in (1, 1, 2, 4)]
    assert trainer.readings == 3, "not at first sight"
    services.cache.drop_pod(("team", "digits-coordinator-1"))
    services.cache.put_pod(coordinator_pod(2, job=job.key))
    assert await exchange(services, job.key, lambda _: None) == FIRST_RETRY_SECONDS
    assert (trainer.readings, state.exchange_failures) == (3, 0), "the next one starts afresh"


async def test_a_stranger_is_asked_much_less_often() -> None:
    class Stranger(Starting):
        async def probe(self, _: Address) -> None:
            raise PeerIdentityError("another's certificate")

    services = services_with(Stranger(WIRE_VERSION))
    job = make_job()
    services.cache.put_job(job)
    services.cache.put_pod(coordinator_pod(job=job.key))
    services.states.jobs[job.key] = JobState(uid=job.uid, scaling=ScalingStatus())
    await exchange(services, job.key, lambda _: None)
    assert await exchange(services, job.key, lambda _: None) == PEER_IDENTITY_RETRY_SECONDS


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
async def test_who_understands_it_gets_the_plan(job: Job, plan: AnyPlan, wire: int) -> None:
    trainer = Trainer(wire)
    state = await talk(trainer, job, plan)
    assert (trainer.taken, trainer.readings) == ([plan], 1)
    assert state.acknowledged == ("coordinator-0-1", 1)


@BOTH
@pytest.mark.parametrize("wire", [WIRE_VERSION - 1 or -1, WIRE_VERSION + 1], ids=["old", "new"])
async def test_who_could_misread_it_gets_no_plan_and_is_read_on(
    job: Job, plan: AnyPlan, wire: int
) -> None:
    trainer = Trainer(wire)
    state = await talk(trainer, job, plan)
    assert trainer.taken == []
    assert state.acknowledged == ("", 0)
    assert state.report is not None
    assert state.report.wire == wire
