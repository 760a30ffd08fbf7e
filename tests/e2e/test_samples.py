"""Every sample runs to its documented end, a few at a time."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.testbed import Testbed, party, training
from tests.support.apply import apply
from tests.support.testbed import scaling
from trainyard.api import names
from trainyard.cluster.client import collection
from trainyard.cluster.errors import ApiError

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"
FILES = sorted(SAMPLES.glob("*.yaml"))
SECONDS = 240.0
CONCURRENCY = 3
"""Files at a time; more would only wait for a CPU core, as every process imports PyTorch."""


@pytest.mark.timeout(SECONDS * math.ceil(len(FILES) / CONCURRENCY))
async def test_every_sample_reaches_its_documented_end(testbed: Testbed) -> None:
    checks = {
        "digits": _reaches_its_target,
        "suspend": _resumes,
        "deadline": _is_deleted,
        "recommend": _gets_a_recommendation,
        "surrogate": _reaches_its_target,
        "federated-mnist": _reaches_its_target,
        "lenders": _reaches_its_target,
        "makers": _reaches_its_target,
        "own-records": _reads_its_own_records,
    }
    semaphore = asyncio.Semaphore(CONCURRENCY)
    completed: list[str] = []

    async def run(file: Path) -> None:
        async with semaphore:
            jobs = await _apply(testbed, file)
            completed.extend(jobs)
            await asyncio.gather(*(checks.get(name, _completes)(testbed, name) for name in jobs))

    await asyncio.gather(*(run(file) for file in FILES))
    assert checks.keys() <= set(completed)


async def _apply(testbed: Testbed, file: Path) -> list[str]:
    """Create the objects of the file; returns the names of its jobs."""
    jobs = []
    for manifest in yaml.safe_load_all(file.read_text()):
        name = manifest["metadata"]["name"]
        match manifest["kind"]:
            case names.DISTRIBUTED_JOB | names.FEDERATED_JOB:
                await testbed.create_job(manifest)
                jobs.append(name)
            case "ConfigMap":
                await testbed.create("configmaps", manifest)
            case "PersistentVolumeClaim":
                await testbed.create("persistentvolumeclaims", manifest)
            case "PriorityClass":
                path = collection("scheduling.k8s.io/v1", "priorityclasses")
                await apply(testbed.client, f"{path}/{name}", manifest)
            case "Job":
                await testbed.client.create(
                    collection("batch/v1", "jobs", testbed.namespace), manifest
                )
            case kind:
                raise AssertionError(f"{file.name}: the kind {kind} is not supported here")
    return jobs


async def _completes(testbed: Testbed, name: str) -> dict[str, Any]:
    return await testbed.wait_for_completion(name, SECONDS)


async def _reaches_its_target(testbed: Testbed, name: str) -> None:
    job = await testbed.wait_for_completion(name, SECONDS)
    spec, target = job["spec"], job["spec"]["training"]["target"]
    sign = 1 if target["direction"] == "Max" else -1
    assert sign * training(job)["evaluation"][target["metric"]] >= sign * target["value"]
    if job["kind"] == names.FEDERATED_JOB:
        assert training(job)["round"] < spec["rounds"]["max"]
    else:
        assert training(job)["epoch"] < spec["training"]["epochs"]


async def _resumes(testbed: Testbed, name: str) -> None:
    await testbed.wait_for_phase(name, "Suspended")
    assert await testbed.job_pods(name) == []
    await testbed.update_spec(name, suspend=False)
    await testbed.wait_for_completion(name, SECONDS)


async def _reads_its_own_records(testbed: Testbed, name: str) -> None:
    await testbed.wait_for_phase(name, "Suspended")
    path = f"{collection('batch/v1', 'jobs', testbed.namespace)}/records"
    async with asyncio.timeout(SECONDS):
        while not (await testbed.client.get(path)).get("status", {}).get("succeeded"):
            await asyncio.sleep(1)
    await testbed.update_spec(name, suspend=False)
    job = await testbed.wait_for_completion(name, SECONDS)
    trained = {each: party(job, each)["samples"] for each in ("budapest", "long-beach")}
    assert trained == {"budapest": 173, "long-beach": 86}, "each hospital's own rows, less a third"


async def _is_deleted(testbed: Testbed, name: str) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                await testbed.get(name)
            except ApiError as error:
                if error.is_missing:
                    return
                raise
            await asyncio.sleep(1)


async def _gets_a_recommendation(testbed: Testbed, name: str) -> None:
    job = await testbed.wait_for(
        name, lambda j: scaling(j).get("recommended", 0) > 1, "a recommendation", SECONDS
    )
    assert scaling(job)["desired"] == 1, "the recommendation is not applied"
    await testbed.wait_for_completion(name, SECONDS)
