"""Jobs as the API server returns them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
import yaml

from tests.support.jobs import KEY, NOW, UID, at, make_job, raw_job
from trainyard.api.durations import parse_duration
from trainyard.api.jobs import UnreadableJobError, format_time, parse_job, parse_time


def test_a_job_is_decoded_with_its_defaults() -> None:
    job = make_job({"workers": {"min": 2, "max": 4}, "state": {"claimName": "c"}})
    assert (job.key, job.uid, job.generation, job.resource_version) == (KEY, UID, 3, 7)
    assert (job.spec.workers.min, job.spec.workers.gpus) == (2, 1)
    assert (job.spec.scaling.policy, job.spec.scaling.cooldown) == ("Throughput", "60s")
    assert (job.is_ours, job.is_durable, job.is_deleting) == (True, True, False)


def test_fields_of_a_later_version_are_ignored() -> None:
    assert make_job({"sharding": {"degree": 8}}, {"future": True}).spec.image == "trainer:1"


def test_an_unreadable_job_is_named_with_its_field() -> None:
    with pytest.raises(UnreadableJobError, match=r"team/digits.*workers\.min"):
        make_job({"workers": {"min": "two"}})


@pytest.mark.parametrize("whole", [{"status": None}, {}])
def test_a_job_without_a_status_is_new(whole: dict[str, None]) -> None:
    raw = raw_job()
    del raw["status"]
    assert parse_job({**raw, **whole}).status.phase == ""


def test_times_are_those_of_the_api_server() -> None:
    east = datetime(2026, 7, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    assert format_time(east) == at() == "2026-07-01T12:00:00Z"
    assert parse_time(at()) == NOW
    assert parse_time("2026-07-01T12:00:00.250000Z") > NOW
    assert parse_time(at()).tzinfo == UTC


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("2m", 120), ("1h30m", 5400), ("1h1m1s", 3661), ("0s", 0), ("250ms", 0.25)],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "90", "1.5h", "-3s", "2 m", "1m1h", "s", "1d", "9s\n"])
def test_anything_else_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def test_a_manifest_and_its_yaml_are_the_same_job() -> None:
    raw = raw_job({"scaling": {"minGain": 1}})
    assert parse_job(yaml.safe_load(yaml.safe_dump(raw))) == parse_job(raw)
