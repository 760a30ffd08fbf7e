"""The scheduler's requests of all jobs, recomputed only for jobs that changed.

In every cycle a thousand running jobs request what they requested before. All that a request is
made from is frozen and replaced as a whole, so that the same objects make the same request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from trainyard.api.jobs import Assignment, Job
from trainyard.api.names import Key
from trainyard.api.refusals import Refusal
from trainyard.api.report import CoordinatorReport
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.namesakes import name_taken
from trainyard.scheduling.conversion import request_of, wants_gpus
from trainyard.scheduling.request import JobRequest


class CachedRequest(NamedTuple):
    """A request and what it was made from."""

    job: Job
    assignment: Assignment
    report: CoordinatorReport | None
    priorities: Mapping[str, int]
    refusal: Refusal | None
    request: JobRequest

    def is_made_from(
        self,
        job: Job,
        assignment: Assignment,
        report: CoordinatorReport | None,
        priorities: Mapping[str, int],
        refusal: Refusal | None,
    ) -> bool:
        """Whether it was made from these very objects, and from an equal refusal."""
        is_same_job = self.job is job and self.assignment is assignment
        is_same_answer = self.report is report and self.refusal == refusal
        return is_same_job and is_same_answer and self.priorities is priorities


class RequestCache:
    """The requests of all jobs, as of the latest cycle."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._cached: dict[Key, CachedRequest] = {}
        self.failed: dict[Key, Exception] = {}
        """Why some jobs have no request, as of the latest cycle."""

    def collect(self) -> dict[Key, CachedRequest]:
        """The request of every job that wants GPUs now."""
        found: dict[Key, CachedRequest] = {}
        self.failed = {}
        for key, job in self._deps.cache.jobs.items():
            try:
                request = self._request(key, job)
            except Exception as error:  # one job's failure must not stop the others
                self.failed[key] = error
                continue
            if request is not None:
                found[key] = request
        self._cached = found
        return found

    def _request(self, key: Key, job: Job) -> CachedRequest | None:
        cached = self._cached.get(key)
        if (cached is None or cached.job is not job) and not wants_gpus(job):
            return None
        if name_taken(self._deps, job) is not None:
            return None
        state, priorities = self._deps.job_state(job), self._deps.cache.priorities
        assignment, report = state.assignment.value, state.coordinator.report
        if state.has_ended:
            return None
        refusal = state.refusals.of_pods
        made_from = (job, assignment, report, priorities, refusal)
        if cached is not None and cached.is_made_from(*made_from):
            return cached
        allowed = self._deps.options.priority_class_namespaces
        request = request_of(job, assignment, report, priorities, allowed=allowed, refusal=refusal)
        return CachedRequest(*made_from, request)
