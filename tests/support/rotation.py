"""Operators on an API server in memory that rotate the master while two jobs run."""

from __future__ import annotations

import base64
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi, Object
from tests.support.federations import aggregator, make_federation
from tests.support.jobs import NETWORK, coordinator, has_run, make_job
from trainyard.api.jobs import Job
from trainyard.api.names import Key
from trainyard.cluster.issuance import OVERLAP
from trainyard.reconcile.children import ensure_children
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.rotation import maintain_master

NOW = datetime.now(UTC).replace(microsecond=0)
"""The real time: OpenSSL has no other clock."""
MASTER = "/api/v1/namespaces/trainyard-system/secrets/trainyard-master"
JOBS: tuple[Job, ...] = (
    make_job({}, has_run()),
    make_federation({}, has_run(), name="fed", uid="uid-of-fed"),
)
PODS = (
    coordinator(),
    aggregator(
        name="fed-coordinator-1", job=JOBS[1].key, owner_uid=JOBS[1].uid, uid="aggregator-of-fed"
    ),
)
HOUR = timedelta(hours=1)


class Killed(BaseException):
    """The process ends here."""


class MortalApi(FakeApi):
    """Kills the operator before, or right after, one of its changing requests."""

    def __init__(self) -> None:
        super().__init__()
        self.kill_at: int | None = None
        self.is_stored = False
        """Whether the request at which it is killed still reaches the server."""
        self._changes = itertools.count()

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        is_last = next(self._changes) == self.kill_at
        if is_last and not self.is_stored:
            raise Killed
        yield
        if is_last:
            raise Killed

    async def create(self, path: str, body: Object) -> Object:
        with self._change():
            return await super().create(path, body)

    async def replace_fields(self, path: str, version: str, fields: Mapping[str, Any]) -> Object:
        with self._change():
            return await super().replace_fields(path, version, fields)

    @property
    def changes(self) -> int:
        """How many changing requests there were."""
        return next(self._changes)


class Operator:
    """One operator process with two running jobs, one of each kind."""

    def __init__(self, api: FakeApi, now: datetime = NOW, jobs: tuple[Job, ...] = JOBS) -> None:
        self.now, self.jobs = now, jobs
        self.deps: Dependencies = dependencies_of(api, *jobs, clock=lambda: self.now)
        for pod in PODS:
            self.deps.cache.put_pod(pod)

    async def run(self, *, resyncs: int = 1) -> None:
        """A resync and the reconciles that follow, so many times."""
        for _ in range(resyncs):
            dirty: set[Key] = set()
            await maintain_master(self.deps, dirty)
            for job in self.jobs:
                state = self.deps.job_state(job).children
                await ensure_children(self.deps, job, state, NETWORK)


def request_rotation(api: FakeApi) -> None:
    """What an administrator does: annotate the Secret."""
    meta = api.objects[MASTER]["metadata"]
    version = str(int(meta.get("resourceVersion", 0)) + 1)
    annotated = {**meta, "annotations": {"trainyard.dev/rotate": "now"}, "resourceVersion": version}
    api.objects[MASTER] = {**api.objects[MASTER], "metadata": annotated}


def versions(api: FakeApi) -> list[str]:
    return sorted(api.objects[MASTER]["data"])


def leaves(api: FakeApi, job: Job) -> Object:
    secret = f"/api/v1/namespaces/team/secrets/{job.key.name}-trainyard-tls"
    return api.objects[secret]


def files(api: FakeApi, job: Job) -> dict[str, bytes]:
    return {name: base64.b64decode(value) for name, value in leaves(api, job)["data"].items()}


async def phases(api: FakeApi) -> AsyncIterator[tuple[str, Operator]]:
    """Every state that the Secrets go through in a rotation, in order."""
    operator = Operator(api, NOW - 2 * HOUR)
    await operator.run()
    yield "before", operator
    operator.now = NOW - HOUR - 3 * OVERLAP
    request_rotation(api)
    await operator.run()
    yield "both trusted, the old one signs", operator
    operator.now += OVERLAP
    await operator.run()
    yield "both trusted, the new one signs", operator
    operator.now = NOW
    await operator.run()
    await operator.run()
    yield "after", operator
