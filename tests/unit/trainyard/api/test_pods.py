"""Pods as kubelets, schedulers and users write them, reduced to what decisions need."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.jobs import KEY, NOW, UID, ago, at
from trainyard.api.pods import Pod, parse_pod

LABELS = {
    "app.kubernetes.io/managed-by": "trainyard",
    "trainyard.dev/kind": "DistributedJob",
    "trainyard.dev/job": "digits",
    "trainyard.dev/role": "worker",
    "trainyard.dev/index": "3",
    "trainyard.dev/attempt": "2",
}


def parsed(
    status: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **meta: Any
) -> Pod:
    return parse_pod(
        {
            "metadata": {
                "namespace": KEY.namespace,
                "name": "digits-worker-3-2",
                "uid": "u",
                "resourceVersion": "12",
                "creationTimestamp": at(),
                "labels": LABELS,
                "ownerReferences": [{"uid": UID}],
                **meta,
            },
            "spec": spec or {"containers": []},
            **({} if status is None else {"status": status}),
        }
    )


def ended(name: str = "trainer", **fields: Any) -> dict[str, Any]:
    return {"name": name, "state": {"terminated": {"exitCode": 0, **fields}}}


def gpus(*limits: Any) -> dict[str, Any]:
    containers = [{"resources": {"limits": {"nvidia.com/gpu": limit}}} for limit in limits]
    return {"containers": [{}, {"resources": None}, *containers]}


def test_a_grace_period_of_any_length_is_accepted() -> None:
    """It crashed the operator: the difference was out of the range of `datetime`."""
    meta: dict[str, Any] = {"deletionTimestamp": at(), "deletionGracePeriodSeconds": 10**14}
    pod = parsed({"phase": "Failed", "containerStatuses": [ended(finishedAt=at())]}, **meta)
    assert pod.is_disrupted


def test_a_pod_of_ours_has_a_job_a_role_and_an_index() -> None:
    pod = parsed({"phase": "Running", "podIP": "10.1.2.3"}, {"nodeName": "n1", "containers": []})
    assert (pod.job, pod.owner_uid, pod.role) == (KEY, UID, "worker")
    assert (pod.index, pod.attempt, pod.resource_version) == (3, 2, 12)
    assert (pod.node, pod.ip, pod.created_at) == ("n1", "10.1.2.3", NOW)
    assert pod.is_running
    assert not pod.is_finished


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param({}, id="none"),
        pytest.param({"trainyard.dev/job": "digits"}, id="not managed by us"),
        pytest.param({"app.kubernetes.io/managed-by": "trainyard"}, id="of no job"),
        pytest.param({**LABELS, "app.kubernetes.io/managed-by": "helm"}, id="another's"),
    ],
)
def test_a_pod_that_is_not_ours_has_no_job(labels: dict[str, str]) -> None:
    pod = parsed(labels=labels)
    assert (pod.job, pod.owner_uid) == (None, "")


@pytest.mark.parametrize("text", ["", "-1", "x", "1.5", "²"])
def test_a_label_that_is_not_a_number_counts_as_zero(text: str) -> None:
    pod = parsed(labels={**LABELS, "trainyard.dev/index": text, "trainyard.dev/attempt": text})
    assert (pod.index, pod.attempt) == (0, 0)


def test_a_pod_that_has_just_been_created_has_no_status() -> None:
    pod = parsed()
    assert (pod.phase, pod.is_live, pod.is_running) == ("Pending", True, False)


def test_a_pod_without_an_owner_has_no_owner_uid() -> None:
    assert parsed(ownerReferences=[]).owner_uid == ""


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param(gpus("4"), {"nvidia.com/gpu": 4, "pods": 1}, id="one container"),
        pytest.param(gpus("4", 2), {"nvidia.com/gpu": 6, "pods": 1}, id="containers add up"),
        pytest.param({"containers": []}, {"pods": 1}, id="none"),
        pytest.param(
            {"containers": [{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]},
            {"cpu": 1000, "memory": 2**30, "pods": 1},
            id="no accelerator",
        ),
    ],
)
def test_requests_are_counted(spec: dict[str, Any], expected: dict[str, int]) -> None:
    assert parsed(spec=spec).requests == expected


def test_the_termination_of_our_container_counts_not_that_of_another() -> None:
    """Kubelets sort containers by name, and a mesh's comes before ours."""
    mesh, ours = ended("istio-proxy"), ended(exitCode=1, reason="Error", message="error")
    pod = parsed({"phase": "Failed", "containerStatuses": [mesh, ours]})
    assert (pod.exit_code, pod.reason, pod.termination_message) == (1, "Error", "error")


