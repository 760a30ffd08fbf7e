"""Exchanges with coordinators: which Plans they get, and when they are asked again."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta
from typing import Any

import pytest

from tests.support.dependencies import dependencies_of, make_state
from tests.support.fakeapi import FakeApi
from tests.support.federations import make_federation
from tests.support.jobs import KEY, NOW, condition, make_job
from tests.support.jobs import coordinator as coordinator_pod
from trainyard.api.jobs import Job
from trainyard.api.names import Key
from trainyard.api.report import CoordinatorReport
from trainyard.cluster.coordinator import (
    Address,
    PeerIdentityError,
    PlanRefusedError,
    StalePlanError,
    UnreachableError,
)
from trainyard.cluster.lease import LeadershipLost
from trainyard.cluster.store import ObjectKey
from trainyard.reconcile.dependencies import MAX_SCRAPES_PER_SECOND, Dependencies
from trainyard.reconcile.exchange import (
    FIRST_RETRY_SECONDS,
    PAUSE_PER_SCRAPE,
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

    connected = 1

    def __init__(self, wire: int) -> None:
        super().__init__(generation=0, fencing_token=0)
        self.wire, self.scrapes = wire, 0
        self.forgotten: list[Key] = []

    async def forget_job(self, key: Key) -> None:
        self.forgotten.append(key)

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


class Shy(Trainer):
    """A coordinator that refuses Plans, and whose metrics can be read all the same."""

    def __init__(self, error: Exception) -> None:
        super().__init__(WIRE_VERSION)
        self.error: Exception | None = error
        self.log: list[str] = []

    async def scrape(self, *given: Any) -> CoordinatorReport:
        self.log.append("read")
        return await super().scrape(*given)

    async def put_plan(self, address: Address, tls: Any, plan: AnyPlan) -> None:
        self.log.append("send")
        if self.error is not None:
            raise self.error
        await super().put_plan(address, tls, plan)


def with_coordinator(trainer: Trainer, job: Job, plan: AnyPlan | None = None) -> Dependencies:
    """The dependencies with a job whose coordinator runs."""
    deps = deps_with(trainer)
    deps.cache.put_job(job)
    deps.cache.put_pod(coordinator_pod(job=job.key))
    deps.job_states[job.key] = make_state(plan, job.uid)
    return deps


@BOTH
async def test_a_refused_plan_does_not_stop_the_reading_of_metrics(job: Job, plan: AnyPlan) -> None:
    """It did: it was sent again before each reading."""
    shy = Shy(PlanRefusedError("plan.workers: expected int"))
    deps = with_coordinator(shy, job, plan)
    link = deps.job_states[job.key].coordinator
    reported: list[Key] = []
    for _ in range(3):
        assert await exchange(deps, job.key, reported.append) is not None
    assert shy.log == ["read", "send"] * 3
    assert (link.contact.refusal, link.failures) == ("plan.workers: expected int", 0)
    assert reported == [job.key] * 3
    shy.error = None
    await exchange(deps, job.key, reported.append)
    assert (link.contact.refusal, shy.taken) == ("", [plan])


@BOTH
async def test_a_coordinator_that_always_follows_a_later_plan_is_one_that_refuses(
    job: Job, plan: AnyPlan
) -> None:
    """It was an error of the operator's, and no report was announced."""
    deps = with_coordinator(Shy(StalePlanError(7)), job, plan)
    reported: list[Key] = []
    assert await exchange(deps, job.key, reported.append) is not None
    assert "already follows Plan 7" in deps.job_states[job.key].coordinator.contact.refusal
    assert reported == [job.key]


async def test_a_report_counts_though_the_plan_did_not_arrive() -> None:
    deps = with_coordinator(Shy(UnreachableError("cut")), *DISTRIBUTED)
    reported: list[Key] = []
    assert await exchange(deps, KEY, reported.append) == FIRST_RETRY_SECONDS
    contact = deps.job_states[KEY].coordinator.contact
    assert (contact.has_answered, contact.failing_since) == (True, None)
    assert reported == [KEY]


@pytest.mark.parametrize("answers", [True, False])
async def test_a_slow_coordinator_waits_for_itself(
    answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    clock = itertools.count(loop.time(), 2.0)  # each look at it is two seconds later
    trainer: Trainer = Trainer(WIRE_VERSION)
    if not answers:
        monkeypatch.setattr(trainer, "scrape", unreachable)
    deps = with_coordinator(trainer, make_job())
    monkeypatch.setattr(loop, "time", lambda: next(clock))
    pause = await exchange(deps, KEY, lambda _: None)
    monkeypatch.undo()
    assert pause is not None
    assert pause >= 0.9 * 2.0 * PAUSE_PER_SCRAPE


async def unreachable(*_: Any) -> CoordinatorReport:
    raise UnreachableError("no answer")


async def test_the_interval_stretches_with_the_number_of_coordinators() -> None:
    trainer = Trainer(WIRE_VERSION)
    deps = with_coordinator(trainer, make_job())
    assert deps.scrape_interval == deps.options.scrape_interval
    trainer.connected = 2000
    assert deps.scrape_interval == timedelta(seconds=2000 / MAX_SCRAPES_PER_SECOND)
    pause = await exchange(deps, KEY, lambda _: None)
    assert pause is not None
    assert pause > 0.8 * deps.scrape_interval.total_seconds()


async def test_a_silent_coordinator_is_reported_once_it_is_overdue() -> None:
    now = [NOW]
    deps = dependencies_of(FakeApi(), coordinators=Starting(WIRE_VERSION), clock=lambda: now[0])
    deps.cache.put_job(job := make_job())
    deps.cache.put_pod(coordinator_pod(job=job.key))
    deps.job_states[job.key] = make_state()
    overdue: list[Key] = []
    grace = deps.options.timeouts.unreachable_grace
    for seconds in (0, 1, 2):
        now[0] = NOW + timedelta(seconds=seconds)
        await exchange(deps, job.key, lambda _: None, overdue.append)
    assert overdue == []
    now[0] = NOW + grace
    await exchange(deps, job.key, lambda _: None, overdue.append)
    assert overdue == [job.key]
    assert deps.job_states[job.key].coordinator.contact.failing_since == NOW


@pytest.mark.parametrize("is_finished", [True, False])
async def test_a_job_without_a_running_coordinator_keeps_no_connection(is_finished: bool) -> None:
    trainer = Trainer(WIRE_VERSION)
    status = {"conditions": [condition("Complete")]} if is_finished else {}
    deps = with_coordinator(trainer, make_job(status=status))
    if not is_finished:
        deps.cache.pods.remove(ObjectKey("team", "digits-coordinator-1"))
    assert await exchange(deps, KEY, lambda _: None) is None
    assert trainer.forgotten == [KEY]
