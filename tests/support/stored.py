"""The Secrets of a job whose authority an earlier release stored."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from trainyard.api.names import Key
from trainyard.cluster.certificates import Authority, make_authority


def random_authority(key: Key, now: datetime) -> Authority:
    """An authority as the earlier release made one, of random numbers."""
    private = ec.generate_private_key(ec.SECP256R1())
    return make_authority(key, private, x509.random_serial_number(), now)


def stored_secret(key: Key, uid: str, authority: Authority) -> dict[str, Any]:
    """The Secret `trainyard-ca-UID` with that authority."""
    private = authority.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {
        "metadata": {
            "name": f"trainyard-ca-{uid}",
            "labels": {
                "app.kubernetes.io/managed-by": "trainyard",
                "trainyard.dev/kind": key.kind,
                "trainyard.dev/job": key.name,
                "trainyard.dev/namespace": key.namespace,
            },
            "annotations": {
                "trainyard.dev/job-uid": uid,
                "trainyard.dev/renew-at": "2026-08-30T12:00:00Z",
            },
        },
        "data": encoded({"ca.crt": authority.pem, "ca.key": private}),
    }


def encoded(files: dict[str, bytes]) -> dict[str, str]:
    """The files as the data of a Secret."""
    return {name: base64.b64encode(value).decode() for name, value in files.items()}
