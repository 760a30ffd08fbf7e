"""The rounds and the parties in a federation's status."""

from __future__ import annotations

from dataclasses import replace

import msgspec
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
from tests.support.jobs import NOW, ending, has_run, observe
from trainyard.api.federation import AdmissionStatus, FederatedJobStatus, PartyStatus
from trainyard.api.jobs import FederatedJob
from trainyard.api.pods import Pod
from trainyard.api.report import CoordinatorReport, PartyReport
from trainyard.lifecycle.stages import evaluate
from trainyard.lifecycle.status import StatusInputs, is_urgent, status_of
from trainyard.render.events import events_for
from trainyard_trainer.contract.exits import Result


def status(
    job: FederatedJob,
    *pods: Pod,
    report: CoordinatorReport | None = None,
    assignment: AdmissionStatus | None = None,
) -> FederatedJobStatus:
    observed = observe(job, *pods, assignment=assignment or admission(), report=report)
    inputs = StatusInputs(
        desired=evaluate(observed),
        pods=observed.pods,
        assignment=observed.assignment,
        report=report,
        term=observed.pods.term,
        plan_generation=1,
        now=NOW,
    )
    made = status_of(job, inputs)
    assert isinstance(made, FederatedJobStatus)
    return made


def reported_parties(**by_name: PartyReport) -> CoordinatorReport:
    report = reported()
    assert report.federation is not None
    return replace(report, federation=replace(report.federation, parties=by_name))


def states(found: FederatedJobStatus) -> dict[str, str]:
    return {party.name: party.state for party in found.parties}


def test_a_partys_state_is_its_pods_and_then_the_aggregators() -> None:
    outside = [{"name": n} for n in PARTIES] + [
        {"name": "dan"},
        {"name": "eve"},
        {"name": "zoe", "external": True},
    ]
    job = make_federation({"parties": outside})
    pods = (aggregator(), *parties("ann", "bob"), party("cid", phase="Pending"))
    report = reported_parties(ann=PartyReport(state="Training"))
    found = status(job, *pods, report=report, assignment=admission("ann", "bob", "cid", "dan"))
    assert states(found) == {
        "ann": "Training",
        "bob": "Absent",
        "cid": "Starting",
        "dan": "Starting",
        "eve": "Waiting",
        "zoe": "AwaitsEnrolment",
    }
    assert [p.pod_name for p in found.parties][:2] == ["digits-party-ann-1", "digits-party-bob-1"]


def test_parties_of_a_suspended_job_are_stopped() -> None:
    job = make_federation({"suspend": True})
    assert set(states(status(job)).values()) == {"Stopped"}


def test_an_earlier_aggregators_report_does_not_count() -> None:
    pods = (aggregator(2), *parties())
    assert set(states(status(make_federation(), *pods, report=reported())).values()) == {"Absent"}


def test_figures_stay_when_nobody_reports_them() -> None:
    old = [{"name": "ann", "state": "Idle", "rounds": 5, "samples": 90, "refused": 2}]
    job = make_federation(status={**has_run(), "parties": old})
    [ann, *_] = status(job, aggregator(), *parties()).parties
    assert (ann.rounds, ann.samples, ann.refused) == (5, 90, 2)


def test_a_restarted_aggregator_lowers_no_counter() -> None:
    old = [{"name": "ann", "state": "Idle", "rounds": 5, "refused": 2, "lastRefusal": "NotFinite"}]
    job = make_federation(status={**has_run(), "parties": old})
    report = reported_parties(ann=PartyReport(state="Idle", rounds=1, refused={"ShapeMismatch": 1}))
    [ann, *_] = status(job, aggregator(), *parties(), report=report).parties
    assert (ann.rounds, ann.refused, ann.last_refusal) == (5, 2, "NotFinite")


def test_refusals_of_all_reasons_together_stay_within_the_schema() -> None:
    report = reported_parties(ann=PartyReport(state="Idle", refused=dict.fromkeys("abc", 2**62)))
    [ann, *_] = status(make_federation(), aggregator(), *parties(), report=report).parties
    assert ann.refused == 2**63 - 1


def test_the_rounds_are_those_of_the_report() -> None:
    report = replace(reported(7, samples=2100, loss=0.123456789), evaluation={"eval/accuracy": 0.9})
    training = status(make_federation(), aggregator(), *parties(), report=report).training
    assert training is not None
    assert (training.round, training.samples, training.parties) == (7, 2100, 3)
    assert (training.loss, training.evaluation) == (0.123457, {"eval/accuracy": 0.9})


def test_rounds_and_parties_alone_are_not_urgent() -> None:
    job = make_federation()
    before = status(job, aggregator(), *parties(), report=reported(3))
    assert not is_urgent(before, status(job, aggregator(), *parties(), report=reported(4)))
    assert is_urgent(before, status(job, aggregator(), *parties("ann"), report=reported(4)))


def refusals(before: list[PartyStatus], after: list[PartyStatus]) -> list[str]:
    old, new = (FederatedJobStatus(parties=p) for p in (before, after))
    return [event.message for event in events_for(old, new) if event.reason == "UpdateRefused"]


def test_a_refused_update_gets_one_event_with_party_and_reason() -> None:
    report = reported_parties(ann=PartyReport(state="Refused", refused={"NotFinite": 1}))
    found = status(make_federation(), aggregator(), *parties(), report=report)
    assert refusals([], found.parties) == [
        "The aggregator refused an update of party ann (NotFinite), 1 in all; the round goes on "
        "without it."
    ]
    assert refusals(found.parties, found.parties) == []


def test_the_status_is_read_back_as_it_was_written() -> None:
    """It is all that the operator remembers of the job."""
    first = status(make_federation(), aggregator(), *parties(), report=reported())
    again = msgspec.convert(msgspec.to_builtins(first), FederatedJobStatus)
    assert again == first
    assert again.admission is not None
    assert again.admission.assigned == PARTIES


@pytest.mark.parametrize(("written", "kept"), [(2**63, 2**63 - 1), (2**80, 2**63 - 1), (-1, 0)])
def test_counts_of_a_termination_message_stay_within_the_schema(written: int, kept: int) -> None:
    end = aggregator(**ending(Result.COMPLETE, step=written, samples=written))
    training = status(make_federation(status=has_run()), end).training
    assert training is not None
    assert (training.round, training.samples) == (kept, kept)
