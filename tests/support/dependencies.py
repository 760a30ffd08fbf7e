"""What a reconcile works with, on an API server in memory."""

from __future__ import annotations

from typing import Any

from tests.support.fakeapi import FakeApi
from tests.support.jobs import NOW
from trainyard.api.jobs import Job
from trainyard.cluster.authorities import Authorities
from trainyard.cluster.cache import ClusterCache
from trainyard.cluster.coordinator import Coordinators
from trainyard.reconcile.dependencies import Dependencies, Options


def dependencies_of(api: FakeApi, *jobs: Job, **others: Any) -> Dependencies:
    """Services whose mirror knows the jobs; `others` take the place of the usual ones."""
    usual: dict[str, Any] = {
        "client": api.client,
        "cache": ClusterCache(),
        "authorities": Authorities(api.client, "trainyard-system"),
        "coordinators": Coordinators(api.client, is_direct=True),
        "clock": lambda: NOW,
        "options": Options(),
    }
    made = Dependencies(**{**usual, **others})
    for job in jobs:
        made.cache.put_job(job)
    return made
