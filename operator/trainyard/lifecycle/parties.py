"""The status of a federation's parties and of its rounds."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from trainyard.api.federation import (
    AdmissionStatus,
    FederatedTrainingStatus,
    PartyFailure,
    PartySpec,
    PartyStatus,
)
from trainyard.api.jobs import FederatedJob, whole_seconds
from trainyard.api.pods import Pod
from trainyard.api.podset import JobPods
from trainyard.api.report import CoordinatorReport, FederationReport, PartyReport
from trainyard.api.status import MAX_COUNT
from trainyard_trainer.contract.federated import PartyState
from trainyard_trainer.contract.text import printable

MAX_STATE = 32
"""Characters of a reported state, as the schema allows; any image may report one."""
_CONNECTED: Final = frozenset(PartyState) - {PartyState.ABSENT}


class PartyPodState(StrEnum):
    """States of a party that the aggregator does not see; the others are `contract.PartyState`."""

    AWAITS_ENROLMENT = "AwaitsEnrolment"
    """External, and still without a certificate."""
    WAITING = "Waiting"
    """It is not admitted."""
    STARTING = "Starting"
    STOPPED = "Stopped"
    """It has no pod, as the job is suspended or has ended."""
    LEFT_OUT = "LeftOut"
    """It has failed too often, and has no pod until it is tried again."""


def party_statuses(
    job: FederatedJob,
    pods: JobPods,
    admission: AdmissionStatus,
    report: CoordinatorReport | None,
    failures: Mapping[str, PartyFailure],
) -> list[PartyStatus]:
    """Each party of the spec, by name; figures that are not reported now stay as they were."""
    before = {party.name: party for party in job.status.parties}
    reports = report.federation.parties if report and report.federation else {}
    admitted = frozenset(admission.parties)
    return [
        _party_status(
            party,
            pods.members.get(party.name),
            party.name in admitted,
            reports.get(party.name),
            before.get(party.name),
            failures.get(party.name),
        )
        for party in sorted(job.spec.parties, key=lambda party: party.name)
    ]


def _party_status(
    party: PartySpec,
    pod: Pod | None,
    is_admitted: bool,
    report: PartyReport | None,
    old: PartyStatus | None,
    failure: PartyFailure | None,
) -> PartyStatus:
    status = old or PartyStatus(name=party.name, state="")
    if report is not None:
        status = _with_report(status, report)
    failure = failure and _unless_over(failure, pod, report)
    state = _state(party, pod, is_admitted, report.state if report else "")
    is_left_out = failure is not None and failure.left_out > 0 and pod is None
    return msgspec.structs.replace(
        status,
        state=PartyPodState.LEFT_OUT if is_left_out else state,
        pod_name=pod.name if pod else "",
        failure=failure,
    )


def _unless_over(
    failure: PartyFailure, pod: Pod | None, report: PartyReport | None
) -> PartyFailure | None:
    """The failure until the party contributes to one more round than it had when it failed."""
    if report is None:
        return failure
    if report.rounds < failure.rounds:  # a restarted aggregator counts from zero
        return msgspec.structs.replace(failure, rounds=report.rounds)
    is_over = report.rounds > failure.rounds and pod is not None and pod.is_running
    return None if is_over else failure


def _state(party: PartySpec, pod: Pod | None, is_admitted: bool, reported: str) -> str:
    if party.external:
        return reported if reported in _CONNECTED else PartyPodState.AWAITS_ENROLMENT
    if pod is None:
        return PartyPodState.STARTING if is_admitted else PartyPodState.WAITING
    if not pod.is_running:
        return PartyPodState.STARTING
    return printable(reported)[:MAX_STATE] or PartyState.ABSENT


def without_pods(parties: list[PartyStatus]) -> list[PartyStatus]:
    """The parties of a job that is suspended or has ended."""
    return [
        party
        if party.pod_name or party.state == PartyPodState.AWAITS_ENROLMENT
        else msgspec.structs.replace(party, state=PartyPodState.STOPPED)
        for party in parties
    ]


def _with_report(status: PartyStatus, report: PartyReport) -> PartyStatus:
    """Newer figures; a restarted aggregator counts from zero, which lowers no counter."""
    refused = min(sum(report.refused.values()), MAX_COUNT)
    return msgspec.structs.replace(
        status,
        rounds=max(status.rounds, report.rounds),
        samples=report.samples or status.samples,
        seconds=status.seconds if report.seconds is None else round(report.seconds, 3),
        refused=max(status.refused, refused),
        last_refusal=_last_refusal(status, report, refused),
    )


def _last_refusal(status: PartyStatus, report: PartyReport, refused: int) -> str:
    """The most frequent reason, as the counters do not show which came last."""
    if refused <= status.refused or not report.refused:
        return status.last_refusal
    return printable(max(sorted(report.refused), key=lambda reason: report.refused[reason]))


def rounds_of(report: CoordinatorReport, federation: FederationReport) -> FederatedTrainingStatus:
    """The aggregator's report as the status has it."""
    connected = sum(party.state in _CONNECTED for party in federation.parties.values())
    seconds = federation.round_seconds
    return FederatedTrainingStatus(
        term=report.term,
        round=federation.round,
        rounds_lost=federation.rounds_lost,
        best_round=federation.best_round,
        round_seconds=None if seconds is None else round(seconds, 3),
        parties=connected,
        samples=report.samples,
        loss=None if report.loss is None else round(report.loss, 6),
        evaluation={printable(k): round(v, 6) for k, v in sorted(report.evaluation.items())},
        report_time=whole_seconds(report.at),
    )
