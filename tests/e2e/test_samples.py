"""Every sample runs, a few side by side, each to the end that it is there to show."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.yard import Yard, party, phase, scaling, training
from trainyard.api import names
from trainyard.cluster.client import ApiError, collection

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"
FILES = sorted(SAMPLES.glob("*.yaml"))
SECONDS = 240.0
SIDE_BY_SIDE = 3
"""Each job starts a few processes that load PyTorch; more at once only wait for a core."""


@pytest.mark.timeout(SECONDS * math.ceil(len(FILES) / SIDE_BY_SIDE))
async def test_every_sample_reaches_the_end_that_it_shows(yard: Yard) -> None:
    endings = {
        "digits": _ends_early,
        "suspend": _starts_and_ends,
        "deadline": _is_deleted,
        "recommend": _is_advised,
        "surrogate": _ends_early,
        "federated-mnist": _ends_early,
        "lenders": _ends_early,
        "makers": _ends_early,
        "own-records": _reads_its_own_records,
    }
    places = asyncio.Semaphore(SIDE_BY_SIDE)
    seen: list[str] = []

    async def run(file: Path) -> None:
        async with places:
            jobs = await _apply(yard, file)
            seen.extend(jobs)
            await asyncio.gather(*(endings.get(name, _completes)(yard, name) for name in jobs))

    await asyncio.gather(*(run(file) for file in FILES))
    assert endings.keys() <= set(seen)


async def _apply(yard: Yard, file: Path) -> list[str]:
    """Create what is in the file; the names of its jobs."""
    jobs = []
    for manifest in yaml.safe_load_all(file.read_text()):
        name = manifest["metadata"]["name"]
        match manifest["kind"]:
            case names.DISTRIBUTED_JOB | names.FEDERATED_JOB:
                await yard.submit(manifest)
                jobs.append(name)
            case "PersistentVolumeClaim":
                await yard.create("persistentvolumeclaims", manifest)
            case "PriorityClass":
                path = collection("scheduling.k8s.io/v1", "priorityclasses")
                await yard.client.apply(f"{path}/{name}", manifest)
            case "Job":
                await yard.client.create(collection("batch/v1", "jobs", yard.namespace), manifest)
            case kind:
                raise AssertionError(f"{file.name}: nobody here knows what a {kind} is")
    return jobs


async def _completes(yard: Yard, name: str) -> dict[str, Any]:
    return await yard.complete(name, SECONDS)


async def _ends_early(yard: Yard, name: str) -> None:
    job = await yard.complete(name, SECONDS)
    spec, target = job["spec"], job["spec"]["training"]["target"]
    sign = 1 if target["direction"] == "Max" else -1
    assert sign * training(job)["evaluation"][target["metric"]] >= sign * target["value"]
    if job["kind"] == names.FEDERATED_JOB:
        assert training(job)["round"] < spec["rounds"]["max"]
    else:
        assert training(job)["epoch"] < spec["training"]["epochs"]


async def _starts_and_ends(yard: Yard, name: str) -> None:
    await yard.wait(name, "suspended", lambda j: phase(j) == "Suspended")
    assert await yard.pods(name) == []
    await yard.patch(name, {"spec": {"suspend": False}})
    await yard.complete(name, SECONDS)


async def _reads_its_own_records(yard: Yard, name: str) -> None:
    await yard.wait(name, "suspended", lambda j: phase(j) == "Suspended")
    path = f"{collection('batch/v1', 'jobs', yard.namespace)}/records"
    async with asyncio.timeout(SECONDS):
        while not (await yard.client.get(path)).get("status", {}).get("succeeded"):
            await asyncio.sleep(1)
    await yard.patch(name, {"spec": {"suspend": False}})
    job = await yard.complete(name, SECONDS)
    trained = {each: party(job, each)["samples"] for each in ("budapest", "long-beach")}
    assert trained == {"budapest": 173, "long-beach": 86}, "each hospital's own rows, less a third"


async def _is_deleted(yard: Yard, name: str) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                await yard.job(name)
            except ApiError as error:
                if error.is_missing:
                    return
                raise
            await asyncio.sleep(1)


async def _is_advised(yard: Yard, name: str) -> None:
    job = await yard.wait(
        name, "advice given", lambda j: scaling(j).get("recommended", 0) > 1, SECONDS
    )
    assert scaling(job)["desired"] == 1, "nothing is carried out"
    await yard.complete(name, SECONDS)
