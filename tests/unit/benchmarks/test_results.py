"""The last line of a run."""

from __future__ import annotations

import pytest

from benchmarks.report import Burst, Latency
from benchmarks.results import Results, as_document


def burst(seconds: float, plane_cpu: float = 100.0, jobs: int = 100) -> Burst:
    latency = Latency(p50=seconds, p99=seconds, last=seconds)
    return Burst(
        controller="operator",
        jobs=jobs,
        created_seconds=1.0,
        pods=latency,
        running=latency,
        status=latency,
        jobs_per_second=jobs / seconds,
        status_behind_pods_seconds=0.0,
        cpu_ms_per_job=10.0,
        cpu_ms_per_job_after=1.0,
        peak_rss_mb=100.0,
        kb_per_job=50.0,
        requests_per_job=8.0,
        plane_cpu_ms_per_job=plane_cpu,
        plane_cpu_ms_per_job_by_component={"etcd": plane_cpu / 4},
        plane_requests_per_job={},
    )


def test_the_ratios_are_to_the_best_floor_of_each_kind() -> None:
    results = Results(
        operator=[burst(12.0), burst(15.0), burst(18.0)],
        floor=[burst(10.0), burst(11.0)],
        bare_pods=[burst(6.0), burst(5.0)],
    )
    document = as_document(results)
    assert (document["ratio_to_floor"], document["ratio_to_bare_pods"]) == (1.5, 3.0)
    expected = {"median": 3.0, "min": 2.4, "max": 3.6}
    assert document["sizes"]["100"]["ratio_to_bare_pods"] == expected
    assert document["plane_cpu_ms_per_job_by_component"] == {"etcd": 25.0}
    assert "speedup_to_other" not in document


def test_the_other_tree_is_compared_iteration_by_iteration() -> None:
    results = Results(
        operator=[burst(10.0, 50.0), burst(20.0, 100.0)],
        other=[burst(20.0, 100.0), burst(60.0, 125.0)],
        floor=[burst(10.0)],
        bare_pods=[burst(10.0)],
    )
    document = as_document(results)
    assert document["speedup_to_other"] == 2.5
    assert document["plane_cpu_ratio_to_other"] == pytest.approx(0.65)
    assert document["sizes"]["100"]["speedup_to_other"] == {"median": 2.5, "min": 2.0, "max": 3.0}


def test_the_single_figures_are_those_of_the_largest_bursts() -> None:
    floors = [burst(10.0, jobs=100), burst(20.0, jobs=200)]
    results = Results(
        operator=[burst(11.0, jobs=100), burst(30.0, jobs=200)], floor=floors, bare_pods=floors
    )
    document = as_document(results)
    assert (document["jobs"], document["ratio_to_floor"]) == (200, 1.5)
    assert document["sizes"]["100"]["ratio_to_floor"]["median"] == 1.1
