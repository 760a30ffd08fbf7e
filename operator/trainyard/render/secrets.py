"""A job's two Secrets: its authority (operator's namespace) and its leaves (job's namespace)."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from trainyard.api import names
from trainyard.api.jobs import Job, format_time
from trainyard.api.names import MemberId
from trainyard.render.ownership import labels_of, metadata
from trainyard_trainer.contract.env import Role


def leaf_name(role: Role, member: MemberId = 0) -> str:
    """The name of a leaf's files in the Secret; each party has its own, as none trusts another."""
    return f"{role}-{member}" if role is Role.PARTY else str(role)


def authority_secret(
    job: Job,
    namespace: str,
    certificate: bytes,
    key: bytes,
    renew_at: datetime,
    parties: Collection[str] = (),
) -> dict[str, Any]:
    """The authority's Secret, with the job's uid as a job cannot own it across namespaces.

    `parties` are those that the leaf Secret has certificates for.
    """
    annotation = {names.ANNOTATION_PARTIES: ",".join(sorted(parties))} if parties else {}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": names.ca_secret_name(job.uid),
            "namespace": namespace,
            "labels": {**labels_of(job.key), names.LABEL_NAMESPACE: job.key.namespace},
            "annotations": {
                names.ANNOTATION_JOB_UID: job.uid,
                names.ANNOTATION_RENEW_AT: format_time(renew_at),
                **annotation,
            },
        },
        "type": "Opaque",
        "data": _encoded({"ca.crt": certificate, "ca.key": key}),
    }


def leaf_secret(job: Job, items: Mapping[str, bytes]) -> dict[str, Any]:
    """The pods' certificates and keys, by file name; each role mounts only its own."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(job, names.leaf_secret_name(job.key.name)),
        "type": "Opaque",
        "data": _encoded(items),
    }


def _encoded(items: Mapping[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(value).decode() for name, value in items.items()}
