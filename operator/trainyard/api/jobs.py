"""Jobs of both kinds as the operator keeps them: decoded once per event, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeVar

import msgspec

from trainyard.api.conditions import ConditionType, is_true
from trainyard.api.durations import parse_duration
from trainyard.api.federation import AdmissionStatus, FederatedJobSpec, FederatedJobStatus
from trainyard.api.names import DISTRIBUTED_JOB, FEDERATED_JOB, MANAGED_BY, Key
from trainyard.api.spec import DistributedJobSpec, JobSpec
from trainyard.api.status import DistributedJobStatus, JobStatus, ScalingStatus
from trainyard.api.validation import Rejection, deep_arguments, oversized_spec, too_deep, validate
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
    rejection: Rejection | None
    """Why the job cannot be started; determined once, when it is decoded."""
    is_unread: bool
    """Whether the spec is too large or too deep to be acted upon; perhaps it was not even kept."""
    default_image: str = ""
    """The operator's, for a job that names none and has not got one yet."""

    @property
    def image(self) -> str:
        """What all pods of the job run: its own, else the default when it was first reconciled.

        A job that is suspended before its first start has no pods yet, and may drop its own image.
        """
        is_undecided = self.spec.suspend and self.status.start_time is None
        return self.spec.image or ("" if is_undecided else self.status.image) or self.default_image

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


class _JobMeta(msgspec.Struct, rename="camel"):
    name: str
    namespace: str
    uid: str
    resource_version: str
    generation: int = 1
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None


class _Owner(msgspec.Struct, rename="camel"):
    """What is read of a spec that is too large to be kept."""

    managed_by: str = ""


NOTHING = msgspec.Raw(b"null")

_Spec = TypeVar("_Spec", bound=JobSpec)
_Status = TypeVar("_Status", bound=JobStatus)


class JobObject(msgspec.Struct, rename="camel"):
    """A job as the API server sends it; spec and status are still encoded."""

    metadata: _JobMeta
    kind: str = ""
    spec: msgspec.Raw = NOTHING
    status: msgspec.Raw = NOTHING
    spec_bytes: int = 0
    """The size of the spec before it was left out; 0 if `spec` is whole."""
    is_pruned: bool = False
    """Whether it was nested too deep for a decoder, and something is missing in it."""

    @property
    def key(self) -> Key:
        """The job's key."""
        return Key(self.kind or DISTRIBUTED_JOB, self.metadata.namespace, self.metadata.name)

    def compact(self) -> bytes:
        """The same object without what the operator does not read, which may be of any size."""
        if self._rejection() is not None:
            self.spec_bytes = len(self.spec)
            self.spec = msgspec.Raw(msgspec.json.encode(_owner(self.spec)))
        return msgspec.json.encode(self)

    def _rejection(self) -> Rejection | None:
        """Why the spec is left out, or None if it is kept."""
        if self.is_pruned:
            return too_deep()
        return oversized_spec(self.spec_bytes or len(self.spec))

    def parse(self) -> Job:
        """Decode the rest; raises UnreadableJobError that names the field."""
        try:
            return self._parse()
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise UnreadableJobError(f"{self.key}: {error}") from None

    def _parse(self) -> Job:
        if self.key.kind == FEDERATED_JOB:
            federated = self._spec(FederatedJobSpec)
            status = _status(self.status, FederatedJobStatus)
            return FederatedJob(spec=federated, status=status, **self._values(federated))
        distributed = self._spec(DistributedJobSpec)
        whole = _status(self.status, DistributedJobStatus)
        return DistributedJob(spec=distributed, status=whole, **self._values(distributed))

    def _spec(self, type_: type[_Spec]) -> _Spec:
        """The spec; of one that is left out only who manages the job."""
        if self._rejection() is None:
            return msgspec.json.decode(self.spec, type=type_)
        owner = _owner(self.spec)
        needed = {"task": {"entrypoint": ""}, "image": "", "managedBy": owner.managed_by}
        parties: dict[str, Any] = {"parties": []} if issubclass(type_, FederatedJobSpec) else {}
        return msgspec.json.decode(msgspec.json.encode({**needed, **parties}), type=type_)

    def _values(self, spec: JobSpec) -> dict[str, Any]:
        # The same for a deep job whether or not a decoder followed it to its end.
        unread = self._rejection() or deep_arguments(spec)
        return {
            "key": self.key,
            "uid": self.metadata.uid,
            "resource_version": int(self.metadata.resource_version),
            "generation": self.metadata.generation,
            "created_at": parse_time(self.metadata.creation_timestamp),
            "is_deleting": self.metadata.deletion_timestamp is not None,
            "rejection": unread or validate(spec),
            "is_unread": unread is not None,
        }


def _owner(spec: msgspec.Raw) -> _Owner:
    try:
        return msgspec.json.decode(spec, type=_Owner)
    except msgspec.MsgspecError:
        return _Owner()


def _status(encoded: msgspec.Raw, type_: type[_Status]) -> _Status:
    return type_() if encoded == NOTHING else msgspec.json.decode(encoded, type=type_)


def read_job(encoded: bytes | str | msgspec.Raw, kind: str = "") -> JobObject:
    """Decode what identifies a job; raises UnreadableJobError.

    `kind` is that of the listing, whose objects may leave it out.
    """
    try:
        found = msgspec.json.decode(encoded, type=JobObject)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UnreadableJobError(f"a job cannot be read: {error}") from None
    found.kind = found.kind or kind
    return found


def parse_job(raw: Mapping[str, Any]) -> Job:
    """Decode an API object of either kind; raises UnreadableJobError that names the field."""
    return read_job(msgspec.json.encode(raw)).parse()


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
