"""`python -m tests.demo up|down`: the demo from nothing to its summary; asks for nothing."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.demo import stage
from tests.demo.incident import Incident
from tests.demo.reference import run_reference
from tests.demo.summary import Ending, summary
from tests.demo.watch import watch
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
    """Set the stage, train, and sum up."""
    began = time.monotonic()
    console.rule("A real Kubernetes cluster")
    cluster = stage.start_cluster()
    console.rule("Trainyard, installed with Helm")
    stage.install(cluster)
    console.print(f"The operator runs in the namespace {stage.SYSTEM}.")
    console.rule("A DistributedJob that grows while it pays, and a FederatedJob that loses a party")
    return asyncio.run(_train(cluster, began))


def down() -> int:
    """End the demo's cluster."""
    provider_for(ClusterOptions(name=stage.NAME)).down(stage.NAME)
    console.print("The demo's cluster is gone; what was built stays in the cache.")
    return 0


async def _train(cluster: Cluster, began: float) -> int:
    async with await KubeClient.connect(cluster.kubeconfig) as client:
        paths = await _fresh(client)
        incident = Incident(client, collection("v1", "pods", stage.NAMESPACE))
        jobs = await watch(client, paths, console, incident, TRAINING_SECONDS)
        if failed := [job for job in jobs.values() if job["status"]["phase"] == Phase.FAILED]:
            for job in failed:
                console.print(f"[red]{job['metadata']['name']} failed:[/red] {_message(job)}")
            return 1
        endings = {kind: await _ending(client, job) for kind, job in jobs.items()}
    grown, federated = (endings[kind] for kind in (names.DISTRIBUTED_JOB, names.FEDERATED_JOB))
    console.print(summary(grown, federated, incident))
    console.print(f"All of it took {time.monotonic() - began:.0f} s. To look around:")
    console.print(f"  export KUBECONFIG={cluster.kubeconfig}", soft_wrap=True)
    console.print("  kubectl describe dj mnist; kubectl describe fj hospitals")
    console.print("  make demo-down      # when done")
    return 0


async def _fresh(client: KubeClient) -> dict[str, str]:
    """The paths of new jobs; an earlier demo's are deleted first."""
    for where, manifest in reversed(list(stage.paths())):
        path = f"{where}/{manifest['metadata']['name']}"
        await client.delete(path)
        await _until_gone(client, path)
    return await stage.submit(client)


async def _until_gone(client: KubeClient, path: str) -> None:
    where, _, name = path.rpartition("/")
    async with asyncio.timeout(180):
        while any([o["metadata"]["name"] == name async for o in client.list_all(where)]):
            await asyncio.sleep(0.5)


def _message(job: dict[str, Any]) -> str:
    failed = [c for c in job["status"]["conditions"] if c["type"] == "Failed"]
    return str(failed[0]["message"]) if failed else "no reason given"


async def _ending(client: KubeClient, job: dict[str, Any]) -> Ending:
    """Where the job ran, what it brought, and what the reference brings."""
    kind, name = job["kind"], job["metadata"]["name"]
    nodes = await _nodes(client, name)
    with tempfile.TemporaryDirectory(prefix="trainyard-demo-") as folder:
        result = await _fetch(client, f"{SHORT[kind]}/{name}", Path(folder, "job"))
        with console.status(f"The reference of {name}: training in one process"):
            reference = await asyncio.to_thread(run_reference, kind, Path(folder, "reference"))
    return Ending(job=job, nodes=nodes, result=result, reference=reference)


async def _nodes(client: KubeClient, name: str) -> set[str]:
    path = collection("v1", "pods", stage.NAMESPACE)
    selector = f"{names.LABEL_JOB}={name}"
    return {
        pod["spec"].get("nodeName", "?")
        async for pod in client.list_all(path, label_selector=selector)
    }


async def _fetch(client: KubeClient, job: str, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    await fetch(client, parse_target(job, stage.NAMESPACE), folder)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


if __name__ == "__main__":
    sys.exit(main())
