"""Planning: from any pods that may be there to those that are wanted, and no step too many."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.support.jobs import (
    LIMITS,
    NOW,
    UID,
    ago,
    coordinator,
    ending,
    failing,
    make_job,
    pod,
    roster_of,
    worker,
    workers,
)
from trainyard.api.jobs import DistributedJob
from trainyard.api.pods import Pod
from trainyard.lifecycle.desired import DesiredPods
from trainyard.lifecycle.diff import TERM_PAUSE, PodActions, PodToCreate, pod_actions
from trainyard.lifecycle.failures import MAX_FAILURES, is_failure, record_failures
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import Result

NONE: frozenset[str] = frozenset()
TWO = DesiredPods(coordinator=True, workers=2)


def steps(
    wish: DesiredPods, *pods: Pod, recorded: frozenset[str] = NONE, term: int = 1
) -> PodActions:
    return pod_actions(wish, roster_of(*pods), recorded, term, NOW)


def slot(role: Role, index: int, attempt: int) -> PodToCreate:
    return PodToCreate(role=role, member=index, attempt=attempt)


@pytest.mark.parametrize(
    ("pods", "wish", "expected"),
    [
        pytest.param(
            (),
            TWO,
            [slot(Role.COORDINATOR, 0, 2), slot(Role.WORKER, 0, 1), slot(Role.WORKER, 1, 1)],
            id="nothing there",
        ),
        pytest.param((coordinator(), *workers(2)), TWO, [], id="all there"),
        pytest.param(
            (coordinator(), worker(0, 1, is_deleting=True), worker(1)),
            TWO,
            [slot(Role.WORKER, 0, 2)],
            id="a leaving pod still has its name",
        ),
        pytest.param(
            (coordinator(7, owner_uid="an earlier job"), *workers(2)),
            TWO,
            [slot(Role.COORDINATOR, 0, 8)],
            id="a namesake's coordinator still has its name",
        ),
        pytest.param(
            (coordinator(), worker(1)), TWO, [slot(Role.WORKER, 0, 1)], id="a hole is filled"
        ),
    ],
)
def test_what_is_missing_is_created_under_a_new_name(
    pods: tuple[Pod, ...], wish: DesiredPods, expected: list[PodToCreate]
) -> None:
    assert list(steps(wish, *pods).create) == expected


@pytest.mark.parametrize(
    ("pods", "wish", "gone"),
    [
        pytest.param(
            (coordinator(), *workers(4)), TWO, {worker(2), worker(3)}, id="highest indices first"
        ),
        pytest.param(
            (coordinator(), *workers(2), worker(0, 2)), TWO, {worker(0)}, id="earlier attempt"
        ),
        pytest.param(
            (coordinator(), *workers(1)), DesiredPods(), {coordinator(), worker(0)}, id="all"
        ),
        pytest.param(
            (coordinator(), worker()), DesiredPods(keeps_live=True), set(), id="left to end"
        ),
        pytest.param(
            (coordinator(), worker(0), worker(0, 2)),
            DesiredPods(keeps_live=True),
            {worker(0)},
            id="surplus is never kept",
        ),
    ],
)
def test_what_is_not_wanted_is_deleted(
    pods: tuple[Pod, ...], wish: DesiredPods, gone: set[Pod]
) -> None:
    assert set(steps(wish, *pods).delete) == gone


@pytest.mark.parametrize(
    ("ended", "recorded", "wish", "goes"),
    [
        pytest.param(worker(5, **failing()), False, TWO, False, id="failure not recorded"),
        pytest.param(worker(5, **failing()), True, TWO, True, id="failure recorded"),
        pytest.param(worker(5, **ending(Result.LEFT)), False, TWO, True, id="left on request"),
        pytest.param(worker(5, phase="Succeeded"), False, TWO, False, id="ended without a word"),
        pytest.param(
            worker(5, **failing()),
            True,
            replace(TWO, keeps_finished=True),
            False,
            id="kept for its log",
        ),
        pytest.param(
            coordinator(0, **failing()),
            True,
            replace(TWO, keeps_finished=True),
            True,
            id="a coordinator that was replaced, though logs are kept",
        ),
        pytest.param(
            coordinator(0, **failing()),
            False,
            replace(TWO, keeps_finished=True),
            False,
            id="not before its failure is recorded",
        ),
        pytest.param(
            worker(5, is_deleting=True, **failing()), True, TWO, False, id="on its way already"
        ),
    ],
)
def test_a_finished_pod_is_removed_when(
    ended: Pod, recorded: bool, wish: DesiredPods, goes: bool
) -> None:
    known = frozenset({ended.uid}) if recorded else NONE
    found = steps(wish, coordinator(), *workers(2), ended, recorded=known)
    assert (ended in found.delete) is goes


def test_nothing_is_created_while_a_failures_pause_lasts() -> None:
    until = NOW + timedelta(seconds=4)
    wish = replace(TWO, replace_at=until)
    found = steps(wish, coordinator(), worker(0, **failing()), worker(1))
    assert (found.create, found.requeue_at) == ((), until)
    # Once the failed pod is removed, nothing tells its replacement from a first attempt.
    assert steps(wish, coordinator(), worker(1)).create == ()
    assert steps(replace(wish, replace_at=NOW), coordinator(), worker(1)).create != ()


def test_a_pause_without_anything_to_create_needs_no_second_look() -> None:
    wish = replace(TWO, replace_at=NOW + timedelta(seconds=4))
    assert steps(wish, coordinator(), *workers(2)).requeue_at is None


def test_a_new_coordinators_term_is_above_any_ever_used() -> None:
    found = steps(DesiredPods(coordinator=True), coordinator(3, is_deleting=True), term=9)
    assert found.create == (slot(Role.COORDINATOR, 0, 10),)


def test_a_coordinator_goes_only_when_the_status_has_its_term() -> None:
    """Else its successor, after a crash between the two, would begin the same term again."""
    ours = coordinator(2)
    early = steps(DesiredPods(), ours, worker(), term=1)
    assert (set(early.delete), early.requeue_at) == ({worker()}, NOW + TERM_PAUSE)
    assert steps(DesiredPods(), ours, worker(), term=2).delete == (worker(), ours)


# --- Convergence from any observed state ---


@dataclass
class World:
    """The pods of one namespace, and the status of the job whose they are."""

    pods: list[Pod]
    job: DistributedJob
    now: datetime = NOW
    stuck: frozenset[str] = NONE
    """Names of pods on lost nodes: they stay, leaving, for ever."""
    terms: list[int] = field(default_factory=list)
    made: int = 0

    def turn(self, wish: DesiredPods) -> PodActions:
        """One look at the world as a reconcile does it, and its steps carried out."""
        roster = roster_of(*self.pods)
        found = pod_actions(
            wish,
            roster,
            frozenset(f.uid for f in self.job.status.failures),
            self.job.status.term,
            self.now,
        )
        record = record_failures(self.job, roster, LIMITS, self.now)
        for unwanted in found.delete:
            self.delete(unwanted)
        for wanted in found.create:
            self.create(wanted)
        status = msgspec.structs.replace(
            self.job.status,
            failures=record.failures,
            restarts=record.restarts,
            term=max(self.job.status.term, roster_of(*self.pods).term),
        )
        self.job = replace(self.job, status=status)
        self.now += timedelta(seconds=1)
        return found

    def is_settled(self, wish: DesiredPods) -> bool:
        """Whether a look asks for nothing and counts nothing: what it counts may go by the next."""
        status = self.job.status
        return self.turn(wish) == PodActions() and self.job.status == status

    def create(self, wanted: PodToCreate) -> None:
        name = pod(wanted.role, wanted.member, wanted.attempt).name
        assert name not in {p.name for p in self.pods}, "a name that exists"
        if wanted.role is Role.COORDINATOR:
            assert all(wanted.attempt > term for term in self.terms), "a term that fences nobody"
            self.terms.append(wanted.attempt)
        self.made += 1
        self.pods.append(
            pod(
                wanted.role,
                wanted.member,
                wanted.attempt,
                uid=f"made-{self.made}",
                phase="Pending",
                created_at=self.now,
            )
        )

    def delete(self, unwanted: Pod) -> None:
        assert unwanted.owner_uid == UID, "a pod of somebody else"
        if is_failure(unwanted) and unwanted.is_finished:
            assert unwanted.uid in {f.uid for f in self.job.status.failures}, "an uncounted failure"
        if unwanted.role == Role.COORDINATOR:
            assert unwanted.attempt <= self.job.status.term, "a term that nobody remembers"
        self.pods.remove(unwanted)
        if unwanted.name in self.stuck:
            self.pods.append(replace(unwanted, is_deleting=True))

    def live(self) -> Counter[tuple[str, int]]:
        """How many live pods of the job hold each place."""
        mine = [p for p in self.pods if p.owner_uid == UID and p.is_live]
        return Counter((p.role, p.index) for p in mine)


ENDS = (
    {"phase": "Running"},
    {"phase": "Pending"},
    failing(),
    failing(137, is_disrupted=True),
    failing(75),
    ending(Result.LEFT),
    {"phase": "Succeeded", "termination_message": "no words of ours"},
)
PLACES = st.one_of(
    st.tuples(st.just(Role.COORDINATOR), st.just(0)),
    st.tuples(st.just(Role.WORKER), st.integers(0, 5)),
)
PODS = st.builds(
    lambda place, attempt, fields, is_deleting, is_ours: pod(
        place[0],
        place[1],
        attempt,
        is_deleting=is_deleting,
        owner_uid=UID if is_ours else "an earlier job of this name",
        created_at=ago(minutes=5),
        **fields,
    ),
    PLACES,
    st.integers(1, 4),
    st.sampled_from(ENDS),
    st.booleans(),
    st.integers(0, 3).map(bool),
)
ROSTERS = st.lists(PODS, max_size=30, unique_by=lambda p: p.name)
WISHES = st.builds(
    DesiredPods,
    coordinator=st.booleans(),
    workers=st.integers(0, 6),
    replace_at=st.sampled_from((None, NOW, NOW + timedelta(seconds=3))),
    keeps_live=st.booleans(),
    keeps_finished=st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(pods=ROSTERS, wish=WISHES, term=st.integers(0, 5), lost=st.sets(st.integers(0, 29)))
def test_converges_from_any_observed_state(
    pods: list[Pod], wish: DesiredPods, term: int, lost: set[int]
) -> None:
    stuck = frozenset(p.name for place, p in enumerate(pods) if place in lost)
    terms = [term, *(p.attempt for p in pods if p.role == Role.COORDINATOR)]
    world = World(pods=list(pods), job=make_job(status={"term": term}), stuck=stuck, terms=terms)
    turns = 0
    while not world.is_settled(wish) or world.now <= NOW + timedelta(seconds=4):
        turns += 1
        assert turns < 12, "it does not settle"
    event(f"{turns} turns")
    live, wanted = world.live(), {(str(Role.WORKER), i) for i in range(wish.workers)}
    if wish.coordinator:
        wanted.add((str(Role.COORDINATOR), 0))
    assert set(live.values()) <= {1}, "two pods of one place"
    assert wanted <= set(live)
    assert wish.keeps_live or set(live) == wanted
    counted = {f.uid for f in world.job.status.failures}
    if not wish.keeps_finished:
        left = [p for p in world.pods if p.owner_uid == UID and p.is_finished and not p.is_deleting]
        # Failures whose pods lost nodes hold on to keep the room for more until those are gone.
        held = counted & {p.uid for p in world.pods}
        assert not left or len(held) == MAX_FAILURES, "a finished pod is left lying"
    else:
        # Those that are kept are counted as far as they are remembered; none is told twice.
        assert len(counted) == len(world.job.status.failures)
    assert world.job.status.restarts <= 1, "one crew, and so one failure, counted twice"
