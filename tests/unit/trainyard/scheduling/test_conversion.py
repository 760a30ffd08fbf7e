"""From a job to its request, and the assignment that a restarted operator finds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.support.federations import make_federation
from tests.support.jobs import (
    KEY,
    NOW,
    admitted,
    at,
    condition,
    coordinator,
    has_run,
    make_job,
    workers,
)
from trainyard.api.cluster import Taint, Toleration
from trainyard.api.federation import AdmissionStatus
from trainyard.api.report import CoordinatorReport
from trainyard.api.status import Change, Measurement, NotPlaced, Provisioning, ScalingStatus
from trainyard.scheduling.assignment import initial_assignment
from trainyard.scheduling.conversion import request_of, wants_gpus, worker_shape


@pytest.mark.parametrize(
    ("spec", "status", "meta", "expected"),
    [
        pytest.param({}, {}, {}, True, id="a new job"),
        pytest.param({"managedBy": "trainyard.dev/operator"}, {}, {}, True, id="ours by name"),
        pytest.param({"managedBy": "kueue.x-k8s.io/multikueue"}, {}, {}, False, id="another's"),
        pytest.param({}, {}, {"deletionTimestamp": NOW}, False, id="being deleted"),
        pytest.param({"suspend": True}, {}, {}, False, id="suspended"),
        pytest.param({}, {"conditions": [condition("Complete")]}, {}, False, id="complete"),
        pytest.param({}, {"conditions": [condition("Failed")]}, {}, False, id="failed"),
        pytest.param({}, {"conditions": [condition("Failed", "False")]}, {}, True, id="not failed"),
        pytest.param({"sync": {"algorithm": "Async"}}, {}, {}, False, id="not supported"),
    ],
)
def test_the_scheduler_decides_for(
    spec: dict[str, Any], status: dict[str, Any], meta: dict[str, Any], expected: bool
) -> None:
    assert wants_gpus(make_job(spec, status, **meta)) is expected


def test_a_request_has_what_the_spec_says() -> None:
    spec = {
        "workers": {
            "min": 2,
            "max": 6,
            "replicas": 3,
            "gpus": 4,
            "gpuResource": "amd.com/gpu",
            "template": {"nodeSelector": {"zone": "a"}},
        },
        "scaling": {"policy": "Manual", "mode": "Recommend", "cooldown": "2m", "minGain": 1.2},
        "priorityClassName": "urgent",
    }
    request = request_of(make_job(spec), ScalingStatus(), None, {"urgent": 9})
    assert (request.key, request.priority) == (KEY, 9)
    assert (request.min_workers, request.max_workers, request.start_workers) == (2, 6, 3)
    assert request.shape.requests == (("amd.com/gpu", 4), ("pods", 1))
    assert (request.gpus_per_worker, request.shape.selector) == (4, (("zone", "a"),))
    assert (request.policy, request.mode, request.min_gain) == ("Manual", "Recommend", 1.2)
    assert request.cooldown == timedelta(minutes=2)
    assert (request.admitted_workers, request.admitted_at, request.is_running) == (0, None, False)
    assert request.measured_at is None


def test_an_unknown_priority_class_has_priority_0() -> None:
    job = make_job({"priorityClassName": "deleted since"})
    assert request_of(job, ScalingStatus(), None, {}).priority == 0


@pytest.mark.parametrize(
    ("name", "allowed", "priority", "refused"),
    [
        pytest.param("", {}, 3, "", id="the cluster's default"),
        pytest.param("urgent", {}, 9, "", id="a class that is not limited"),
        pytest.param("urgent", {"urgent": ["team", "b"]}, 9, "", id="one for its namespace"),
        pytest.param("urgent", {"urgent": ["b"]}, 3, "urgent", id="one for others"),
        pytest.param("urgent", {"urgent": []}, 3, "urgent", id="one for nobody"),
        pytest.param("system-x", {}, 3, "system-x", id="one that Kubernetes reserves"),
        pytest.param("system-x", {"system-x": ["team"]}, 99, "", id="unless it is listed"),
    ],
)
def test_a_priority_class_counts_if_the_namespace_may_use_it(
    name: str, allowed: dict[str, list[str]], priority: int, refused: str
) -> None:
    classes = {"": 3, "urgent": 9, "system-x": 99}
    job = make_job({"priorityClassName": name})
    request = request_of(job, ScalingStatus(), None, classes, allowed=allowed)
    assert (request.priority, request.refused_class) == (priority, refused)


def test_every_resource_of_a_worker_counts_whatever_its_gpus_are_called() -> None:
    """Eight GPUs a worker passed the queue beside `gpus: 0`."""
    resources = {"limits": {"nvidia.com/gpu": 8, "cpu": "1500m"}, "requests": {"memory": "1Gi"}}
    workers = {"gpus": 0, "gpuResource": "a.b/c", "resources": resources}
    shape = request_of(make_job({"workers": workers}), ScalingStatus(), None, {}).shape
    expected = {"nvidia.com/gpu": 8, "cpu": 1500, "memory": 2**30, "pods": 1}
    assert dict(shape.requests) == expected
    assert [toleration.key for toleration in shape.tolerations] == ["nvidia.com/gpu"]


def test_the_accelerator_that_the_job_names_comes_first() -> None:
    resources = {"limits": {"a.com/nic": 32}}
    workers = {"gpus": 8, "resources": resources}
    request = request_of(make_job({"workers": workers}), ScalingStatus(), None, {})
    assert request.shape.accelerators == (("nvidia.com/gpu", 8), ("a.com/nic", 32))
    assert request.gpus_per_worker == 8


def test_parts_of_a_gpu_tolerate_the_vendors_taint() -> None:
    workers = {"gpuResource": "nvidia.com/mig-1g.5gb"}
    shape = worker_shape(make_job({"workers": workers}).spec)
    taint = Taint(key="nvidia.com/gpu", value="present")
    assert any(toleration.tolerates(taint) for toleration in shape.tolerations)


def test_a_request_has_what_was_decided_and_measured() -> None:
    change = Change(from_=1, to=2, reason="GrowPays", decision_time=NOW, expected_speedup=1.9)
    row = Measurement(nodes=1, workers=2, local_batch=32, samples_per_second=99.0, steps=40)
    scaling = admitted(2, history=[change], profile=[row], proven=2)
    request = request_of(make_job(), scaling, CoordinatorReport(at=NOW), {})
    assert request.decision_time == request.admitted_at == request.measured_at == NOW
    assert (request.history, request.profile) == ((change,), (row,))
    assert request.proven_workers == 2


@pytest.mark.parametrize(
    ("reason", "expected"), [("StartTimedOut", NOW), ("WaitingForGPUs", None), ("", None)]
)
def test_only_a_start_that_timed_out_backs_off(reason: str, expected: object) -> None:
    scaling = ScalingStatus(reason=reason, cooldown_end_time=NOW)
    assert request_of(make_job(), scaling, None, {}).backoff_until == expected


def test_the_last_failed_start_of_either_kind_is_known_to_the_queue() -> None:
    workers = ScalingStatus(last_failed_start_time=NOW)
    assert request_of(make_job(), workers, None, {}).last_failed_start == NOW
    parties = AdmissionStatus(last_failed_start_time=NOW)
    assert request_of(make_federation(), parties, None, {}).last_failed_start == NOW


@pytest.mark.parametrize(
    ("status", "active", "steady"),
    [
        pytest.param(has_run(), 2, True, id="all train together"),
        pytest.param(has_run(), 1, False, id="one is missing"),
        pytest.param({}, 2, False, id="has never run"),
    ],
)
def test_a_job_is_steady_when(status: dict[str, Any], active: int, steady: bool) -> None:
    report = CoordinatorReport(at=NOW, members={"active": active})
    assert request_of(make_job(status=status), admitted(2), report, {}).is_running is steady


def test_a_job_without_a_report_is_not_steady() -> None:
    assert not request_of(make_job(status=has_run()), admitted(2), None, {}).is_running


def test_workers_tolerate_the_accelerators_own_taint_and_what_the_template_adds() -> None:
    template = {"tolerations": [{"key": "team", "value": "a", "effect": "NoSchedule"}]}
    mine = Toleration(key="team", value="a", effect="NoSchedule")
    gpu = Toleration(key="nvidia.com/gpu", operator="Exists")
    assert worker_shape(make_job({"workers": {"template": template}}).spec).tolerations == (
        mine,
        gpu,
    )
    assert worker_shape(make_job({"workers": {"gpus": 0}}).spec).tolerations == ()


def test_a_restarted_operator_finds_the_assignment_in_the_status() -> None:
    job = make_job(status={"scaling": {"desired": 3, "reason": "GrowPays"}})
    assert initial_assignment(job, workers(1)).desired == 3


def test_a_restarted_operator_finds_running_pods_if_the_status_was_lost() -> None:
    found = initial_assignment(make_job(), (coordinator(), *workers(2)))
    assert (found.desired, found.message) == (2, "Found running.")


def test_the_highest_index_of_running_pods_gives_the_size() -> None:
    """A crash between two creations may leave any of its pods, the first not among them."""
    job = make_job({"workers": {"min": 3, "max": 8, "replicas": 5}})
    (*_, fourth), (second, *_) = workers(4), workers(4)[1:]
    assert initial_assignment(job, (fourth,)).desired == 4
    assert initial_assignment(job, (second,)).desired == 3
    assert initial_assignment(job, (second,)).decision_time


def test_the_terminating_pods_of_a_suspended_job_are_no_assignment() -> None:
    assert initial_assignment(make_job({"suspend": True}), workers(2)).desired == 0


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, False),
        ({"state": {"claimName": "models"}}, True),
        ({"workers": {"template": {"volumes": [{"name": "d", "emptyDir": {}}]}}}, False),
        ({"workers": {"template": {"volumes": [{"name": "d", "ephemeral": {}}]}}}, True),
        (
            {"workers": {"template": {"volumes": [{"name": "d", "persistentVolumeClaim": {}}]}}},
            True,
        ),
    ],
    ids=["none", "the state", "scratch", "one for each pod", "data"],
)
def test_a_request_says_whether_volumes_may_have_to_be_provisioned(
    spec: dict[str, Any], *, expected: bool
) -> None:
    assert request_of(make_job(spec), ScalingStatus(), None, {}).mounts_claims is expected


def test_a_restarted_operator_observes_what_was_not_placed() -> None:
    memory = {"workers": 2, "attempts": 3, "retryTime": at()}
    pool = {"pool": "a100", "attempts": 1, "retryTime": at()}
    job = make_job(status={"scaling": {"desired": 2, "notPlaced": memory, "provisioning": pool}})
    request = request_of(job, initial_assignment(job, ()), None, {})
    assert request.not_placed == NotPlaced(workers=2, attempts=3, retry_time=NOW)
    assert request.provisioning == Provisioning(pool="a100", attempts=1, retry_time=NOW)


def suspended_condition(status: str, reason: str) -> dict[str, Any]:
    return {
        **condition("Suspended", since=NOW - timedelta(minutes=5), reason=reason),
        "status": status,
    }


@pytest.mark.parametrize(
    ("conditions", "minutes"),
    [
        pytest.param([], 120, id="never suspended"),
        pytest.param([suspended_condition("False", "NotRequested")], 120, id="so its status says"),
        pytest.param([suspended_condition("False", "Resumed")], 5, id="resumed"),
    ],
)
def test_time_in_the_queue_counts_since_the_job_asks_without_a_break(
    conditions: list[dict[str, Any]], minutes: int
) -> None:
    job = make_job(status={"conditions": conditions})
    request = request_of(job, ScalingStatus(), None, {})
    assert NOW - request.queued_at == timedelta(minutes=minutes)


def test_a_job_that_has_just_been_resumed_is_behind_all_others() -> None:
    job = make_job(status={"conditions": [suspended_condition("True", "Requested")]})
    assert request_of(job, ScalingStatus(), None, {}).queued_at > NOW
