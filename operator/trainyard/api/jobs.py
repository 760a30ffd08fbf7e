"""Jobs of both kinds as the operator keeps them: decoded once per event, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import msgspec

from trainyard.api.conditions import ConditionType, is_true
from trainyard.api.durations import parse_duration
from trainyard.api.federation import AdmissionStatus, FederatedJobSpec, FederatedJobStatus
from trainyard.api.names import DISTRIBUTED_JOB, FEDERATED_JOB, MANAGED_BY, Key
from trainyard.api.spec import DistributedJobSpec, JobSpec
from trainyard.api.status import DistributedJobStatus, JobStatus, ScalingStatus
from trainyard_trainer.contract.env import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resource:
    """What jobs of every kind have; the class variables say how the kinds differ."""

    member_role: ClassVar[Role]
    """The role of the pods that train."""
    state_role: ClassVar[Role]
    """The role of the pods that hold the training state."""
    can_rescale: ClassVar[bool]
    """Whether the number of members changes while they train."""

    key: Key
    uid: str
    resource_version: int
    generation: int
    created_at: datetime
    is_deleting: bool
    spec: JobSpec
    status: JobStatus

    @property
    def is_ours(self) -> bool:
        """Whether `managedBy` leaves this job to this operator."""
        return self.spec.managed_by in ("", MANAGED_BY)

    @property
    def is_finished(self) -> bool:
        """Whether the job has ended, well or badly."""
        conditions = self.status.conditions
        return is_true(conditions, ConditionType.COMPLETE) or is_true(
            conditions, ConditionType.FAILED
        )

    @property
    def is_durable(self) -> bool:
        """Whether the job's state outlives its coordinator's pod."""
        return bool(self.spec.state.claim_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedJob(_Resource):
    """One model trained on many workers at once."""

    member_role: ClassVar[Role] = Role.WORKER
    state_role: ClassVar[Role] = Role.WORKER
    can_rescale: ClassVar[bool] = True
    party_names: ClassVar[frozenset[str]] = frozenset()
    round_deadline: ClassVar[timedelta] = timedelta()

    spec: DistributedJobSpec
    status: DistributedJobStatus

    @property
    def quorum(self) -> int:
        """How many workers must run for the job to train."""
        return self.spec.workers.min

    @property
    def assignment(self) -> ScalingStatus:
        """What the status says was decided; nothing before the first decision."""
        return self.status.scaling or ScalingStatus()


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedJob(_Resource):
    """One model trained over several parties whose data never leaves them."""

    member_role: ClassVar[Role] = Role.PARTY
    state_role: ClassVar[Role] = Role.COORDINATOR
    can_rescale: ClassVar[bool] = False

    spec: FederatedJobSpec
    status: FederatedJobStatus

    @property
    def party_names(self) -> frozenset[str]:
        """The parties of this cluster."""
        return frozenset(party.name for party in self.spec.local_parties)

    @property
    def round_deadline(self) -> timedelta:
        """How long a round may take."""
        return parse_duration(self.spec.rounds.deadline)

    @property
    def quorum(self) -> int:
        """How many parties must run for the job to train."""
        return self.spec.rounds.min_parties

    @property
    def assignment(self) -> AdmissionStatus:
        """What the status says was decided; nothing before the first decision."""
        return self.status.admission or AdmissionStatus()


Job = DistributedJob | FederatedJob
Status = DistributedJobStatus | FederatedJobStatus
Assignment = ScalingStatus | AdmissionStatus
"""What the scheduler decided: how many workers a job has, or which of its parties."""


class UnreadableJobError(Exception):
    """A stored job does not match its CRD, for example after a downgrade."""


def parse_job(raw: Mapping[str, Any]) -> Job:
    """Decode an API object of either kind; raises UnreadableJobError that names the field."""
    meta = raw["metadata"]
    key = Key(raw.get("kind", DISTRIBUTED_JOB), meta["namespace"], meta["name"])
    values: dict[str, Any] = {
        "key": key,
        "uid": meta["uid"],
        "resource_version": int(meta["resourceVersion"]),
        "generation": meta.get("generation", 1),
        "created_at": parse_time(meta["creationTimestamp"]),
        "is_deleting": "deletionTimestamp" in meta,
    }
    spec, status = raw["spec"], raw.get("status") or {}
    try:
        if key.kind == FEDERATED_JOB:
            return FederatedJob(
                spec=msgspec.convert(spec, FederatedJobSpec),
                status=msgspec.convert(status, FederatedJobStatus),
                **values,
            )
        return DistributedJob(
            spec=msgspec.convert(spec, DistributedJobSpec),
            status=msgspec.convert(status, DistributedJobStatus),
            **values,
        )
    except msgspec.ValidationError as error:
        raise UnreadableJobError(f"{key}: {error}") from None


def with_status(job: Job, status: Mapping[str, Any], version: int) -> Job:
    """The job in the version in which it has that status, decoded as it would come back."""
    decoded: Any = msgspec.convert(status, type(job.status))
    return replace(job, status=decoded, resource_version=version)


def parse_time(text: str) -> datetime:
    """An RFC 3339 time stamp of the API server, in UTC."""
    return datetime.fromisoformat(text)


def whole_seconds(moment: datetime) -> datetime:
    """The moment as a status keeps it: in UTC, cut to the second as `metav1.Time` is."""
    return moment.astimezone(UTC).replace(microsecond=0)


def format_time(moment: datetime) -> str:
    """The moment as the API server writes it, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
