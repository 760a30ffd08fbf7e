"""From stamps to figures: pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.load import PODS
from benchmarks.observe import Stamps


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds from a job's creation to something, over all jobs."""

    p50: float
    p99: float
    last: float
    """From the first creation to the last job's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """One burst under one controller."""

    controller: str
    jobs: int
    created_seconds: float
    """Until the API server had taken the last job."""
    pods: Latency
    running: Latency
    status: Latency
    jobs_per_second: float
    """Jobs over the seconds until all statuses were Running."""
    status_behind_pods_seconds: float
    """The statuses' p50 less the running pods' p50."""
    cpu_ms_per_job: float
    """Until all statuses were Running."""
    cpu_ms_per_job_after: float
    """In the seconds after that, in which the operator connects to coordinators."""
    peak_rss_mb: float
    kb_per_job: float
    """Peak above idle."""
    requests_per_job: float | None
    """By the controller's own count; None where it has none."""
    plane_cpu_ms_per_job: float
    """Of API server, etcd, controller manager and scheduler; KWOK is no part of a real plane."""
    plane_cpu_ms_per_job_by_component: dict[str, float]
    plane_requests_per_job: dict[str, float]
    """By everybody: the API server's count."""


def latency(stamps: Iterable[Stamps], moments: Sequence[float]) -> Latency:
    """The latency of moments, one a job, in the jobs' order."""
    requested = [s.requested_at for s in stamps]
    each = sorted(at - start for at, start in zip(moments, requested, strict=True))
    return Latency(
        p50=_round(median(each)),
        p99=_round(percentile(each, 0.99)),
        last=_round(max(moments) - min(requested)),
    )


def pods_exist_at(stamps: Stamps, pods: int = PODS) -> float:
    """When the job's last pod was there."""
    return _nth(stamps.pods, pods)


def pods_run_at(stamps: Stamps, pods: int = PODS) -> float:
    """When the job's last pod ran."""
    return _nth(stamps.running, pods)


def status_running_at(stamps: Stamps) -> float:
    """When the job's status became Running."""
    if stamps.status_at is None:
        raise ValueError("the status of a job never said Running")
    return stamps.status_at


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ordered values that at least that share does not exceed."""
    if not ordered:
        raise ValueError("a percentile of no values")
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median and how far the runs lie apart."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Median and maximum in milliseconds."""
    return {"median": round(median(seconds) * 1e3, 1), "max": round(max(seconds) * 1e3, 1)}


def _nth(moments: dict[str, float], count: int) -> float:
    if len(moments) < count:
        raise ValueError(f"{len(moments)} pods were seen where {count} were expected")
    return sorted(moments.values())[count - 1]


def _round(seconds: float) -> float:
    return round(seconds, 3)
