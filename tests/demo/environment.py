"""The demo's environment: the cluster, the images, the Helm release and the jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.apply import apply
from tools.localcluster import Cluster, ClusterOptions, open_cluster
from tools.localcluster.cache import content_key
from tools.localcluster.commands import run
from trainyard.api import names
from trainyard.cluster.client import KubeClient, collection

ROOT = Path(__file__).parents[2]
CHART = ROOT / "manifests" / "charts" / "trainyard"
MANIFESTS = Path(__file__).with_name("jobs.yaml")
IMAGES = ("trainyard-operator:0.1.0", "trainyard-trainer:0.1.0")
NAME = "trainyard"
"""The cluster of the end-to-end tests, so that the images are loaded once."""
NAMESPACE = "default"
SYSTEM = "trainyard-system"


def start_cluster() -> Cluster:
    """The demo's cluster, with both images loaded."""
    cluster = open_cluster(ClusterOptions(name=NAME))
    for tag in IMAGES:
        cluster.load_image(tag)
    return cluster


def install(cluster: Cluster, *settings: str) -> None:
    """Install or upgrade the Helm release, and wait until the operator is ready."""
    run(
        [
            cluster.helm,
            *("--kubeconfig", cluster.kubeconfig),
            *("upgrade", "--install", "trainyard", CHART),
            *("--namespace", SYSTEM, "--create-namespace"),
            *("--wait", "--timeout", "3m"),
            *("--set-string", f"podAnnotations.source={source_key()}"),
            *(argument for setting in settings for argument in ("--set", setting)),
        ],
        timeout_seconds=240,
    )


def source_key() -> str:
    """A hash of the operator's code, which replaces pods of older code with the same tag."""
    folder = ROOT / "operator" / "trainyard"
    return content_key([], folder.rglob("*.py"), ROOT)


def manifests() -> list[dict[str, Any]]:
    """The PersistentVolumeClaims and the jobs."""
    return list(yaml.safe_load_all(MANIFESTS.read_text()))


def job_manifest(kind: str) -> dict[str, Any]:
    """The job of this kind."""
    return next(m for m in manifests() if m["kind"] == kind)


def collections() -> Iterator[tuple[str, dict[str, Any]]]:
    """The path of the collection and the manifest of each object."""
    for manifest in manifests():
        plural = names.PLURALS.get(manifest["kind"], "persistentvolumeclaims")
        yield collection(manifest["apiVersion"], plural, NAMESPACE), manifest


async def submit(client: KubeClient) -> dict[str, str]:
    """Apply the manifests; returns the path of each kind's job."""
    jobs = {}
    for parent, manifest in collections():
        path = f"{parent}/{manifest['metadata']['name']}"
        await apply(client, path, manifest)
        if manifest["kind"] in names.PLURALS:
            jobs[manifest["kind"]] = path
    return jobs
