"""The parties of a federation as the status tells them, and its rounds so far.

It stands apart from `reporting` because nothing of it concerns a DistributedJob.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from trainyard.api.federation import (
    AdmissionStatus,
    FederatedTrainingStatus,
    PartySpec,
    PartyStatus,
)
from trainyard.api.jobs import FederatedJob, whole_seconds
from trainyard.api.pods import Pod
from trainyard.api.podset import JobPods
from trainyard.api.report import CoordinatorReport, FederationReport, PartyReport
from trainyard_trainer.contract.federated import PartyState

_HERE: Final = frozenset(PartyState) - {PartyState.ABSENT}
_NOTHING: Final = PartyReport()


class Standing(StrEnum):
    """What a party does that the aggregator does not see; the rest is `contract.PartyState`."""

    AWAITS_ENROLMENT = "AwaitsEnrolment"
    """External, and without a certificate yet."""
    WAITING = "Waiting"
    """It has no room in the cluster."""
    STARTING = "Starting"
    STOPPED = "Stopped"
    """It has no pod, as the job stands still or is over."""


def party_statuses(
    job: FederatedJob, roster: JobPods, held: AdmissionStatus, report: CoordinatorReport | None
) -> list[PartyStatus]:
    """Each party of the spec, by name; figures that nobody reports now stay as they were."""
    before = {party.name: party for party in job.status.parties}
    told = report.federation.parties if report and report.federation else {}
    room = frozenset(held.parties)
    return [
        _party_status(
            party,
            roster.members.get(party.name),
            party.name in room,
            told,
            before.get(party.name),
        )
        for party in sorted(job.spec.parties, key=lambda party: party.name)
    ]


def _party_status(
    party: PartySpec,
    pod: Pod | None,
    has_room: bool,
    told: Mapping[str, PartyReport],
    old: PartyStatus | None,
) -> PartyStatus:
    said = told.get(party.name)
    status = old or PartyStatus(name=party.name, state="")
    if said is not None:
        status = _with_figures(status, said)
    return msgspec.structs.replace(
        status,
        state=_state(party, pod, has_room, said or _NOTHING),
        pod=pod.name if pod else "",
    )


def _state(party: PartySpec, pod: Pod | None, has_room: bool, said: PartyReport) -> str:
    if party.external:
        return said.state if said.state in _HERE else Standing.AWAITS_ENROLMENT
    if pod is None:
        return Standing.STARTING if has_room else Standing.WAITING
    if not pod.is_running:
        return Standing.STARTING
    return said.state or PartyState.ABSENT


def stopped(parties: list[PartyStatus]) -> list[PartyStatus]:
    """The parties of a job that stands still or is over."""
    return [
        party
        if party.pod or party.state == Standing.AWAITS_ENROLMENT
        else msgspec.structs.replace(party, state=Standing.STOPPED)
        for party in parties
    ]


def _with_figures(status: PartyStatus, said: PartyReport) -> PartyStatus:
    """Newer figures; a counter that a restarted aggregator began anew never takes any back."""
    refused = sum(said.refused.values())
    return msgspec.structs.replace(
        status,
        rounds=max(status.rounds, said.rounds),
        samples=said.samples or status.samples,
        seconds=status.seconds if said.seconds is None else round(said.seconds, 3),
        refused=max(status.refused, refused),
        last_refusal=_last_refusal(status, said, refused),
    )


def _last_refusal(status: PartyStatus, said: PartyReport, refused: int) -> str:
    """The most frequent reason of late: counters do not say which came last."""
    if refused <= status.refused or not said.refused:
        return status.last_refusal
    return max(sorted(said.refused), key=lambda reason: said.refused[reason])


def rounds_of(report: CoordinatorReport, federation: FederationReport) -> FederatedTrainingStatus:
    """The aggregator's report, as the status tells it."""
    here = sum(party.state in _HERE for party in federation.parties.values())
    seconds = federation.round_seconds
    return FederatedTrainingStatus(
        term=report.term,
        round=federation.round,
        rounds_lost=federation.rounds_lost,
        best_round=federation.best_round,
        round_seconds=None if seconds is None else round(seconds, 3),
        parties=here,
        samples=report.samples,
        loss=None if report.loss is None else round(report.loss, 6),
        evaluation={k: round(v, 6) for k, v in sorted(report.evaluation.items())},
        at=whole_seconds(report.at),
    )