RUNNING = {"running": {"startedAt": at()}}


def beside(state: dict[str, Any], *others: dict[str, Any], phase: str = "Running") -> Pod:
    """A pod whose trainer is in that state, after the containers of a mesh."""
    ours = {"name": "trainer", "state": state}
    return parsed({"phase": phase, "containerStatuses": [*others, ours]})


@pytest.mark.parametrize(
    ("exit_code", "outcome"), [(0, "Succeeded"), (1, "Failed"), (64, "Failed"), (143, "Failed")]
)
def test_a_trainer_that_ended_beside_a_sidecar_has_ended(exit_code: int, outcome: str) -> None:
    """Its pod is Running for as long as the side-car is."""
    end = {"terminated": {"exitCode": exit_code, "message": "m", "finishedAt": at()}}
    pod = beside(end, {"name": "istio-proxy", "state": RUNNING})
    assert (pod.outcome, pod.exit_code, pod.termination_message) == (outcome, exit_code, "m")
    assert (pod.is_finished, pod.has_failed) == (True, exit_code != 0)
    assert (pod.is_running, pod.is_live) == (False, False)
    assert (pod.lingers, pod.holds_resources) == (True, True)
    assert pod.as_pod_info().is_deleting, "its resources are its replacement's"


def test_a_native_sidecar_is_ended_by_the_kubelet() -> None:
    status = {
        "phase": "Running",
        "initContainerStatuses": [{"name": "istio-proxy", "state": RUNNING}],
        "containerStatuses": [ended(exitCode=1, finishedAt=at())],
    }
    pod = parsed(status)
    assert (pod.is_finished, pod.has_failed, pod.holds_resources) == (True, True, True)
    assert not pod.lingers


@pytest.mark.parametrize(
    ("sidecar", "phase"),
    [
        pytest.param({"terminated": {"exitCode": 1, "message": "x"}}, "Running", id="failed"),
        pytest.param({"terminated": {"exitCode": 0}}, "Running", id="ended"),
        pytest.param({"waiting": {"reason": "ContainerCreating"}}, "Pending", id="starts"),
    ],
)
def test_a_trainer_that_runs_has_not_ended_whatever_a_sidecar_does(
    sidecar: dict[str, Any], phase: str
) -> None:
    pod = beside(RUNNING, {"name": "istio-proxy", "state": sidecar}, phase=phase)
    assert (pod.is_live, pod.lingers, pod.outcome) == (True, False, "")
    assert (pod.exit_code, pod.termination_message, pod.ended_at) == (None, "", None)


def test_a_sidecar_that_is_killed_with_the_pod_makes_no_failure_of_a_success() -> None:
    """Its exit code makes the pod Failed."""
    mesh = ended("istio-proxy", exitCode=143)
    pod = beside(ended(exitCode=0, message="m")["state"], mesh, phase="Failed")
    assert (pod.has_failed, pod.lingers, pod.holds_resources) == (False, False, False)


def test_the_reason_of_a_whole_pod_goes_over_its_containers() -> None:
    """A trainer that ends well when its node evicts it may have saved nothing."""
    pod = parsed({"phase": "Failed", "reason": "Evicted", "containerStatuses": [ended()]})
    assert (pod.has_failed, pod.is_disrupted, pod.outcome) == (True, True, "")


@pytest.mark.parametrize("finished_at", [at(), at(ago(seconds=121))])
def test_a_deleted_trainer_that_ends_before_its_sidecar_is_disrupted_in_time(
    finished_at: str,
) -> None:
    status = {
        "phase": "Running",
        "containerStatuses": [
            {"name": "a-mesh", "state": RUNNING},
            ended(exitCode=143, finishedAt=finished_at),
        ],
    }
    pod = parsed(status, deletionTimestamp=at(), deletionGracePeriodSeconds=120)
    assert pod.is_disrupted is (finished_at == at())


def test_a_pod_that_failed_before_its_trainer_began_says_why() -> None:
    """Of the init container that a mesh added, as the trainer has no end."""
    status = {
        "phase": "Failed",
        "initContainerStatuses": [ended("first"), ended("istio-init", exitCode=2, message="no")],
        "containerStatuses": [
            {"name": "trainer", "state": {"waiting": {"reason": "PodInitializing"}}}
        ],
    }
    pod = parsed(status)
    assert (pod.has_failed, pod.exit_code, pod.termination_message) == (True, 2, "no")


