"""The surface of a DistributedJob: defaults, scale, status, `kubectl explain`, columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from tests.integration.crd_cases import (
    BASE,
    FAILURE_DEFAULTS,
    Jobs,
    Manifest,
    error_message,
    kubectl,
    merged,
)
from tools.localcluster import Cluster

pytestmark = pytest.mark.integration

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"

DEFAULTS = {
    "task": {"entrypoint": "a.b:C"},
    "image": "i:1",
    "workers": {"min": 1, "max": 1, "replicas": 1, "gpus": 1, "gpuResource": "nvidia.com/gpu"},
    "training": {"batchSize": 256, "epochs": 1, "seed": 0, "precision": "FP32"},
    "sync": {"algorithm": "AllReduce", "interval": 1, "compression": "None"},
    "scaling": {
        "weight": 1,
        "policy": "Throughput",
        "mode": "Apply",
        "cooldown": "60s",
        "maxChangesPerHour": 12,
        "minGain": 1.05,
    },
    "checkpoint": {"interval": "2m", "keep": 3},
    "failure": FAILURE_DEFAULTS,
    "suspend": False,
}

STATUS: Manifest = {
    "observedGeneration": 1,
    "phase": "Rescaling",
    "conditions": [
        {
            "type": "Accepted",
            "status": "True",
            "reason": "Accepted",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "observedGeneration": 1,
        },
        {
            "type": "Rescaling",
            "status": "True",
            "reason": "GrowPays",
            "message": "2 workers become 3.",
            "lastTransitionTime": "2026-01-01T00:00:07Z",
        },
    ],
    "selector": "trainyard.dev/job=status,trainyard.dev/role=worker",
    "replicas": 3,
    "term": 2,
    "restarts": 1,
    "planGeneration": 4,
    "startTime": "2026-01-01T00:00:00Z",
    "failures": [
        {
            "podName": "status-worker-0-1",
            "podUID": "2f0c",
            "exitCode": 137,
            "reason": "OOMKilled",
            "message": "",
            "failureTime": "2026-01-01T00:00:05Z",
        }
    ],
    "training": {
        "term": 2,
        "view": 3,
        "step": 120,
        "epoch": 1.5,
        "samples": 6_000_000_000,
        "loss": 0.25,
        "evaluation": {"eval/accuracy": 0.9},
        "samplesPerSecond": 1234.5,
        "workers": 2,
        "checkpointStep": -1,
        "reportTime": "2026-01-01T00:00:06Z",
    },
    "scaling": {
        "current": 2,
        "desired": 3,
        "recommended": 3,
        "proven": 2,
        "reason": "GrowPays",
        "message": "A third worker should bring 1.4 times the throughput.",
        "expectedSpeedup": 1.4,
        "measuredSpeedup": 1.3,
        "decisionTime": "2026-01-01T00:00:07Z",
        "cooldownEndTime": "2026-01-01T00:01:07Z",
        "stallSeconds": 0.02,
        "costGPUSeconds": 5.5,
        "notPlaced": {"workers": 2, "attempts": 3, "retryTime": "2026-01-01T00:20:00Z"},
        "provisioning": {"pool": "a100", "attempts": 1, "retryTime": "2026-01-01T00:20:00Z"},
        "history": [
            {"from": 1, "to": 2, "reason": "GrowPays", "decisionTime": "2026-01-01T00:00:01Z"},
            {
                "from": 2,
                "to": 1,
                "reason": "ShrinkDoesNotPay",
                "decisionTime": "2026-01-01T00:00:05Z",
                "message": "1→2 did not pay: shrinking 2→1",
            },
        ],
        "profile": [
            {"nodes": 1, "workers": 1, "localBatch": 256, "samplesPerSecond": 700, "steps": 50},
            {
                "nodes": 1,
                "workers": 2,
                "localBatch": 128,
                "samplesPerSecond": 900,
                "steps": 50,
                "sampleTimes": {"blocks": 9, "mean": 0.00111, "deviation": 0.000021},
            },
        ],
    },
}


@pytest.fixture(scope="module")
def jobs(api: client.ApiClient, namespace: str) -> Jobs:
    return Jobs(api, namespace)


@pytest.fixture
def manual(jobs: Jobs) -> Iterator[str]:
    """Store a job under scaling.policy Manual and yield its name."""
    manifest = merged(BASE, {"metadata": {"name": "manual"}})
    jobs.create(merged(manifest, {"spec": {"scaling": {"policy": "Manual"}}}), dry_run=False)
    yield "manual"
    jobs.delete("manual")


def test_defaults_are_filled_in_as_documented(jobs: Jobs) -> None:
    bare = {**BASE, "spec": {"task": {"entrypoint": "a.b:C"}, "image": "i:1"}}
    assert jobs.create(bare)["spec"] == DEFAULTS


def test_every_sample_is_accepted(api_cluster: Cluster, namespace: str) -> None:
    samples = sorted(SAMPLES.glob("*.yaml"))
    args = [arg for sample in samples for arg in ("-f", str(sample))]
    output = kubectl(api_cluster, "apply", "--namespace", namespace, "--dry-run=server", *args)
    jobs = re.findall(r"^(?:distributed|federated)job\S+ created", output, re.MULTILINE)
    assert len(jobs) >= len(samples) > 0


def test_the_scale_subresource_reads_and_writes_replicas(
    api: client.ApiClient, jobs: Jobs, namespace: str, manual: str
) -> None:
    jobs.patch_status(manual, {"status": {"replicas": 2, "selector": "a=b"}})
    scale = client.CustomObjectsApi(api)
    where = ("trainyard.dev", "v1alpha1", namespace, "distributedjobs", manual)
    before = scale.get_namespaced_custom_object_scale(*where)
    assert (before["spec"], before["status"]) == (
        {"replicas": 2},
        {"replicas": 2, "selector": "a=b"},
    )
    scale.patch_namespaced_custom_object_scale(*where, {"spec": {"replicas": 5}})
    assert jobs.patch(manual, {})["spec"]["workers"]["replicas"] == 5


def test_scaling_to_zero_is_rejected_with_the_advice_to_suspend(
    api: client.ApiClient, namespace: str, manual: str
) -> None:
    with pytest.raises(client.ApiException) as caught:
        client.CustomObjectsApi(api).patch_namespaced_custom_object_scale(
            "trainyard.dev",
            "v1alpha1",
            namespace,
            "distributedjobs",
            manual,
            {"spec": {"replicas": 0}},
        )
    assert "set suspend to true instead" in error_message(caught.value)


def test_the_status_accepts_every_field_that_the_operator_writes(jobs: Jobs, manual: str) -> None:
    stored = jobs.patch_status(manual, {"status": STATUS})
    assert stored["status"] == STATUS


def test_the_status_is_not_written_with_the_spec(jobs: Jobs, manual: str) -> None:
    assert "status" not in jobs.patch(manual, {"status": STATUS})


@pytest.mark.parametrize(
    ("status", "expected"),
    {
        "an unknown phase": ({"phase": "Sleeping"}, "status.phase"),
        "a duplicate condition": ({"conditions": [STATUS["conditions"][0]] * 2}, "Duplicate value"),
        "a condition without a reason": (
            {"conditions": [{**STATUS["conditions"][0], "reason": ""}]},
            "status.conditions[0].reason",
        ),
        "an invalid time": ({"startTime": "yesterday"}, "status.startTime"),
        "too many failures": ({"failures": [{"podName": "p"}] * 11}, "status.failures"),
    }.values(),
)
def test_an_invalid_status_is_rejected(
    jobs: Jobs, manual: str, status: dict[str, Any], expected: str
) -> None:
    with pytest.raises(client.ApiException) as caught:
        jobs.patch_status(manual, {"status": status})
    assert expected in error_message(caught.value)


def test_kubectl_shows_the_columns(
    api_cluster: Cluster, jobs: Jobs, namespace: str, manual: str
) -> None:
    jobs.patch_status(manual, {"status": STATUS})
    output = kubectl(api_cluster, "get", "dj", manual, "--namespace", namespace)
    columns, row = (line.split() for line in output.splitlines())
    assert columns == ["NAME", "PHASE", "WORKERS", "DESIRED", "STEP", "EPOCH", "LOSS", "AGE"]
    assert row[:7] == ["manual", "Rescaling", "2", "3", "120", "1.5", "0.25"]


def test_the_category_lists_jobs(api_cluster: Cluster, namespace: str, manual: str) -> None:
    listed = kubectl(api_cluster, "get", "trainyard", "--namespace", namespace, "--output=name")
    assert listed.split() == [f"distributedjob.trainyard.dev/{manual}"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("dj.spec", "suspend"),
        ("dj.spec.workers.replicas", "set scaling.policy to Manual, or change min and max"),
        ("dj.spec.scaling.cooldown", "Default 60s."),
        ("dj.status.scaling", "The decision about the number of workers"),
    ],
)
def test_explain_shows_the_description(api_cluster: Cluster, path: str, expected: str) -> None:
    output = kubectl(api_cluster, "explain", path)
    assert expected in " ".join(output.split())
