"""An authority derived from the master: the same for all, and another for every job and version."""

from __future__ import annotations

import hashlib
import hmac
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.authorities import authority_of, version
from tests.support.jobs import KEY, NOW, UID
from trainyard.cluster import derivation
from trainyard.cluster.certificates import AUTHORITY_LIFE, CLOCK_SKEW
from trainyard.cluster.derivation import derive_authority

SECRET = bytes(range(32))
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256, from FIPS 186-5 and SP 800-186."""


def hkdf(secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF with SHA-256 and no salt, step by step as in RFC 5869, section 2."""
    pseudorandom = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    output, block, count = b"", b"", 0
    while len(output) < length:
        count += 1
        block = hmac.new(pseudorandom, block + info + bytes([count]), hashlib.sha256).digest()
        output += block
    return output[:length]


def test_hkdf_of_this_test_is_that_of_the_rfc() -> None:
    """RFC 5869, appendix A.3: SHA-256 without salt and info."""
    expected = (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )
    assert hkdf(b"\x0b" * 22, b"", 42).hex() == expected


def test_key_and_serial_number_are_as_documented() -> None:
    begun = b"trainyard.dev/job-authority/1\0"
    named = b"\x0020260701T120000Z\0uid-of-digits"
    authority = derive_authority(version(), KEY, UID)
    c = int.from_bytes(hkdf(SECRET, begun + b"key" + named, 48), "big")
    assert authority.key.private_numbers().private_value == c % (ORDER - 1) + 1
    serial = int.from_bytes(hkdf(SECRET, begun + b"serial" + named, 20), "big") >> 1
    assert authority.certificate.serial_number == serial


def test_the_known_answer_never_changes() -> None:
    """Another answer would be another authority for every job that runs at an upgrade."""
    digest = hashlib.sha256(authority_of(KEY).pem).hexdigest()
    assert digest == "73322940a7d3347b3d000f1209df8ef1cd5e66bfdb2ad42337395a2524041448"


def test_the_certificate_is_the_same_byte_for_byte() -> None:
    assert {authority_of(KEY).pem for _ in range(5)} == {authority_of(KEY).pem}


def test_the_certificate_is_valid_from_before_its_version_for_ten_years() -> None:
    certificate = authority_of(KEY).certificate
    assert certificate.not_valid_before_utc == NOW - CLOCK_SKEW
    assert certificate.not_valid_after_utc == NOW + AUTHORITY_LIFE
    certificate.verify_directly_issued_by(certificate)


def test_each_job_version_and_secret_has_an_authority_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = [
        authority_of(KEY),
        authority_of(KEY, uid="another-uid"),
        authority_of(KEY, begins_at=NOW + timedelta(seconds=1)),
        derive_authority(version(secret=bytes(32)), KEY, UID),
    ]
    monkeypatch.setattr(derivation, "CONTEXT", b"another context")
    made.append(authority_of(KEY))
    keys = {authority.key.private_numbers().private_value for authority in made}
    serials = {authority.certificate.serial_number for authority in made}
    assert (len(keys), len(serials)) == (5, 5)


def test_the_key_depends_on_the_uid_alone_and_the_subject_on_the_name() -> None:
    first, second = authority_of(KEY), authority_of(KEY._replace(name="other"))
    assert first.key.private_numbers() == second.key.private_numbers()
    assert first.certificate.subject != second.certificate.subject


def test_no_serial_number_is_longer_than_the_rfc_allows() -> None:
    """RFC 5280, section 4.1.2.2: positive, and at most 20 octets."""
    serials = [authority_of(KEY, uid=str(n)).certificate.serial_number for n in range(64)]
    assert all(0 < serial < 2**159 for serial in serials)
    assert max(serials) > 2**150


def test_keys_are_on_the_curve_p_256() -> None:
    assert isinstance(authority_of(KEY).key.curve, ec.SECP256R1)
