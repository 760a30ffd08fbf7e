"""What a job's leaf Secret holds, and when it must be written again.

The operator may not read Secrets where jobs are: what a Secret holds is recorded on it, as an
annotation. The rules here are pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec

from trainyard.api import names
from trainyard.api.jobs import whole_seconds
from trainyard.cluster.certificates import CLOCK_SKEW, RENEW_AFTER
from trainyard.cluster.master import begins_at

Moment = Annotated[datetime, msgspec.Meta(tz=True)]

OVERLAP = timedelta(minutes=10)
"""From writing a Secret until every pod has its content; kubelets take two minutes at most."""


class Issuance(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The certificates in a leaf Secret."""

    signer: str
    """The identifier of the master's version under which the leaves were signed."""
    trusted: tuple[str, ...]
    """The identifiers of the versions whose authorities are in the bundle, oldest first."""
    trusted_since: Moment
    """When the last of them was added to the bundle."""
    issued_at: Moment
    names: str
    """A digest of what the leaves are named after; see `digest`."""

    @property
    def renew_at(self) -> datetime:
        """When the leaves are due for renewal."""
        return self.issued_at + RENEW_AFTER

    @property
    def is_rotated(self) -> bool:
        """Whether the newest version signs."""
        return self.signer == self.trusted[-1]

    def is_spread(self, version: str, now: datetime) -> bool:
        """Whether all pods of the job hold leaves of this version by now."""
        return self.signer == version and now >= self.issued_at + OVERLAP


def digest(hosts: Collection[str], parties: Collection[str]) -> str:
    """The coordinator's DNS names and the parties' names, in 64 bits."""
    text = "\n".join((*hosts, "", *sorted(parties)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def next_issuance(
    found: Issuance | None, trusted: tuple[str, ...], names: str, now: datetime
) -> Issuance:
    """What the Secret should hold; `found` itself where nothing has to be written.

    A version signs only once it has been in the job's own bundle for `OVERLAP`: at every moment
    each process of the job trusts the leaf that any other one presents, however long the operator
    was down in between.
    """
    now = whole_seconds(now)
    if found is None or not _is_plausible(found, now):
        return Issuance(
            signer=_signer(trusted, now),
            trusted=trusted,
            trusted_since=now,
            issued_at=now,
            names=names,
        )
    is_known = set(trusted) <= set(found.trusted)
    since = found.trusted_since if is_known else now
    is_spread = is_known and now >= since + OVERLAP
    signer = found.signer
    if is_spread or signer not in trusted:
        signer = _signer(trusted, now)
    desired = Issuance(
        signer=signer,
        trusted=trusted,
        trusted_since=since,
        issued_at=found.issued_at,
        names=names,
    )
    if desired == found and now < found.renew_at:
        return found
    return msgspec.structs.replace(desired, issued_at=now)


def check_at(issuance: Issuance) -> datetime:
    """When the Secret may have to be written again."""
    if issuance.is_rotated:
        return issuance.renew_at
    signs_at = max(issuance.trusted_since + OVERLAP, begins_at(issuance.trusted[-1]))
    return min(issuance.renew_at, signs_at)


def parse_issuance(meta: Mapping[str, Any]) -> Issuance | None:
    """What an object's annotation records; None without a readable one."""
    text = (meta.get("annotations") or {}).get(names.ANNOTATION_ISSUANCE, "")
    try:
        return msgspec.json.decode(text, type=Issuance)
    except msgspec.DecodeError:
        return None


def annotate(issuance: Issuance) -> dict[str, str]:
    """The annotation that records it."""
    return {names.ANNOTATION_ISSUANCE: msgspec.json.encode(issuance).decode()}


def _signer(trusted: tuple[str, ...], now: datetime) -> str:
    """The newest version that has begun, or the oldest where none has."""
    if len(trusted) == 1:
        return trusted[0]
    return next((v for v in reversed(trusted) if begins_at(v) <= now), trusted[0])


def _is_plausible(found: Issuance, now: datetime) -> bool:
    """Whether the operator can have recorded it: nobody else's edit may postpone a renewal."""
    is_past = max(found.trusted_since, found.issued_at) <= now + CLOCK_SKEW
    return is_past and found.signer in found.trusted
