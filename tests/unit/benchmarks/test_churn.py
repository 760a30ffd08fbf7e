"""When a disturbed job has its desired state again."""

from __future__ import annotations

from benchmarks.churn import all_as_desired, is_as_desired
from benchmarks.observe import Observer, Stamps, Status
from tests.support.fakeapi import FakeApi

JOBS = ["deleted", "scaled", "failed", "left alone"]
PARTS = [["deleted"], ["scaled"], ["failed"]]


def repaired() -> Observer:
    observer = Observer(FakeApi().client, "team")
    for name in JOBS:
        observer.stamps[name] = Stamps(requested_at=0.0, pods=dict.fromkeys(("c", "w0", "w1"), 1.0))
        observer.jobs[name] = Status(phase="Running", replicas=2)
        observer.pods[name] = {"c": "Running", "w0": "Running", "w1": "Running"}
    del observer.jobs["deleted"]
    observer.pods["deleted"] = {}
    observer.jobs["scaled"].replicas = 3
    observer.pods["scaled"]["w2"] = "Running"
    observer.pods["failed"]["w0"] = "Failed"
    observer.pods["failed"]["w0-2"] = "Running"
    observer.stamps["failed"].pods["w0-2"] = 2.0
    return observer


def test_all_jobs_are_as_desired_once_each_disturbance_is_repaired() -> None:
    assert all_as_desired(repaired(), JOBS, PARTS)


def test_one_job_that_is_not_as_desired_is_enough() -> None:
    lingers, starts, unscaled, unreplaced, silent = (repaired() for _ in range(5))
    lingers.pods["deleted"] = {"w0": "Running"}
    starts.pods["failed"]["w0-2"] = "Pending"
    unscaled.jobs["scaled"].replicas = 2
    unreplaced.stamps["failed"].pods.pop("w0-2")
    silent.jobs["left alone"].phase = "Starting"
    for observer in (lingers, starts, unscaled, unreplaced, silent):
        assert not all_as_desired(observer, JOBS, PARTS)


def test_a_job_is_not_as_desired_before_its_status_shows_it() -> None:
    observer = repaired()
    assert is_as_desired(observer, "left alone")
    observer.jobs["left alone"].phase = "Degraded"
    assert not is_as_desired(observer, "left alone")
