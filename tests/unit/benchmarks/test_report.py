"""From stamps to figures."""

from __future__ import annotations

import pytest

from benchmarks.observe import Event, KubeObject, Labels, Meta, Observer, Stamps, Status
from benchmarks.report import (
    latency,
    milliseconds,
    percentile,
    pods_exist_at,
    pods_run_at,
    status_running_at,
)
from tests.support.fakeapi import FakeApi


def pod(type_: str, name: str, phase: str, job: str = "a") -> Event:
    labels = Labels(job=job)
    return Event(
        type=type_,
        object=KubeObject(metadata=Meta(name=name, labels=labels), status=Status(phase=phase)),
    )


def job(phase: str, name: str = "a", type_: str = "MODIFIED") -> Event:
    return Event(
        type=type_, object=KubeObject(metadata=Meta(name=name), status=Status(phase=phase))
    )


@pytest.fixture
def observer() -> Observer:
    made = Observer(FakeApi().client, "team")
    made.stamps["a"] = Stamps(requested_at=10.0)
    return made


def test_what_counts_is_the_first_time_that_each_thing_was_seen(observer: Observer) -> None:
    for index, name in enumerate(("c", "w0", "w1")):
        observer.note_pod(pod("ADDED", name, "Pending"), 11.0 + index)
        observer.note_pod(pod("MODIFIED", name, "Running"), 21.0 + index)
        observer.note_pod(pod("MODIFIED", name, "Running"), 91.0)
    observer.note_job(job("Starting"), 11.5)
    observer.note_job(job("Running"), 24.0)
    observer.note_job(job("Running"), 99.0)
    stamps = observer.stamps["a"]
    assert pods_exist_at(stamps) == 13.0
    assert pods_run_at(stamps) == 23.0
    assert status_running_at(stamps) == 24.0
    assert observer.running_statuses == 1


def test_pods_that_are_gone_are_no_longer_present(observer: Observer) -> None:
    observer.note_pod(pod("ADDED", "w0", "Running"), 11.0)
    observer.note_pod(pod("DELETED", "w0", "Running"), 12.0)
    observer.note_job(job("Running"), 12.0)
    observer.note_job(job("Running", type_="DELETED"), 13.0)
    assert observer.pods["a"] == {}
    assert observer.jobs == {}
    assert observer.stamps["a"].pods == {"w0": 11.0}


def test_a_hole_in_the_stamps_is_an_error_and_no_figure() -> None:
    with pytest.raises(ValueError, match="0 pods were seen where 3 were expected"):
        pods_exist_at(Stamps(requested_at=1.0))
    with pytest.raises(ValueError, match="never said Running"):
        status_running_at(Stamps(requested_at=1.0))


def test_latencies_are_from_each_jobs_own_creation() -> None:
    stamps = [Stamps(requested_at=float(start)) for start in range(100)]
    figures = latency(stamps, [start + 1.0 for start in range(99)] + [99 + 51.0])
    assert (figures.p50, figures.p99, figures.last) == (1.0, 1.0, 150.0)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 2.0), (0.51, 3.0), (0.99, 4.0), (1.0, 4.0), (0.0, 1.0)]
)
def test_a_percentile_is_one_of_the_values(share: float, expected: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], share) == expected


def test_a_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_milliseconds_have_their_maximum_beside_them() -> None:
    assert milliseconds([0.01, 0.03, 0.02]) == {"median": 20.0, "max": 30.0}
