"""A certificate authority per job, and the leaf certificates it signs.

A leaked key or a compromised pod of one job does not affect another. Elliptic curve P-256: a key
and a signature take well under a millisecond, which matters when a thousand jobs arrive at once.
The authority's key never leaves the operator.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trainyard.api.names import Key
from trainyard_trainer.contract.env import Role, identity

AUTHORITY_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=90)
RENEW_AFTER = LEAF_LIFE * 2 / 3
"""Leaves a month for pods that cannot be reached."""
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A certificate and its private key, PEM-encoded."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Authority:
    """A job's certificate authority."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """Its certificate, PEM-encoded."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def make_authority(
    key: Key, private: ec.EllipticCurvePrivateKey, serial: int, begins_at: datetime
) -> Authority:
    """An authority that may sign leaves but no further authorities.

    The same arguments make the same bytes: the signature is deterministic too (RFC 6979).
    """
    name = _name(f"trainyard {key.namespace}/{key.name}"[:64])
    builder = (
        _builder(serial, begins_at, AUTHORITY_LIFE)
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), False)
    )
    return Authority(builder.sign(private, hashes.SHA256(), ecdsa_deterministic=True), private)


def parse_authority(pair: KeyPair) -> Authority:
    """An authority that was stored."""
    private = serialization.load_pem_private_key(pair.key, password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise TypeError("an authority's key is an elliptic curve's")
    return Authority(x509.load_pem_x509_certificate(pair.certificate), private)


def issue(
    authority: Authority,
    key: Key,
    role: Role,
    now: datetime,
    dns: tuple[str, ...] = (),
    member: str = "",
) -> KeyPair:
    """Issue a leaf whose URI SAN binds namespace, job, role and party; `dns` adds DNS SANs."""
    private = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(identity(key.namespace, key.name, role, member)),
        *(x509.DNSName(name) for name in dns),
    ]
    builder = (
        _builder(x509.random_serial_number(), now, LEAF_LIFE)
        .subject_name(_name(f"trainyard {role}"))
        .issuer_name(authority.certificate.subject)
        .public_key(private.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), False
        )
    )
    return _pair(builder.sign(authority.key, hashes.SHA256()), private)


def client_context(bundle: bytes, leaf: KeyPair) -> ssl.SSLContext:
    """A TLS context that presents `leaf` and trusts only the authorities in the bundle."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=bundle.decode())
    with _as_file(leaf.certificate + leaf.key) as path:
        context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """The path of a file with that content, which `ssl` requires: in memory where possible."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("trainyard-tls"), "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile(prefix="trainyard-") as file:
            file.write(content)
            file.flush()
            yield file.name


def _builder(serial: int, now: datetime, life: timedelta) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .serial_number(serial)
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + life)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, private: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        key=private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
