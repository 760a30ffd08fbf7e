"""The surface of a FederatedJob: defaults, status, `kubectl explain`, columns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kubernetes import client

from tests.integration.crd_cases import (
    FAILURE_DEFAULTS,
    FEDERATED,
    Jobs,
    Manifest,
    error_message,
    kubectl,
    merged,
)
from tools.localcluster import Cluster

pytestmark = pytest.mark.integration

DEFAULTS = {
    "task": {"entrypoint": "a.b:C"},
    "image": "i:1",
    "parties": [{"name": "a", "external": False, "gpus": 0, "gpuResource": "nvidia.com/gpu"}],
    "rounds": {
        "max": 10,
        "minParties": 1,
        "fraction": 1,
        "sampling": "Uniform",
        "deadline": "5m",
    },
    "training": {"localEpochs": 1, "batchSize": 32, "seed": 0},
    "strategy": {"name": "FedAvg"},
    "update": {"compression": "None", "weights": "Samples", "buffers": "Average"},
    "failure": FAILURE_DEFAULTS,
    "suspend": False,
}

STATUS: Manifest = {
    "observedGeneration": 1,
    "phase": "Running",
    "conditions": [
        {
            "type": "Running",
            "status": "True",
            "reason": "PartiesRunning",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "observedGeneration": 1,
        }
    ],
    "term": 2,
    "restarts": 1,
    "planGeneration": 4,
    "startTime": "2026-01-01T00:00:00Z",
    "failures": [
        {"podName": "heart-party-ann-1", "podUID": "2f0c", "exitCode": 1, "reason": "Error"}
    ],
    "admission": {
        "parties": ["ann", "bob"],
        "reason": "Admitted",
        "message": "admitted with 2 parties: no GPU",
        "decisionTime": "2026-01-01T00:00:00Z",
        "cooldownEndTime": "2026-01-01T00:01:00Z",
    },
    "training": {
        "term": 2,
        "round": 12,
        "roundsLost": 1,
        "bestRound": 11,
        "roundSeconds": 1.5,
        "parties": 2,
        "samples": 6_000_000_000,
        "loss": 0.25,
        "evaluation": {"eval/accuracy": 0.9},
        "reportTime": "2026-01-01T00:00:06Z",
    },
    "parties": [
        {
            "name": "ann",
            "state": "Refused",
            "podName": "heart-party-ann-2",
            "rounds": 11,
            "samples": 303,
            "seconds": 1.25,
            "refused": 1,
            "lastRefusal": "NotFinite",
        },
        {
            "name": "bob",
            "state": "LeftOut",
            "failure": {
                "podName": "heart-party-bob-4",
                "podUID": "0c1d",
                "exitCode": 64,
                "reason": "Error",
                "message": "party bob (pod heart-party-bob-4) failed with exit code 64",
                "failureTime": "2026-01-01T00:00:05Z",
                "count": 4,
                "losses": 0,
                "leftOut": 1,
                "rounds": 3,
                "generation": 2,
                "retryTime": "2026-01-01T00:10:05Z",
            },
        },
    ],
    "coordinatorRestarts": 1,
}


@pytest.fixture(scope="module")
def jobs(api: client.ApiClient, namespace: str) -> Jobs:
    return Jobs(api, namespace, FEDERATED)


@pytest.fixture
def heart(jobs: Jobs) -> Iterator[str]:
    """Store a job and yield its name."""
    jobs.create(merged(FEDERATED.base, {"metadata": {"name": "heart"}}), dry_run=False)
    yield "heart"
    jobs.delete("heart")


def test_defaults_are_filled_in_as_documented(jobs: Jobs) -> None:
    spec = {"task": {"entrypoint": "a.b:C"}, "image": "i:1", "parties": [{"name": "a"}]}
    assert jobs.create({**FEDERATED.base, "spec": spec})["spec"] == DEFAULTS


def test_the_status_accepts_every_field_that_the_operator_writes(jobs: Jobs, heart: str) -> None:
    assert jobs.patch_status(heart, {"status": STATUS})["status"] == STATUS


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"phase": "Rescaling"}, "status.phase"),
        ({"parties": [{"name": "a", "state": "Idle"}] * 2}, "Duplicate value"),
        ({"admission": {"parties": ["a", "a"]}}, "Duplicate value"),
        ({"parties": [{"name": "a"}]}, "status.parties[0].state"),
    ],
)
def test_an_invalid_status_is_rejected(
    jobs: Jobs, heart: str, status: Manifest, expected: str
) -> None:
    with pytest.raises(client.ApiException) as caught:
        jobs.patch_status(heart, {"status": status})
    assert expected in error_message(caught.value)


def test_kubectl_shows_the_columns(
    api_cluster: Cluster, jobs: Jobs, namespace: str, heart: str
) -> None:
    jobs.patch_status(heart, {"status": STATUS})
    output = kubectl(api_cluster, "get", "fj", heart, "--namespace", namespace)
    columns, row = (line.split() for line in output.splitlines())
    assert columns == ["NAME", "PHASE", "ROUND", "MAX", "PARTIES", "LOSS", "AGE"]
    assert row[:6] == ["heart", "Running", "12", "10", "2", "0.25"]


def test_the_category_lists_both_kinds(api_cluster: Cluster, namespace: str, heart: str) -> None:
    listed = kubectl(api_cluster, "get", "trainyard", "--namespace", namespace, "--output=name")
    assert f"federatedjob.trainyard.dev/{heart}" in listed.split()


def test_the_number_of_parties_cannot_be_scaled(
    api: client.ApiClient, namespace: str, heart: str
) -> None:
    with pytest.raises(client.ApiException) as caught:
        client.CustomObjectsApi(api).get_namespaced_custom_object_scale(
            "trainyard.dev", "v1alpha1", namespace, "federatedjobs", heart
        )
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("fj.spec.parties", "Parties may be added at any time, never removed"),
        ("fj.spec.rounds.minParties", "The quorum"),
        ("fj.status.parties.state", "AwaitsEnrolment"),
    ],
)
def test_explain_shows_the_description(api_cluster: Cluster, path: str, expected: str) -> None:
    output = kubectl(api_cluster, "explain", path)
    assert expected in " ".join(output.split())
