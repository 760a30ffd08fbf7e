"""Jobs as the API server returns them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
import yaml

from tests.support.jobs import KEY, NOW, UID, at, make_job, raw_job
from trainyard.api.durations import parse_duration
from trainyard.api.jobs import (
    UnreadableJobError,
    format_time,
    parse_job,
    parse_time,
    read_job,
)
from trainyard.api.validation import MAX_SPEC_BYTES


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


def with_argument(value: object) -> dict[str, object]:
    return {"task": {"entrypoint": "a.b:C", "args": {"a": value}}}


def test_arguments_stay_encoded_and_keep_nothing_else_alive() -> None:
    """A view would keep the page of a listing that they were a part of."""
    encoded = b'{"metadata": {"name": "a", "namespace": "b", "uid": "c", "resourceVersion": "1"'
    encoded += b', "creationTimestamp": "2026-01-01T00:00:00Z"}, "status": null, "spec": '
    encoded += b'{"image": "i", "task": {"entrypoint": "a.b:C", "args": {"x": [1, 1.0]}}}}'
    args = read_job(encoded).parse().spec.task.args
    assert bytes(args) == b'{"x": [1, 1.0]}'
    assert memoryview(args).obj is not encoded


@pytest.mark.parametrize("reads", [read_job, lambda job: read_job(read_job(job).compact())])
def test_a_job_that_was_compacted_is_the_same_job(reads: Any) -> None:
    raw = raw_job({**with_argument([1, 2.5, "é<"]), "suspend": True}, {"phase": "Suspended"})
    raw["metadata"]["annotations"] = {"big": "y" * MAX_SPEC_BYTES}
    job = reads(msgspec.json.encode(raw)).parse()
    assert job == parse_job(raw)
    assert job.spec.task.arguments() == {"a": [1, 2.5, "é<"]}
    assert not job.is_unread, "annotations do not count"


@pytest.mark.parametrize("kind", ["DistributedJob", "FederatedJob"])
@pytest.mark.parametrize("is_compact", [False, True])
def test_of_a_spec_that_is_too_large_only_its_manager_is_kept(kind: str, is_compact: bool) -> None:
    spec = {**with_argument("x" * MAX_SPEC_BYTES), "managedBy": "example.com/other"}
    encoded = msgspec.json.encode({**raw_job(spec, {"phase": "Running"}), "kind": kind})
    if is_compact:
        encoded = read_job(encoded).compact()
        assert len(encoded) < 1_000
    job = read_job(encoded).parse()
    assert (job.key.kind, job.uid, job.generation) == (kind, UID, 3)
    assert (job.is_unread, job.is_ours, job.status.phase) == (True, False, "Running")
    assert job.spec.task.entrypoint == ""
    assert job.rejection is not None
    assert job.rejection.reason == "TooLarge"
    size = len(msgspec.json.encode({**raw_job(spec)["spec"]}))
    assert f"takes {size} bytes" in job.rejection.message


@pytest.mark.parametrize("encoded", [b"?", b"{}", b'{"metadata": {"name": 1}}', b"[" * 5_000])
def test_what_is_no_job_is_unreadable(encoded: bytes) -> None:
    with pytest.raises(UnreadableJobError):
        read_job(encoded)


@pytest.mark.parametrize("part", ["spec", "creationTimestamp", "resourceVersion"])
def test_a_job_without_an_essential_part_is_named(part: str) -> None:
    raw = raw_job()
    (raw if part == "spec" else raw["metadata"])[part] = None if part == "spec" else "?"
    with pytest.raises(UnreadableJobError, match=r"^DistributedJob/team/digits: "):
        read_job(msgspec.json.encode(raw)).parse()
