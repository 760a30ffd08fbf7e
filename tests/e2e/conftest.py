"""A real cluster with Trainyard installed by Helm; each test has a namespace of its own."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.demo.environment import IMAGES, NAME, install
from tests.e2e.testbed import Testbed
from tools.localcluster import Cluster, ClusterOptions, open_cluster
from trainyard.cluster.client import KubeClient

CLUSTER = os.environ.get("TRAINYARD_CLUSTER", NAME)
RELEASE_SETTINGS = ("scrapeInterval=1s",)
HOSPITALS = ("budapest", "cleveland", "long-beach")
CPU = "1"
"""The limit of a worker, for a fast start rather than a constant speed."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, with both images loaded and the release installed."""
    with open_cluster(ClusterOptions(name=CLUSTER)) as opened:
        for tag in IMAGES:
            opened.load_image(tag)
        install(opened, *RELEASE_SETTINGS)
        yield opened


@pytest.fixture
async def testbed(cluster: Cluster) -> AsyncIterator[Testbed]:
    """A namespace in which the restricted Pod Security Standard is enforced."""
    async with await KubeClient.connect(cluster.kubeconfig) as client:
        created = Testbed(client, f"e2e-{uuid.uuid4().hex[:8]}")
        await created.open(**{"pod-security.kubernetes.io/enforce": "restricted"})
        yield created
        await created.close()


def digits(name: str, **spec: Any) -> dict[str, Any]:
    """A small DistributedJob on the digits data set, with `spec` merged into its spec."""
    base: dict[str, Any] = {
        "task": {"entrypoint": "trainyard_trainer.tasks.digits:Digits"},
        "image": "trainyard-trainer:0.1.0",
        "workers": {
            "min": 1,
            "max": 4,
            "replicas": 1,
            "gpus": 1,
            "resources": {"requests": {"cpu": "50m"}, "limits": {"cpu": CPU, "memory": "2Gi"}},
        },
        "training": {"batchSize": 256, "epochs": 400},
        "scaling": {"policy": "Manual"},
    }
    return {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "DistributedJob",
        "metadata": {"name": name},
        "spec": merge(base, spec),
    }


def hospitals(name: str, **spec: Any) -> dict[str, Any]:
    """A FederatedJob of three hospitals and four rounds, with `spec` merged into its spec."""
    share = {"requests": {"cpu": "50m"}, "limits": {"cpu": CPU, "memory": "2Gi"}}
    base: dict[str, Any] = {
        "task": {"entrypoint": "trainyard_trainer.tasks.heart:Heart"},
        "image": "trainyard-trainer:0.1.0",
        "parties": [{"name": hospital, "resources": share} for hospital in HOSPITALS],
        "rounds": {"max": 4, "minParties": 2, "deadline": "20s"},
        "training": {"batchSize": 4, "localEpochs": 2},
    }
    return {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {"name": name},
        "spec": merge(base, spec),
    }


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` merged recursively into `base`."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge(result[key], value) if both else value
    return result


def claim(name: str) -> dict[str, Any]:
    """A PersistentVolumeClaim of the default storage class."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
