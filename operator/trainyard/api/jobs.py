"""A DistributedJob as the operator holds it: decoded once per event, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from trainyard.api.names import DISTRIBUTED_JOB, MANAGED_BY, Key
from trainyard.api.spec import DistributedJobSpec
from trainyard.api.status import DistributedJobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedJob:
    """One job: who it is, what is asked of it, and what was last said of it."""

    key: Key
    uid: str
    resource_version: int
    generation: int
    created_at: datetime
    is_deleting: bool
    spec: DistributedJobSpec
    status: DistributedJobStatus

    @property
    def is_ours(self) -> bool:
        """Whether `managedBy` leaves this job to this operator."""
        return self.spec.managed_by in ("", MANAGED_BY)

    @property
    def is_durable(self) -> bool:
        """Whether the job's state outlives its coordinator's pod."""
        return bool(self.spec.state.claim)


class UnreadableJobError(Exception):
    """A stored job does not fit its own CRD, for example after a downgrade."""


def parse_job(raw: Mapping[str, Any]) -> DistributedJob:
    """Decode an API object; raises UnreadableJobError that names the field."""
    meta = raw["metadata"]
    key = Key(DISTRIBUTED_JOB, meta["namespace"], meta["name"])
    try:
        spec = msgspec.convert(raw["spec"], DistributedJobSpec)
        status = msgspec.convert(raw.get("status") or {}, DistributedJobStatus)
    except msgspec.ValidationError as error:
        raise UnreadableJobError(f"{key}: {error}") from None
    return DistributedJob(
        key=key,
        uid=meta["uid"],
        resource_version=int(meta["resourceVersion"]),
        generation=meta.get("generation", 1),
        created_at=parse_time(meta["creationTimestamp"]),
        is_deleting="deletionTimestamp" in meta,
        spec=spec,
        status=status,
    )


def parse_time(text: str) -> datetime:
    """An RFC 3339 time stamp of the API server, in UTC."""
    return datetime.fromisoformat(text)


def format_time(moment: datetime) -> str:
    """The moment as the API server writes it, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
