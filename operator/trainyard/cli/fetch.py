"""`trainyard fetch`: the final model and its metrics, from the coordinator or from the claim."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from trainyard.api import names
from trainyard.api.containers import CONTAINER
from trainyard.api.jobs import Job, parse_job
from trainyard.api.names import DISTRIBUTED_JOB, FEDERATED_JOB, PLURALS, Key
from trainyard.api.pods import Pod, parse_pod
from trainyard.cli.archive import MAX_MODEL_BYTES, MAX_RESULT_BYTES, FetchError, unpack
from trainyard.cluster.client import KubeClient, collection
from trainyard.cluster.errors import ApiError
from trainyard.cluster.execute import CommandError, execute
from trainyard.render.fetch_pod import fetch_pod
from trainyard.render.ownership import labels_of
from trainyard_trainer.contract.env import Role

EXPORT = ("trainyard-trainer", "export")
START_SECONDS = 120.0
HEADER_BYTES = 1 << 20
"""Of an archive, beside its two files."""
KINDS = {
    name: kind
    for kind, short in ((DISTRIBUTED_JOB, "dj"), (FEDERATED_JOB, "fj"))
    for name in (short, kind.lower(), PLURALS[kind], f"{kind.lower()}.{names.GROUP}")
}
"""The kinds as users write them, in lower case."""


def parse_target(text: str, namespace: str) -> Key:
    """`dj/NAME`, `fj/NAME`, or just the `NAME` of a DistributedJob; raises FetchError."""
    kind, _, name = text.rpartition("/")
    if kind and kind.lower() not in KINDS:
        raise FetchError(f"{text!r}: only jobs have a model to fetch: write dj/NAME or fj/NAME")
    return Key(KINDS[kind.lower()] if kind else DISTRIBUTED_JOB, namespace, name)


async def fetch(
    client: KubeClient, key: Key, output: Path, max_bytes: int = MAX_MODEL_BYTES
) -> list[Path]:
    """Download the job's files into the existing directory `output`; raises FetchError.

    What is there already is replaced only by a model that has arrived whole.
    """
    try:
        job = await _job(client, key)
        async with _source(client, job) as pod:
            return await _download(client, pod, output, max_bytes)
    except (ApiError, CommandError, OSError) as error:
        raise FetchError(f"{key}: {error}") from error


async def _job(client: KubeClient, key: Key) -> Job:
    path = collection(names.API_VERSION, PLURALS[key.kind], key.namespace)
    return parse_job(await client.get(f"{path}/{key.name}"))


@contextlib.asynccontextmanager
async def _source(client: KubeClient, job: Job) -> AsyncIterator[Pod]:
    """A running pod that has the job's state mounted: the coordinator, or one made for this."""
    if (coordinator := await _coordinator(client, job)) is not None:
        yield coordinator
        return
    if not job.is_durable:
        raise FetchError(
            f"{job.key} has no running coordinator and no spec.state.claimName: its result is "
            "gone. Give the next run a claim, or a longer spec.ttlSecondsAfterFinished."
        )
    pods = collection("v1", "pods", job.key.namespace)
    name = f"{job.key.name}-fetch-{secrets.token_hex(3)}"
    await _create_reader(client, pods, job, name)
    try:
        yield await _started(client, f"{pods}/{name}")
    finally:
        await client.delete(f"{pods}/{name}", grace_seconds=0)


async def _create_reader(client: KubeClient, pods: str, job: Job, name: str) -> None:
    """Create the pod that reads the claim, with a user of the platform's where ours is refused."""
    try:
        await client.create(pods, fetch_pod(job, name))
    except ApiError as error:
        if error.status not in (403, 422):
            raise
        await client.create(pods, fetch_pod(job, name, user=None))


async def _coordinator(client: KubeClient, job: Job) -> Pod | None:
    ours = {**labels_of(job.key), names.LABEL_ROLE: str(Role.COORDINATOR)}
    selector = ",".join(f"{name}={value}" for name, value in ours.items())
    path = collection("v1", "pods", job.key.namespace)
    pods = [parse_pod(raw) async for raw in client.list_all(path, label_selector=selector)]
    running = [p for p in pods if p.is_running and p.owner_uid == job.uid]
    return max(running, key=lambda p: p.attempt, default=None)


async def _started(client: KubeClient, path: str) -> Pod:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while True:
        pod = parse_pod(await client.get(path))
        if pod.is_running:
            return pod
        if pod.is_finished or asyncio.get_running_loop().time() > deadline:
            cause = pod.waiting_message or pod.reason or pod.phase
            raise FetchError(f"the pod {pod.name} that reads the claim did not start: {cause}")
        await asyncio.sleep(0.5)


async def _download(client: KubeClient, pod: Pod, output: Path, max_bytes: int) -> list[Path]:
    most, size = max_bytes + MAX_RESULT_BYTES + HEADER_BYTES, 0
    with tempfile.TemporaryFile(dir=output) as archive:
        chunks = execute(client, pod.namespace, pod.name, CONTAINER, EXPORT)
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                if (size := size + len(chunk)) > most:
                    raise FetchError(f"the archive of pod {pod.name} has more than {most:,} bytes")
                archive.write(chunk)
        archive.seek(0)
        return unpack(archive, output, max_bytes)
