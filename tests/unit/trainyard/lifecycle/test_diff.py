"""From any existing pods to the desired ones, and no action too many."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.support.jobs import (
    NOW,
    TIMEOUTS,
    UID,
    ago,
    coordinator,
    ending,
    failing,
    job_pods,
    make_job,
    pod,
    worker,
    workers,
)
from trainyard.api.jobs import DistributedJob
from trainyard.api.pods import Pod
from trainyard.lifecycle.desired import DesiredPods
from trainyard.lifecycle.diff import TERM_WAIT, PodActions, PodToCreate, pod_actions
from trainyard.lifecycle.failures import MAX_FAILURES, is_failure
from trainyard.lifecycle.worker_failures import record_worker_failures
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import Result

NONE: frozenset[str] = frozenset()
TWO = DesiredPods(coordinator=True, members=range(2))


def actions(
    desired: DesiredPods, *pods: Pod, recorded: frozenset[str] = NONE, term: int = 1
) -> PodActions:
    return pod_actions(desired, job_pods(*pods), recorded, term, NOW)


def to_create(role: Role, index: int, attempt: int) -> PodToCreate:
    return PodToCreate(role=role, member=index, attempt=attempt)


@pytest.mark.parametrize(
    ("pods", "desired", "expected"),
    [
        pytest.param(
            (),
            TWO,
            [
                to_create(Role.COORDINATOR, 0, 2),
                to_create(Role.WORKER, 0, 1),
                to_create(Role.WORKER, 1, 1),
            ],
            id="no pods",
        ),
        pytest.param((coordinator(), *workers(2)), TWO, [], id="all pods"),
        pytest.param(
            (coordinator(), worker(0, 1, is_deleting=True), worker(1)),
            TWO,
            [to_create(Role.WORKER, 0, 2)],
            id="the name of a pod that is being deleted is taken",
        ),
        pytest.param(
            (coordinator(7, owner_uid="an earlier job"), *workers(2)),
            TWO,
            [to_create(Role.COORDINATOR, 0, 8)],
            id="the name of an earlier job's coordinator is taken",
        ),
        pytest.param(
            (coordinator(), worker(1)), TWO, [to_create(Role.WORKER, 0, 1)], id="a hole is filled"
        ),
    ],
)
def test_what_is_missing_is_created_under_a_new_name(
    pods: tuple[Pod, ...], desired: DesiredPods, expected: list[PodToCreate]
) -> None:
    assert list(actions(desired, *pods).create) == expected


@pytest.mark.parametrize(
    ("pods", "desired", "deleted"),
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
def test_what_is_not_desired_is_deleted(
    pods: tuple[Pod, ...], desired: DesiredPods, deleted: set[Pod]
) -> None:
    assert set(actions(desired, *pods).delete) == deleted


@pytest.mark.parametrize(
    ("finished", "recorded", "desired", "is_deleted"),
    [
        pytest.param(worker(5, **failing()), False, TWO, False, id="failure not recorded"),
        pytest.param(worker(5, **failing()), True, TWO, True, id="failure recorded"),
        pytest.param(worker(5, **ending(Result.LEFT)), False, TWO, True, id="left on request"),
        pytest.param(worker(5, phase="Succeeded"), False, TWO, False, id="ended without a message"),
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
            worker(5, is_deleting=True, **failing()), True, TWO, False, id="being deleted already"
        ),
        pytest.param(
            worker(5, lingers=True, **failing()),
            False,
            replace(TWO, keeps_finished=True),
            False,
            id="lingers, and its end is not recorded yet",
        ),
        pytest.param(
            worker(5, lingers=True, **failing()),
            False,
            DesiredPods(keeps_finished=True, ends_lingering=True),
            True,
            id="lingers in a job that is over",
        ),
        pytest.param(
            worker(0, lingers=True, **ending(Result.COMPLETE)),
            False,
            DesiredPods(keeps_finished=True, ends_lingering=True),
            True,
            id="lingers after a success",
        ),
        pytest.param(
            worker(0, **ending(Result.COMPLETE)),
            False,
            DesiredPods(keeps_finished=True, ends_lingering=True),
            False,
            id="has ended with all of its containers",
        ),
    ],
)
def test_a_finished_pod_is_deleted_when(
    finished: Pod, recorded: bool, desired: DesiredPods, is_deleted: bool
) -> None:
    uids = frozenset({finished.uid}) if recorded else NONE
    found = actions(desired, coordinator(), *workers(2), finished, recorded=uids)
    assert (finished in found.delete) is is_deleted


def test_nothing_is_created_while_a_failures_pause_lasts() -> None:
    until = NOW + timedelta(seconds=4)
    desired = replace(TWO, replace_at=until)
    found = actions(desired, coordinator(), worker(0, **failing()), worker(1))
    assert (found.create, found.requeue_at) == ((), until)
    # Once the failed pod is deleted, nothing distinguishes its replacement from a first attempt.
    assert actions(desired, coordinator(), worker(1)).create == ()
    assert actions(replace(desired, replace_at=NOW), coordinator(), worker(1)).create != ()


def test_a_pause_without_anything_to_create_causes_no_requeue() -> None:
    desired = replace(TWO, replace_at=NOW + timedelta(seconds=4))
    assert actions(desired, coordinator(), *workers(2)).requeue_at is None


def test_a_new_coordinators_term_is_above_any_ever_used() -> None:
    found = actions(DesiredPods(coordinator=True), coordinator(3, is_deleting=True), term=9)
    assert found.create == (to_create(Role.COORDINATOR, 0, 10),)


def test_a_coordinator_is_deleted_only_when_the_status_has_its_term() -> None:
    """Otherwise its successor would reuse the term after a crash between the two."""
    current = coordinator(2)
    early = actions(DesiredPods(), current, worker(), term=1)
    assert (set(early.delete), early.requeue_at) == ({worker()}, NOW + TERM_WAIT)
    assert actions(DesiredPods(), current, worker(), term=2).delete == (worker(), current)


# --- Convergence from any observed state ---


@dataclass
class World:
    """The pods of one namespace, and the status of their job."""

    pods: list[Pod]
    job: DistributedJob
    now: datetime = NOW
    stuck: frozenset[str] = NONE
    """Names of pods on lost nodes: their deletion never ends."""
    terms: list[int] = field(default_factory=list)
    made: int = 0

    def reconcile(self, desired: DesiredPods) -> PodActions:
        """Observe and act once, as a reconcile does."""
        pods = job_pods(*self.pods)
        found = pod_actions(
            desired,
            pods,
            frozenset(f.pod_uid for f in self.job.status.failures),
            self.job.status.term,
            self.now,
        )
        record = record_worker_failures(self.job, pods, TIMEOUTS, self.now)
        for pod_to_delete in found.delete:
            self.delete(pod_to_delete)
        for pod_to_create in found.create:
            self.create(pod_to_create)
        status = msgspec.structs.replace(
            self.job.status,
            failures=record.failures,
            restarts=record.restarts,
            term=max(self.job.status.term, job_pods(*self.pods).term),
        )
        self.job = replace(self.job, status=status)
        self.now += timedelta(seconds=1)
        return found

    def is_settled(self, desired: DesiredPods) -> bool:
        """Whether a reconcile does and records nothing: what it records may be deleted next."""
        status = self.job.status
        return self.reconcile(desired) == PodActions() and self.job.status == status

    def create(self, missing: PodToCreate) -> None:
        name = pod(missing.role, missing.member, missing.attempt).name
        assert name not in {p.name for p in self.pods}, "a name that exists"
        if missing.role is Role.COORDINATOR:
            assert all(missing.attempt > term for term in self.terms), "a term that fences nobody"
            self.terms.append(missing.attempt)
        self.made += 1
        self.pods.append(
            pod(
                missing.role,
                missing.member,
                missing.attempt,
                uid=f"made-{self.made}",
                phase="Pending",
                created_at=self.now,
            )
        )

    def delete(self, undesired: Pod) -> None:
        assert undesired.owner_uid == UID, "a pod of somebody else"
        if is_failure(undesired) and undesired.is_finished:
            assert undesired.uid in {f.pod_uid for f in self.job.status.failures}, (
                "a failure that is not recorded"
            )
        if undesired.role == Role.COORDINATOR:
            assert undesired.attempt <= self.job.status.term, "a term that the status does not have"
        self.pods.remove(undesired)
        if undesired.name in self.stuck:
            self.pods.append(replace(undesired, is_deleting=True))

    def live(self) -> Counter[tuple[str, int]]:
        """How many live pods each member of the job has."""
        own = [p for p in self.pods if p.owner_uid == UID and p.is_live]
        return Counter((p.role, p.index) for p in own)


POD_STATES = (
    {"phase": "Running"},
    {"phase": "Pending"},
    failing(),
    failing(137, is_disrupted=True),
    failing(75),
    ending(Result.LEFT),
    {"phase": "Succeeded", "termination_message": "not a message of ours"},
)
MEMBERS = st.one_of(
    st.tuples(st.just(Role.COORDINATOR), st.just(0)),
    st.tuples(st.just(Role.WORKER), st.integers(0, 5)),
)
PODS = st.builds(
    lambda member, attempt, fields, is_deleting, is_own: pod(
        member[0],
        member[1],
        attempt,
        is_deleting=is_deleting,
        owner_uid=UID if is_own else "an earlier job of this name",
        created_at=ago(minutes=5),
        **fields,
    ),
    MEMBERS,
    st.integers(1, 4),
    st.sampled_from(POD_STATES),
    st.booleans(),
    st.integers(0, 3).map(bool),
)
EXISTING_PODS = st.lists(PODS, max_size=30, unique_by=lambda p: p.name)
DESIRED_PODS = st.builds(
    DesiredPods,
    coordinator=st.booleans(),
    members=st.integers(0, 6).map(range),
    replace_at=st.sampled_from((None, NOW, NOW + timedelta(seconds=3))),
    keeps_live=st.booleans(),
    keeps_finished=st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(
    pods=EXISTING_PODS,
    desired=DESIRED_PODS,
    term=st.integers(0, 5),
    lost=st.sets(st.integers(0, 29)),
)
def test_converges_from_any_observed_state(
    pods: list[Pod], desired: DesiredPods, term: int, lost: set[int]
) -> None:
    stuck = frozenset(p.name for number, p in enumerate(pods) if number in lost)
    terms = [term, *(p.attempt for p in pods if p.role == Role.COORDINATOR)]
    world = World(pods=list(pods), job=make_job(status={"term": term}), stuck=stuck, terms=terms)
    reconciles = 0
    while not world.is_settled(desired) or world.now <= NOW + timedelta(seconds=4):
        reconciles += 1
        assert reconciles < 12, "it does not settle"
    event(f"{reconciles} reconciles")
    live, members = world.live(), {(str(Role.WORKER), i) for i in desired.members}
    if desired.coordinator:
        members.add((str(Role.COORDINATOR), 0))
    assert set(live.values()) <= {1}, "two pods of one member"
    assert members <= set(live)
    assert desired.keeps_live or set(live) == members
    recorded = {f.pod_uid for f in world.job.status.failures}
    if not desired.keeps_finished:
        left = [p for p in world.pods if p.owner_uid == UID and p.is_finished and not p.is_deleting]
        # Failures whose pods stay on lost nodes leave no space for more until those are gone.
        kept = recorded & {p.uid for p in world.pods}
        assert not left or len(kept) == MAX_FAILURES, "a finished pod is left behind"
    else:
        # Of those that are kept, failures are recorded up to the maximum, each once.
        assert len(recorded) == len(world.job.status.failures)
    assert world.job.status.restarts <= 1, "one cause, counted twice"
