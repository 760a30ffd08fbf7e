"""`python -m tests.demo up|down`: a walkthrough from an empty machine to a summary."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.demo import environment
from tests.demo.baseline import run_baseline
from tests.demo.fault import PartyKill
from tests.demo.progress import show_progress
from tests.demo.summary import CompletedJob, summary
from tools.localcluster import Cluster, ClusterError, ClusterOptions
from tools.localcluster.cluster import provider_for
from trainyard.api import names
from trainyard.cli.fetch import fetch, parse_target
from trainyard.cluster.client import KubeClient, collection
from trainyard.lifecycle.desired import Phase

TRAINING_SECONDS = 1200.0
SHORT = {names.DISTRIBUTED_JOB: "dj", names.FEDERATED_JOB: "fj"}

console = Console()


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("command", choices=("up", "down"))
    try:
        return up() if parser.parse_args().command == "up" else down()
    except ClusterError as error:
        console.print(f"[red]error:[/red] {error}", markup=True)
        return 1


def up() -> int:
    """Start the cluster, train both jobs and print the summary."""
    started = time.monotonic()
    console.rule("A real Kubernetes cluster")
    cluster = environment.start_cluster()
    console.rule("Trainyard, installed with Helm")
    environment.install(cluster)
    console.print(f"The operator runs in the namespace {environment.SYSTEM}.")
    console.rule("A DistributedJob that scales up, and a FederatedJob that loses a party")
    return asyncio.run(_train(cluster, started))


def down() -> int:
    """Delete the demo's cluster."""
    provider_for(ClusterOptions(name=environment.NAME)).down(environment.NAME)
    console.print("The demo's cluster is deleted; the builds stay in the cache.")
    return 0


async def _train(cluster: Cluster, started: float) -> int:
    async with await KubeClient.connect(cluster.kubeconfig) as client:
        paths = await _recreate_jobs(client)
        kill = PartyKill(client, collection("v1", "pods", environment.NAMESPACE))
        jobs = await show_progress(client, paths, console, kill, TRAINING_SECONDS)
        if failed := [job for job in jobs.values() if job["status"]["phase"] == Phase.FAILED]:
            for job in failed:
                console.print(f"[red]{job['metadata']['name']} failed:[/red] {_message(job)}")
            return 1
        completed = {kind: await _completed(client, job) for kind, job in jobs.items()}
    distributed, federated = (
        completed[kind] for kind in (names.DISTRIBUTED_JOB, names.FEDERATED_JOB)
    )
    console.print(summary(distributed, federated, kill))
    console.print(f"The demo took {time.monotonic() - started:.0f} s. To look at the jobs:")
    for command in further_commands(cluster):
        console.print(f"  {command}", soft_wrap=True)
    return 0


def further_commands(cluster: Cluster) -> list[str]:
    """What to type next, with the kubectl of this machine or else the cluster's own."""
    kubectl = "kubectl" if shutil.which("kubectl") else cluster.kubectl
    return [
        f"export KUBECONFIG={cluster.kubeconfig}",
        *(f"{kubectl} describe {target}" for target in ("dj mnist", "fj hospitals")),
        "make demo-down      # when done",
    ]


async def _recreate_jobs(client: KubeClient) -> dict[str, str]:
    """Create the jobs, after those of an earlier demo are deleted; returns the path by kind."""
    for parent, manifest in reversed(list(environment.collections())):
        path = f"{parent}/{manifest['metadata']['name']}"
        await client.delete(path)
        await _wait_until_deleted(client, path)
    return await environment.submit(client)


async def _wait_until_deleted(client: KubeClient, path: str) -> None:
    parent, _, name = path.rpartition("/")
    async with asyncio.timeout(180):
        while any([o["metadata"]["name"] == name async for o in client.list_all(parent)]):
            await asyncio.sleep(0.5)


def _message(job: dict[str, Any]) -> str:
    failed = [c for c in job["status"]["conditions"] if c["type"] == "Failed"]
    return str(failed[0]["message"]) if failed else "no reason given"


async def _completed(client: KubeClient, job: dict[str, Any]) -> CompletedJob:
    """The job with its nodes, its result and the result of its baseline."""
    kind, name = job["kind"], job["metadata"]["name"]
    nodes = await _nodes(client, name)
    with tempfile.TemporaryDirectory(prefix="trainyard-demo-") as folder:
        result = await _fetch(client, f"{SHORT[kind]}/{name}", Path(folder, "job"))
        with console.status(f"The baseline of {name}: training in one process"):
            baseline = await asyncio.to_thread(run_baseline, kind, Path(folder, "baseline"))
    return CompletedJob(job=job, nodes=nodes, result=result, baseline=baseline)


async def _nodes(client: KubeClient, name: str) -> set[str]:
    path = collection("v1", "pods", environment.NAMESPACE)
    selector = f"{names.LABEL_JOB}={name}"
    return {
        pod["spec"].get("nodeName", "?")
        async for pod in client.list_all(path, label_selector=selector)
    }


async def _fetch(client: KubeClient, job: str, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    await fetch(client, parse_target(job, environment.NAMESPACE), folder)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


if __name__ == "__main__":
    sys.exit(main())
