"""A job's authority, derived from the master secret: the same bytes whoever derives it, and when.

Nobody has to store, look up or delete what can be computed. HKDF (RFC 5869) with SHA-256 makes each
job's key independent of every other: who has one learns nothing of the master, nor of another job.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trainyard.api.names import Key
from trainyard.cluster.certificates import Authority, make_authority
from trainyard.cluster.master import MasterVersion

CONTEXT = b"trainyard.dev/job-authority/1"
"""Separates these keys from all else that may ever be derived from a master secret."""
KEY_BYTES = 48
"""128 bits more than the order of P-256, so that the bias of the reduction is below 2**-128."""
SERIAL_BYTES = 20
"""The longest serial number of RFC 5280, section 4.1.2.2."""


def derive_authority(version: MasterVersion, key: Key, uid: str) -> Authority:
    """The authority of the job with this uid under one version of the master."""
    serial = int.from_bytes(_derive(version, uid, b"serial", SERIAL_BYTES)) >> 1
    return make_authority(key, _derive_key(version, uid), serial, version.begins_at)


def _derive_key(version: MasterVersion, uid: str) -> ec.EllipticCurvePrivateKey:
    """A private key by FIPS 186-5, A.2.1 (extra random bits): d = c mod (n - 1) + 1."""
    curve = ec.SECP256R1()
    c = int.from_bytes(_derive(version, uid, b"key", KEY_BYTES))
    return ec.derive_private_key(c % (curve.group_order - 1) + 1, curve)


def _derive(version: MasterVersion, uid: str, purpose: bytes, length: int) -> bytes:
    # No part contains a zero byte: no two jobs, versions or purposes have the same info.
    info = b"\0".join((CONTEXT, purpose, version.name.encode(), uid.encode()))
    return HKDF(hashes.SHA256(), length, salt=None, info=info).derive(version.secret)
