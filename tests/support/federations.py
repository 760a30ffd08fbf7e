"""FederatedJobs, their pods and their aggregators' reports, for pure tests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tests.support.jobs import KEY, NOW, UID, pod, raw_job
from trainyard.api.federation import AdmissionStatus
from trainyard.api.jobs import FederatedJob, parse_job
from trainyard.api.names import FEDERATED_JOB
from trainyard.api.pods import Pod
from trainyard.api.report import CoordinatorReport, FederationReport, PartyReport
from trainyard_trainer.contract.env import WIRE_VERSION, Role

FEDERATION = KEY._replace(kind=FEDERATED_JOB)
PARTIES = ("ann", "bob", "cid")


def raw_federation(
    spec: Mapping[str, Any] | None = None, status: Mapping[str, Any] | None = None, **meta: Any
) -> dict[str, Any]:
    """A job as the API server returns it."""
    parties = [{"name": name, "data": {"claimName": f"data-of-{name}"}} for name in PARTIES]
    raw = raw_job({"parties": parties, "rounds": {"minParties": 2}, **(spec or {})}, status, **meta)
    return {**raw, "kind": FEDERATED_JOB}


def make_federation(
    spec: Mapping[str, Any] | None = None, status: Mapping[str, Any] | None = None, **meta: Any
) -> FederatedJob:
    """A job of three parties, of which two are a quorum."""
    job = parse_job(raw_federation(spec, status, **meta))
    assert isinstance(job, FederatedJob)
    return job


def party(name: str, attempt: int = 1, **fields: Any) -> Pod:
    """A running party."""
    return pod(Role.PARTY, name, attempt, **{"job": FEDERATION, "owner_uid": UID, **fields})


def parties(*names: str) -> tuple[Pod, ...]:
    """Running parties; without names, all."""
    return tuple(party(name) for name in names or PARTIES)


def aggregator(term: int = 1, **fields: Any) -> Pod:
    """A running aggregator."""
    return pod(Role.COORDINATOR, 0, term, **{"job": FEDERATION, **fields})


def admission(*names: str, since: datetime = NOW, **fields: Any) -> AdmissionStatus:
    """The decision to admit these parties; without names, all."""
    values: dict[str, Any] = {
        "parties": list(names or PARTIES),
        "reason": "Admitted",
        "decision_time": since,
        **fields,
    }
    return AdmissionStatus(**values)


def reported(round_: int = 3, wire: int = WIRE_VERSION, **fields: Any) -> CoordinatorReport:
    """An aggregator's report, all parties idle."""
    idle = {name: PartyReport(state="Idle", rounds=round_, samples=100) for name in PARTIES}
    federation = FederationReport(round=round_, parties=idle)
    values: dict[str, Any] = {"at": NOW, "wire": wire, "term": 1, "federation": federation}
    return CoordinatorReport(**{**values, **fields})
