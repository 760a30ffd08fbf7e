"""What one run of `benchmarks.reconcile` measured, and its last line: pure but for the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from statistics import median
from typing import Any

from benchmarks.churn import Churn
from benchmarks.idle import Idle
from benchmarks.report import Burst, spread


@dataclass(slots=True)
class Results:
    """All that was measured; bursts in the order in which they ran."""

    operator: list[Burst] = field(default_factory=list)
    floor: list[Burst] = field(default_factory=list)
    bare_pods: list[Burst] = field(default_factory=list)
    other: list[Burst] = field(default_factory=list)
    """The operator of the other tree, once for each burst of the operator."""
    idle: Idle | None = None
    idle_floor: Idle | None = None
    idle_bare_pods: Idle | None = None
    scale: dict[str, float] | None = None
    churn: Churn | None = None


def as_document(results: Results) -> dict[str, Any]:
    """The figures by their documented keys; the single ones are those of the largest bursts."""
    most = max(b.jobs for b in results.operator)
    ours = _of_size(results.operator, most)
    ratios = _ratios(results, most)
    return {
        "jobs": most,
        "jobs_per_second": median(b.jobs_per_second for b in ours),
        **{name: round(median(values), 3) for name, values in ratios.items()},
        "requests_per_job": median(b.requests_per_job or 0 for b in ours),
        "plane_cpu_ms_per_job": median(b.plane_cpu_ms_per_job for b in ours),
        "plane_cpu_ms_per_job_by_component": _by_component(ours),
        "cpu_ms_per_job": median(b.cpu_ms_per_job for b in ours),
        "peak_rss_mb": max(b.peak_rss_mb for b in ours),
        "kb_per_job": median(b.kb_per_job for b in ours),
        "status_behind_pods_seconds": median(b.status_behind_pods_seconds for b in ours),
        "idle_running_ms": results.idle.status["median"] if results.idle else None,
        "idle_pods_ms": results.idle.pods["median"] if results.idle else None,
        "scale_pods_ms": results.scale["median"] if results.scale else None,
        "sizes": {str(jobs): _spreads(results, jobs) for jobs in _sizes(results)},
        **asdict(results),
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "kopf": version("kopf"),
            "load_average": os.getloadavg()[0],
        },
    }


def _spreads(results: Results, jobs: int) -> dict[str, dict[str, float]]:
    speeds = [b.jobs_per_second for b in _of_size(results.operator, jobs)]
    measured = {"jobs_per_second": speeds, **_ratios(results, jobs)}
    return {name: spread([round(v, 3) for v in values]) for name, values in measured.items()}


def _ratios(results: Results, jobs: int) -> dict[str, list[float]]:
    """Each burst of the operator beside the best floors and beside the other tree's burst."""
    ours, other = _of_size(results.operator, jobs), _of_size(results.other, jobs)
    ratios = {
        "ratio_to_floor": _to_best(ours, _of_size(results.floor, jobs)),
        "ratio_to_bare_pods": _to_best(ours, _of_size(results.bare_pods, jobs)),
    }
    if other:
        ratios["speedup_to_other"] = _pairwise(other, ours, lambda b: b.status.last)
        ratios["plane_cpu_ratio_to_other"] = _pairwise(
            ours, other, lambda b: b.plane_cpu_ms_per_job
        )
    return ratios


def _to_best(bursts: Iterable[Burst], floor: Iterable[Burst]) -> list[float]:
    best = min(b.status.last for b in floor)
    return [b.status.last / best for b in bursts]


def _pairwise(
    numerators: Sequence[Burst], denominators: Sequence[Burst], of: Callable[[Burst], float]
) -> list[float]:
    """One ratio for each iteration, so that what slows a whole iteration cancels out."""
    return [of(n) / of(d) for n, d in zip(numerators, denominators, strict=True)]


def _by_component(bursts: Sequence[Burst]) -> dict[str, float]:
    of_each = [b.plane_cpu_ms_per_job_by_component for b in bursts]
    return {name: median(used[name] for used in of_each) for name in of_each[0]}


def _of_size(bursts: Iterable[Burst], jobs: int) -> list[Burst]:
    return [b for b in bursts if b.jobs == jobs]


def _sizes(results: Results) -> list[int]:
    return sorted({b.jobs for b in results.operator})
