"""What all children have in common: labels, and the owner reference for garbage collection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainyard.api import names
from trainyard.api.jobs import Job
from trainyard.api.names import Key


def labels_of(key: Key) -> dict[str, str]:
    """The labels of every child of a job."""
    return {
        names.LABEL_MANAGED_BY: names.MANAGER,
        names.LABEL_KIND: key.kind,
        names.LABEL_JOB: key.name,
    }


def owner_of(job: Job) -> dict[str, Any]:
    """The owner reference of every child in the job's namespace."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": job.key.kind,
        "name": job.key.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def metadata(job: Job, name: str, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A child's metadata in the job's namespace; the labels of every child go over `labels`."""
    return {
        "name": name,
        "namespace": job.key.namespace,
        "labels": {**(labels or {}), **labels_of(job.key)},
        "ownerReferences": [owner_of(job)],
    }
