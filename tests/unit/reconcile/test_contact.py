"""Whose Plan is taken: a coordinator may know of a later operator, or only say so."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tests.support.fakeapi import FakeApi
from tests.support.jobs import KEY, NOW
from tests.support.jobs import coordinator as coordinator_pod
from trainyard.api.status import ScalingStatus
from trainyard.cluster.authorities import Authorities
from trainyard.cluster.coordinator import Address, Coordinators, StalePlanError
from trainyard.cluster.lease import Election, LeadershipLost
from trainyard.cluster.mirror import Mirror
from trainyard.reconcile.contact import _send
from trainyard.reconcile.services import Options, Services
from trainyard.reconcile.state import JobState
from trainyard_trainer.contract import Plan


class Coordinator:
    """Takes Plans as the real one does: none older than what it has."""

    def __init__(self, generation: int, leadership: int) -> None:
        self.generation, self.leadership = generation, leadership
        self.taken: list[Plan] = []

    async def put_plan(self, _: Address, __: Any, plan: Plan) -> None:
        if plan.leadership < self.leadership or plan.generation < self.generation:
            raise StalePlanError(self.generation, self.leadership)
        self.taken.append(plan)


class Office:
    """This process' part in an election that is over: it holds the Lease, or believes it does."""

    def __init__(self, leadership: int, *, is_held: bool) -> None:
        self.leadership, self.is_held, self.is_leader = leadership, is_held, True

    async def confirm(self) -> None:
        if not self.is_held:
            raise LeadershipLost("it is another's")


async def send(coordinator: Coordinator, office: Office | None) -> JobState:
    client = FakeApi().client
    services = Services(
        client=client,
        mirror=Mirror(),
        authorities=Authorities(client, "trainyard-system"),
        coordinators=cast(Coordinators, coordinator),
        clock=lambda: NOW,
        options=Options(),
        election=cast(Election | None, office),
    )
    plan = Plan(generation=1, workers=2)
    state = JobState(uid="uid-of-digits", scaling=ScalingStatus(), plan=plan)
    address = Address(key=KEY, pod=coordinator_pod(), server_name="digits-coordinator")
    await _send(services, state, address, None, plan)
    return state


async def test_a_plan_carries_the_senders_term_of_office() -> None:
    coordinator = Coordinator(generation=0, leadership=2)
    await send(coordinator, Office(3, is_held=True))
    assert [(p.generation, p.leadership) for p in coordinator.taken] == [(1, 3)]


async def test_an_earlier_operator_went_further_than_its_last_status_says() -> None:
    coordinator = Coordinator(generation=7, leadership=2)
    state = await send(coordinator, Office(3, is_held=True))
    assert [(p.generation, p.leadership) for p in coordinator.taken] == [(8, 3)]
    assert state.plan_generation == 8


async def test_a_later_operator_ends_this_one() -> None:
    coordinator = Coordinator(generation=7, leadership=4)
    with pytest.raises(LeadershipLost):
        await send(coordinator, Office(3, is_held=False))
    assert coordinator.taken == []


@pytest.mark.parametrize("office", [Office(3, is_held=True), None], ids=["elected", "alone"])
async def test_a_coordinator_alone_ends_nobody(office: Office | None) -> None:
    """It lies, or somebody deleted the Lease: it gets the term that it insists on."""
    coordinator = Coordinator(generation=7, leadership=9)
    state = await send(coordinator, office)
    assert [(p.generation, p.leadership) for p in coordinator.taken] == [(8, 9)]
    assert state.leadership == 9
