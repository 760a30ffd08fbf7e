"""How free GPUs are divided among the admitted jobs that should grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush

from trainyard.api.names import Key
from trainyard.scheduling.capacity import Ledger
from trainyard.scheduling.proposal import Proposal
from trainyard.scheduling.request import JobRequest


def divide(
    jobs: Sequence[JobRequest], proposals: Mapping[Key, Proposal], ledger: Ledger
) -> dict[Key, int]:
    """How many more workers each growing job gets: mandatory growth first, then policies'.

    To be called with the jobs in queue order. Recommendations are counted last, each against all
    that is left, and take nothing.
    """
    growing = [job for job in jobs if proposals[job.key].workers > job.admitted_workers]
    mandatory = [job for job in growing if proposals[job.key].is_mandatory]
    added = {job.key: _take(job, _growth(job, proposals), ledger) for job in mandatory}
    applied = [job for job in growing if job.mode == "Apply" and job.key not in added]
    added |= _by_marginal_gain(applied, proposals, ledger)
    for job in growing:
        if job.key not in added:
            fits = min(_growth(job, proposals), ledger.slots(job.shape))
            least = proposals[job.key].at_least - job.admitted_workers
            added[job.key] = fits if fits >= least else 0
    return added


def _by_marginal_gain(
    jobs: Sequence[JobRequest], proposals: Mapping[Key, Proposal], ledger: Ledger
) -> dict[Key, int]:
    """Hand out GPUs worker by worker, each to the job that it speeds up most per GPU.

    Speed-ups are over the job's present speed, so that jobs with samples of different sizes
    compare. Ties go to the job that is first in the queue. A job's first step is its smallest
    growth worth while, taken whole or not at all.
    """
    added = {job.key: 0 for job in jobs}
    steps = [_next_step(job, proposals[job.key], 0, n) for n, job in enumerate(jobs)]
    heapify(steps)
    while steps:
        _, position, workers = heappop(steps)
        job = jobs[position]
        if ledger.slots(job.shape) < workers:
            continue
        _take(job, workers, ledger)
        added[job.key] += workers
        if added[job.key] < _growth(job, proposals):
            heappush(steps, _next_step(job, proposals[job.key], added[job.key], position))
    return added


def _next_step(
    job: JobRequest, proposal: Proposal, added: int, position: int
) -> tuple[float, int, int]:
    """A heap entry, best first: minus the gain per GPU, the position in the queue, the workers."""
    current, size = job.admitted_workers, job.admitted_workers + added
    workers = 1 if added else proposal.at_least - current
    if proposal.curve is None:
        return 0.0, position, workers
    gain = proposal.curve.speedup(current, size + workers) - proposal.curve.speedup(current, size)
    return -gain / (workers * job.gpus_per_worker), position, workers


def _growth(job: JobRequest, proposals: Mapping[Key, Proposal]) -> int:
    return proposals[job.key].workers - job.admitted_workers


def _take(job: JobRequest, workers: int, ledger: Ledger) -> int:
    return ledger.take(job.shape, workers, owner=job.key)
