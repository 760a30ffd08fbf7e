"""One party's failures are its own: the others train on, and it is left out by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.federations import (
    PARTIES,
    admission,
    aggregator,
    make_federation,
    parties,
    party,
    reported,
)
from tests.support.jobs import (
    NOW,
    TIMEOUTS,
    condition_of,
    conditions_of,
    ending,
    failing,
    has_run,
    job_pods,
    observe,
)
from trainyard.api.federation import FederatedJobStatus, PartyFailure
from trainyard.api.jobs import FederatedJob
from trainyard.api.pods import Pod
from trainyard.api.report import CoordinatorReport, PartyReport
from trainyard.lifecycle.desired import DesiredState, Phase
from trainyard.lifecycle.diff import PodActions, pod_actions
from trainyard.lifecycle.failures import MAX_FAILURES
from trainyard.lifecycle.recorded import recorded_uids
from trainyard.lifecycle.stages import evaluate
from trainyard.lifecycle.status import StatusInputs, is_urgent, status_of
from trainyard.render.events import EventSpec, events_for
from trainyard_trainer.contract.exits import Exit, Result, TerminationMessage

MAX_RESTARTS = 3
SPEC: dict[str, Any] = {"failure": {"maxRestarts": MAX_RESTARTS}}
INVALID = failing(exit_code=Exit.TASK_INVALID)


@dataclass
class Federation:
    """A job whose statuses follow from what is observed, one reconcile after the other."""

    job: FederatedJob
    now: datetime = NOW
    report: CoordinatorReport | None = None
    events: list[EventSpec] = field(default_factory=list)

    def reconcile(self, *pods: Pod) -> DesiredState:
        """Evaluate the job with these pods and take over the status that follows."""
        found = observe(self.job, *pods, assignment=admission(), report=self.report, now=self.now)
        desired = evaluate(found)
        status = status_of(
            self.job,
            StatusInputs(
                desired=desired,
                pods=found.pods,
                assignment=found.assignment,
                report=self.report,
                term=found.pods.term,
                plan_generation=1,
                now=self.now,
            ),
        )
        assert isinstance(status, FederatedJobStatus)
        self.events += events_for(self.job.status, status)
        self.job = replace(self.job, status=status)
        return desired

    def fail(self, name: str, times: int, **how: Any) -> DesiredState:
        """Have a party fail so many times, each time when its pause is over."""
        desired = self.reconcile(aggregator(), *parties())
        for _ in range(times):
            attempt = self.attempts(name) + 1
            pod = party(name, attempt, uid=f"{name}-{attempt}", created_at=self.now, **how)
            self.now += timedelta(seconds=30)
            others = parties(*(other for other in PARTIES if other != name))
            desired = self.reconcile(aggregator(), *others, replace(pod, ended_at=self.now))
            self.now = max(self.now, self.failure(name).retry_time or self.now)
        return desired

    def attempts(self, name: str) -> int:
        failure = self._failures().get(name)
        return int(failure.pod_name.rpartition("-")[2]) if failure else 0

    def failure(self, name: str) -> PartyFailure:
        return self._failures()[name]

    def _failures(self) -> dict[str, PartyFailure]:
        return {p.name: p.failure for p in self.job.status.parties if p.failure}

    def states(self) -> dict[str, str]:
        return {party.name: party.state for party in self.job.status.parties}

    def named(self, reason: str) -> list[str]:
        return [event.message for event in self.events if event.reason == reason]


def federation(spec: dict[str, Any] | None = None, **status: Any) -> Federation:
    return Federation(make_federation({**SPEC, **(spec or {})}, {**has_run(), **status}))


def actions(found: Federation, desired: DesiredState, *pods: Pod) -> PodActions:
    grouped = job_pods(*pods)
    recorded = recorded_uids(found.job.status, grouped)
    return pod_actions(desired.pods, grouped, recorded, 1, found.now)


def created(found: PodActions) -> list[Any]:
    return [pod.member for pod in found.create]


# --- A party that fails ---


def test_a_party_without_a_device_is_named_with_the_reason() -> None:
    error = "this pod requests a GPU, and PyTorch finds none: Found no NVIDIA driver."
    message = TerminationMessage(result=Result.FAILED, error=error).encode()
    found = federation()
    desired = found.reconcile(
        aggregator(), *parties("ann", "cid"), party("bob", **failing(Exit.NO_DEVICE, message))
    )
    assert conditions_of(desired)["Degraded"] == ("True", "NoDevice")
    assert condition_of(desired, "Degraded").message.endswith(error)


@pytest.mark.parametrize(
    ("how", "times"),
    [
        pytest.param(INVALID, 1, id="its data are refused"),
        pytest.param(failing(), MAX_RESTARTS + 1, id="it crashes again and again"),
        pytest.param(failing(exit_code=137, reason="OOMKilled"), 4, id="out of memory"),
    ],
)
def test_a_party_that_keeps_failing_is_left_out_and_rounds_go_on(
    how: dict[str, Any], times: int
) -> None:
    found = federation()
    desired = found.fail("bob", times, **how)
    assert desired.phase is Phase.RUNNING
    assert found.states()["bob"] == "LeftOut"
    assert conditions_of(desired)["Running"] == ("True", "PartiesRunning")
    assert conditions_of(desired)["Degraded"] == ("True", "PartiesMissing")
    message = condition_of(desired, "Degraded").message
    assert message.startswith(
        "1 party is missing: bob; rounds continue with the others. "
        "Left out after their failures: bob. party bob (pod digits-party-bob-"
    )
    [event] = found.named("PartyLeftOut")
    assert event.startswith("Party bob is left out and tried again at ")


def test_a_party_within_its_budget_is_not_left_out() -> None:
    found = federation()
    found.fail("bob", MAX_RESTARTS, **failing())
    assert (found.failure("bob").count, found.failure("bob").left_out) == (MAX_RESTARTS, 0)
    assert found.named("PartyLeftOut") == []


def test_the_budgets_of_parties_are_not_added_up() -> None:
    found = federation()
    for name in PARTIES:
        found.fail(name, MAX_RESTARTS, **failing())
    assert found.job.status.restarts == 3 * MAX_RESTARTS
    assert found.job.status.coordinator_restarts == 0
    assert [found.failure(name).count for name in PARTIES] == [MAX_RESTARTS] * 3
    assert found.job.status.phase == Phase.RUNNING


def test_a_party_that_is_left_out_is_tried_again_ever_later_with_one_event() -> None:
    found = federation()
    pauses = []
    for _ in range(5):
        found.fail("bob", 1, **INVALID)
        failure = found.failure("bob")
        assert failure.retry_time is not None
        pauses.append(failure.retry_time - failure.failure_time)
    assert pauses == [timedelta(minutes=minutes) for minutes in (10, 20, 40, 60, 60)]
    assert len(found.named("PartyLeftOut")) == 1


def test_a_party_is_named_as_left_out_while_it_is_tried_again() -> None:
    found = federation()
    found.fail("bob", 1, **INVALID)
    desired = found.reconcile(aggregator(), *parties())
    assert conditions_of(desired)["Degraded"] == ("True", "PartiesMissing")
    assert "Left out after their failures: bob." in condition_of(desired, "Degraded").message


def test_a_round_contributed_to_ends_a_failure() -> None:
    found = federation(parties=[{"name": "bob", "state": "Idle", "rounds": 4}])
    found.fail("bob", 1, **INVALID)
    assert found.failure("bob").rounds == 4
    found.report = bob_contributed(4)
    found.reconcile(aggregator(), *parties())
    assert found.failure("bob").left_out == 1
    found.report = bob_contributed(5)
    found.reconcile(aggregator(), *parties())
    assert all(party.failure is None for party in found.job.status.parties)
    assert conditions_of(found.reconcile(aggregator(), *parties()))["Degraded"] == (
        "False",
        "Healthy",
    )


def test_a_round_contributed_to_ends_a_failure_after_the_aggregators_restart_too() -> None:
    found = federation(parties=[{"name": "bob", "state": "Idle", "rounds": 40}])
    found.fail("bob", 1, **failing())
    for rounds, is_over in ((0, False), (0, False), (1, True)):
        found.report = bob_contributed(rounds)
        found.reconcile(aggregator(), *parties())
        assert all(party.failure is None for party in found.job.status.parties) is is_over


def test_a_round_that_was_contributed_to_before_ends_no_failure_of_a_party_without_a_pod() -> None:
    found = federation(parties=[{"name": "bob", "state": "Idle", "rounds": 4}])
    found.fail("bob", 1, **INVALID)
    found.report = bob_contributed(5)
    found.reconcile(aggregator(), *parties("ann", "cid"))
    assert found.states()["bob"] == "LeftOut"


def bob_contributed(rounds: int) -> CoordinatorReport:
    report = reported(rounds)
    assert report.federation is not None
    bob = {"bob": PartyReport(state="Idle", rounds=rounds)}
    return replace(report, federation=replace(report.federation, parties=bob))


def test_a_changed_spec_gives_a_new_budget_at_once() -> None:
    found = federation()
    found.fail("bob", 1, **INVALID)
    found.now = NOW + timedelta(minutes=1)
    found.job = replace(found.job, generation=found.job.generation + 1)
    pods = (aggregator(), *parties("ann", "cid"), party("bob", uid="bob-1", **INVALID))
    desired = found.reconcile(*pods)
    assert (found.failure("bob").count, found.failure("bob").left_out) == (0, 0)
    assert created(actions(found, desired, *pods)) == ["bob"]
    found.fail("bob", 1, **failing())
    assert found.failure("bob").count == 1


# --- Pauses ---


def test_the_pause_of_one_party_holds_up_no_other() -> None:
    found = federation()
    found.fail("bob", 1, **INVALID)
    found.now = NOW + timedelta(minutes=2)
    gone = party("cid", uid="cid-gone", **failing(exit_code=None, is_disrupted=True))
    pods = (aggregator(), *parties("ann"), party("bob", uid="bob-1", **INVALID), gone)
    desired = found.reconcile(*pods)
    planned = actions(found, desired, *pods)
    assert created(planned) == ["cid"]
    assert planned.requeue_at == found.failure("bob").retry_time


def test_a_party_of_another_release_pauses_alone_and_is_not_counted() -> None:
    found = federation()
    desired = found.fail("bob", 1, **failing(exit_code=Exit.WIRE_MISMATCH))
    failure = found.failure("bob")
    assert (failure.count, found.job.status.restarts) == (0, 0)
    assert failure.retry_time == failure.failure_time + TIMEOUTS.retry_cap
    assert desired.pods.replace_at is None
    assert conditions_of(desired)["Degraded"] == ("True", "PartiesMissing")


def test_a_party_that_is_evicted_again_and_again_backs_off_without_being_counted() -> None:
    found = federation()
    pauses = []
    for _ in range(4):
        found.fail("bob", 1, **failing(exit_code=None, reason="Evicted", is_disrupted=True))
        failure = found.failure("bob")
        pauses.append((failure.retry_time or failure.failure_time) - failure.failure_time)
    assert [pause.total_seconds() for pause in pauses] == [0, 1, 2, 4]
    assert (found.failure("bob").count, found.job.status.restarts) == (0, 0)


def test_parties_that_follow_the_aggregator_into_its_failure_are_not_counted() -> None:
    found = federation()
    found.reconcile(aggregator(), *parties())
    lost = [party(name, uid=f"lost-{name}", **failing()) for name in PARTIES]
    desired = found.reconcile(aggregator(uid="lost", **failing()), *lost)
    assert [found.failure(name).count for name in PARTIES] == [0, 0, 0]
    assert (desired.restarts, desired.coordinator_restarts) == (1, 1)
    assert desired.pods.replace_at == NOW + timedelta(seconds=1)


# --- The end of the job ---


def test_the_job_fails_once_fewer_parties_are_left_than_a_round_needs() -> None:
    found = federation()
    found.fail("bob", 1, **INVALID)
    bob = party("bob", uid="bob-1", **INVALID)
    desired = found.reconcile(
        aggregator(), *parties("ann"), bob, party("cid", uid="cid-1", **INVALID)
    )
    assert (desired.phase, conditions_of(desired)["Failed"]) == (
        Phase.FAILED,
        ("True", "TaskInvalid"),
    )
    assert condition_of(desired, "Failed").message.startswith(
        "Left out after their failures: bob, cid; those that remain are fewer than "
        "spec.rounds.minParties=2. Last: party cid (pod"
    )


def test_the_aggregators_invalid_task_fails_the_job() -> None:
    found = federation()
    desired = found.reconcile(aggregator(**INVALID), *parties())
    assert conditions_of(desired)["Failed"] == ("True", "TaskInvalid")


def test_the_aggregators_failures_fail_the_job_whatever_the_parties_did() -> None:
    found = federation()
    for name in PARTIES:
        found.fail(name, MAX_RESTARTS, **failing())
    desired = found.reconcile(aggregator(), *parties())
    for term in range(1, MAX_RESTARTS + 2):
        assert desired.phase is not Phase.FAILED
        found.now += timedelta(minutes=6)
        failed = aggregator(
            term, uid=f"agg-{term}", **{**failing(), "created_at": found.now, "ended_at": found.now}
        )
        desired = found.reconcile(failed, *parties())
    assert conditions_of(desired)["Failed"] == ("True", "TooManyRestarts")
    assert "maxRestarts=3" in condition_of(desired, "Failed").message


# --- Pods that stay ---


def test_every_one_of_many_failing_parties_is_counted_once() -> None:
    names = [f"p{n:02}" for n in range(MAX_FAILURES + 5)]
    spec = {"parties": [{"name": name} for name in names], "rounds": {"minParties": 1}}
    found = federation(spec, admission={"parties": names})
    pods = [party(name, uid=name, **INVALID) for name in names[1:]]
    for _ in range(3):
        found.reconcile(aggregator(), party(names[0]), *pods)
        assert found.job.status.restarts == 1
    assert [found.failure(name).left_out for name in names[1:]] == [1] * len(pods)
    assert len(found.job.status.failures) == MAX_FAILURES
    assert recorded_uids(found.job.status, job_pods(*pods)) >= {pod.uid for pod in pods}


def test_the_pods_of_parties_that_are_left_out_leave_room_for_the_aggregators_failure() -> None:
    names = [f"p{n:02}" for n in range(MAX_FAILURES + 5)]
    spec = {"parties": [{"name": name} for name in names], "rounds": {"minParties": 1}}
    found = federation(spec, admission={"parties": names})
    pods = [party(name, uid=name, **INVALID) for name in names[1:]]
    found.reconcile(aggregator(), party(names[0]), *pods)
    desired = found.reconcile(aggregator(uid="lost", **failing()), party(names[0]), *pods)
    assert (desired.coordinator_restarts, desired.failures[-1].pod_uid) == (1, "lost")


def test_an_earlier_pod_of_a_party_is_not_counted_after_its_successor() -> None:
    found = federation()
    earlier, later = (party("bob", n, uid=f"bob-{n}", **failing()) for n in (1, 2))
    found.reconcile(aggregator(), *parties("ann", "cid"), later)
    status = found.job.status
    found.reconcile(aggregator(), *parties("ann", "cid"), earlier, later)
    assert found.failure("bob").count == 1
    assert found.job.status.restarts == status.restarts
    assert "bob-1" in recorded_uids(status, job_pods(earlier, later))


def test_a_partys_failure_is_written_at_once() -> None:
    found = federation()
    found.reconcile(aggregator(), *parties())
    before = found.job.status
    found.fail("bob", 1, **failing())
    assert is_urgent(before, found.job.status)


# --- The end of a training, as one party alone reports it ---

DONE = {**ending(Result.COMPLETE), "ended_at": NOW}
CLAIM = {"state": {"claimName": "heart-state"}}


@pytest.mark.parametrize("spec", [{}, CLAIM], ids=["without a claim", "with a claim"])
def test_one_partys_end_completes_nothing_and_stops_no_replacement(spec: dict[str, Any]) -> None:
    found = federation(spec)
    found.now = NOW + timedelta(seconds=1)
    lost = party("cid", uid="cid-1", **failing(is_disrupted=True))
    pods = (aggregator(), party("ann", uid="ann-1", **DONE), *parties("bob"), lost)
    desired = found.reconcile(*pods)
    assert desired.phase is Phase.RUNNING
    assert created(actions(found, desired, *pods)) == ["cid"]


def test_one_partys_end_does_not_complete_a_job_whose_aggregator_is_away() -> None:
    found = federation()
    desired = found.reconcile(party("ann", uid="ann-1", **DONE), *parties("bob", "cid"))
    assert desired.phase is not Phase.COMPLETE
    assert desired.termination_message is None


def test_a_party_that_alone_reports_the_end_is_replaced_after_a_while_and_counted() -> None:
    found = federation()
    pods = (aggregator(), party("ann", uid="ann-1", **DONE), *parties("bob", "cid"))
    desired = found.reconcile(*pods)
    planned = actions(found, desired, *pods)
    assert (created(planned), planned.requeue_at) == ([], NOW + TIMEOUTS.finish_grace)
    assert conditions_of(desired)["Degraded"][0] == "False"
    found.now = NOW + TIMEOUTS.finish_grace
    desired = found.reconcile(*pods)
    assert (found.failure("ann").count, found.failure("ann").reason) == (1, "EndedEarly")
    found.now += timedelta(seconds=1)
    desired = found.reconcile(*pods)
    assert created(actions(found, desired, *pods)) == ["ann"]
    assert found.failure("ann").count == 1


def test_a_party_that_ends_early_again_and_again_is_left_out() -> None:
    found = federation()
    for attempt in range(1, MAX_RESTARTS + 2):
        ended_at = found.now
        found.now += timedelta(minutes=10)
        done = {**DONE, "ended_at": ended_at, "created_at": ended_at}
        found.reconcile(
            aggregator(),
            party("ann", attempt, uid=f"ann-{attempt}", **done),
            *parties("bob", "cid"),
        )
    assert found.states()["ann"] == "LeftOut"
    assert len(found.named("PartyLeftOut")) == 1


def test_parties_end_one_after_the_other_once_the_aggregator_reports_the_end() -> None:
    found = federation(CLAIM)
    found.now = NOW + timedelta(hours=1)
    found.report = reported(9, outcome="Complete")
    pods = (aggregator(), party("ann", uid="ann-1", **DONE), *parties("bob", "cid"))
    desired = found.reconcile(*pods)
    assert created(actions(found, desired, *pods)) == []
    assert [p.failure for p in found.job.status.parties] == [None] * 3


def test_parties_that_are_left_out_have_no_say_in_the_end() -> None:
    found = federation(CLAIM)
    found.fail("bob", 1, **INVALID)
    done = [party(name, uid=f"{name}-9", **DONE) for name in ("ann", "cid")]
    desired = found.reconcile(aggregator(), *done)
    assert desired.pods.keeps_finished
