"""The dependencies of a reconcile, on a fake API server."""

from __future__ import annotations

from typing import Any

from tests.support.fakeapi import FakeApi
from tests.support.jobs import NOW, UID
from trainyard.api.jobs import Job
from trainyard.api.status import ScalingStatus
from trainyard.cluster.authorities import Authorities
from trainyard.cluster.cache import ClusterCache
from trainyard.cluster.coordinator import Coordinators
from trainyard.reconcile.dependencies import Dependencies, Options
from trainyard.reconcile.namespace_service import NamespaceServices
from trainyard.reconcile.state import AssignmentState, CoordinatorLink, JobState
from trainyard.render.trainer_config import AnyPlan


def dependencies_of(api: FakeApi, *jobs: Job, **others: Any) -> Dependencies:
    """Dependencies whose cache contains the jobs; `others` replace the defaults."""
    defaults: dict[str, Any] = {
        "client": api.client,
        "cache": ClusterCache(),
        "authorities": Authorities(api.client, "trainyard-system"),
        "coordinators": Coordinators(api.client, is_direct=True),
        "clock": lambda: NOW,
        "options": Options(),
    }
    parts = {**defaults, **others}
    services = NamespaceServices(parts["client"], parts["clock"])
    dependencies = Dependencies(**{"services": services, **parts})
    for job in jobs:
        dependencies.cache.put_job(job)
    return dependencies


def make_state(plan: AnyPlan | None = None, uid: str = UID) -> JobState:
    """The state of a job without a decision, with the Plan for its coordinator."""
    return JobState(
        uid=uid,
        assignment=AssignmentState(ScalingStatus()),
        coordinator=CoordinatorLink(plan_generation=0, plan=plan),
    )