@pytest.mark.parametrize(("ours", "expected"), [("waiting", "ErrImagePull"), ("running", "")])
def test_an_init_container_keeps_a_trainer_from_starting_only_before_it_runs(
    ours: str, expected: str
) -> None:
    pull = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
    own = {"waiting": {"reason": "PodInitializing"}, "running": {"startedAt": at()}}[ours]
    status = {
        "phase": "Pending",
        "initContainerStatuses": [{"name": "istio-init", "state": pull}],
        "containerStatuses": [{"name": "trainer", "state": {ours: own}}],
    }
    assert parsed(status).waiting_reason == expected


def test_a_container_that_the_kubelet_lost_track_of_has_no_end_time() -> None:
    lost = ended(exitCode=137, reason="ContainerStatusUnknown", finishedAt=None)
    pod = parsed({"phase": "Failed", "containerStatuses": [lost]})
    assert (pod.exit_code, pod.ended_at) == (137, None)


def test_an_evicted_pod_has_a_reason_of_its_own() -> None:
    pod = parsed({"phase": "Failed", "reason": "Evicted", "message": "low on memory"})
    assert (pod.reason, pod.termination_message, pod.exit_code) == (
        "Evicted",
        "low on memory",
        None,
    )
    assert pod.is_disrupted


@pytest.mark.parametrize(
    ("truth", "expected"), [("True", True), ("False", False), ("Unknown", False)]
)
def test_a_drained_pod_is_disrupted(truth: str, expected: bool) -> None:
    conditions = [{"type": "DisruptionTarget", "status": truth, "reason": "EvictionByEvictionAPI"}]
    assert parsed({"conditions": conditions}).is_disrupted is expected


@pytest.mark.parametrize(
    ("meta", "finished_at", "expected"),
    [
        pytest.param({}, at(), False, id="not deleted"),
        pytest.param(
            {"deletionTimestamp": at(), "deletionGracePeriodSeconds": 120},
            at(ago(seconds=30)),
            True,
            id="ended in its grace period",
        ),
        pytest.param(
            {"deletionTimestamp": at(), "deletionGracePeriodSeconds": 120},
            at(ago(seconds=121)),
            False,
            id="had failed before",
        ),
        pytest.param({"deletionTimestamp": at()}, at(), True, id="no grace"),
        pytest.param({}, None, False, id="end unknown, not deleted"),
        pytest.param({"deletionTimestamp": at()}, None, True, id="end unknown"),
        pytest.param({"deletionTimestamp": at()}, "1970-01-01T00:00:00Z", True, id="never began"),
    ],
)
def test_a_pod_that_ends_because_it_was_deleted_is_disrupted(
    meta: dict[str, Any], finished_at: str | None, expected: bool
) -> None:
    status = {
        "phase": "Failed",
        "containerStatuses": [ended(exitCode=137, finishedAt=finished_at)],
    }
    assert parsed(status, **meta).is_disrupted is expected


@pytest.mark.parametrize(("phase", "expected"), [("Failed", True), ("Pending", False)])
def test_a_pod_that_is_deleted_before_it_has_containers_is_disrupted(
    phase: str, expected: bool
) -> None:
    assert parsed({"phase": phase}, deletionTimestamp=at()).is_disrupted is expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param({}, "", id="none"),
        pytest.param(
            {"containerStatuses": [{"name": "trainer", "state": {"waiting": {}}}]},
            "",
            id="no reason",
        ),
        pytest.param(
            {
                "containerStatuses": [
                    {"name": "trainer", "state": {"waiting": {"reason": "ContainerCreating"}}}
                ]
            },
            "",
            id="starting",
        ),
        pytest.param(
            {
                "containerStatuses": [
                    {"name": "trainer", "state": {"waiting": {"reason": "ErrImagePull"}}}
                ]
            },
            "ErrImagePull",
            id="no image",
        ),
        pytest.param(
            {
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
                ]
            },
            "Unschedulable",
            id="no node",
        ),
        pytest.param(
            {"conditions": [{"type": "PodScheduled", "status": "True"}]}, "", id="has a node"
        ),
    ],
)
def test_why_a_pod_cannot_start(status: dict[str, Any], expected: str) -> None:
    assert parsed(status).waiting_reason == expected


@pytest.mark.parametrize(("node", "message"), [("", "Insufficient cpu"), ("n1", "")])
def test_a_pod_without_a_node_carries_kube_schedulers_message(node: str, message: str) -> None:
    pod = Pod(
        namespace="team",
        name="digits-worker-0-1",
        uid="u",
        resource_version=1,
        created_at=NOW,
        job=KEY,
        node=node,
        waiting_reason="Unschedulable",
        waiting_message="Insufficient cpu",
    )
    info = pod.as_pod_info()
    assert (info.scheduling_message, info.created_at) == (message, NOW)
    assert replace(pod, job=None).as_pod_info().created_at is None
