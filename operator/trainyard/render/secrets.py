"""A job's Secret: the certificates of its pods."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from trainyard.api import names
from trainyard.api.jobs import Job
from trainyard.api.names import MemberId
from trainyard.render.ownership import metadata
from trainyard_trainer.contract.env import Role


def leaf_name(role: Role, member: MemberId = 0) -> str:
    """The name of a leaf's files in the Secret; each party has its own, as none trusts another."""
    return f"{role}-{member}" if role is Role.PARTY else str(role)


def leaf_secret(
    job: Job, items: Mapping[str, bytes], annotations: Mapping[str, str]
) -> dict[str, Any]:
    """The pods' certificates and keys, by file name; each role mounts only its own."""
    meta = metadata(job, names.leaf_secret_name(job.key.name))
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {**meta, "annotations": dict(annotations)},
        "type": "Opaque",
        "data": {name: base64.b64encode(value).decode() for name, value in items.items()},
    }
