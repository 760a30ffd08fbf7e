"""Masters and the authorities derived from them, as values for tests."""

from __future__ import annotations

from datetime import datetime

from tests.support.jobs import NOW, UID
from trainyard.api.names import Key
from trainyard.cluster.certificates import Authority
from trainyard.cluster.derivation import derive_authority
from trainyard.cluster.master import MasterVersion, name_of


def version(begins_at: datetime = NOW, secret: bytes = bytes(range(32))) -> MasterVersion:
    """A version of the master."""
    return MasterVersion(name=name_of(begins_at), secret=secret)


def authority_of(key: Key, begins_at: datetime = NOW, uid: str = UID) -> Authority:
    """The job's authority under such a version."""
    return derive_authority(version(begins_at), key, uid)
