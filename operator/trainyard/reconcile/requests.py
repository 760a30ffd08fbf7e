"""What all jobs ask of the scheduler, worked out anew only for those that changed.

A thousand jobs that run ask at every tick what they asked before: everything that a demand is made
of is frozen and replaced as a whole, so that the same objects make the same demand.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

from trainyard.api.jobs import Assignment, Job
from trainyard.api.names import Key
from trainyard.api.report import CoordinatorReport
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.job import job_state
from trainyard.scheduling.conversion import request_of, wants_gpus
from trainyard.scheduling.request import JobRequest

log = logging.getLogger(__name__)


class CachedRequest(NamedTuple):
    """A demand and what it was made of."""

    job: Job
    scaling: Assignment
    report: CoordinatorReport | None
    priorities: Mapping[str, int]
    request: JobRequest

    def still_holds(
        self,
        job: Job,
        scaling: Assignment,
        report: CoordinatorReport | None,
        priorities: Mapping[str, int],
    ) -> bool:
        """Whether it was made of these very objects."""
        is_same = self.job is job and self.scaling is scaling
        return is_same and self.report is report and self.priorities is priorities


class RequestCache:
    """The demands of all jobs, as of the latest look."""

    def __init__(self, services: Dependencies) -> None:
        self._services = services
        self._known: dict[Key, CachedRequest] = {}

    def collect(self) -> dict[Key, CachedRequest]:
        """What every job asks that wants GPUs now."""
        found = {}
        for key, job in self._services.cache.jobs.items():
            if (asked := self._request(key, job)) is not None:
                found[key] = asked
        self._known = found
        return found

    def _request(self, key: Key, job: Job) -> CachedRequest | None:
        known = self._known.get(key)
        if (known is None or known.job is not job) and not wants_gpus(job):
            return None
        state, priorities = job_state(self._services, job), self._services.cache.priorities
        if state.has_ended:
            return None
        if known is not None and known.still_holds(job, state.scaling, state.report, priorities):
            return known
        try:
            demand = request_of(job, state.scaling, state.report, priorities)
        except ValueError:
            # One odd job, stored before its schema was stricter, must not stop the others.
            log.exception("%s cannot be decided on", key)
            return None
        return CachedRequest(job, state.scaling, state.report, priorities, demand)
