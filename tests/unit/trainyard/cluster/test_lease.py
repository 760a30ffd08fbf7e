"""What is logged when a process becomes the leader, gives its Lease back, or loses it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.fakeapi import FakeApi, Object
from trainyard.cluster.leaderelection import LeaseTimings
from trainyard.cluster.lease import Election

LEASE = "/apis/coordination.k8s.io/v1/namespaces/trainyard-system/leases/trainyard"


class LeaseApi(FakeApi):
    """Stores Leases, each time under another resource version."""

    async def create(self, path: str, body: Object) -> Object:
        return self._stored(await super().create(path, body))

    async def request(self, method: str, path: str, **options: Any) -> Object:
        assert method == "PUT"
        body: Object = options["body"]
        self.objects[path] = body
        return self._stored(body)

    def _stored(self, body: Object) -> Object:
        body["metadata"]["resourceVersion"] = str(len(self.requests) + 1)
        return body


@contextlib.asynccontextmanager
async def elected(api: LeaseApi) -> AsyncIterator[Election]:
    """A process that has become the leader, and renews its Lease."""
    election = Election(api.client, "trainyard-system", "trainyard", "pod-1_ab12", LeaseTimings())
    task = asyncio.create_task(election.run())
    try:
        async with asyncio.timeout(5):
            await election.elected.wait()
        yield election
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The messages with their fields."""
    names = ("lease", "identity", "fencing_token")
    return [
        {"msg": record.getMessage(), **{n: getattr(record, n) for n in names if hasattr(record, n)}}
        for record in caplog.records
        if record.name.startswith("trainyard")
    ]


async def test_becoming_the_leader_and_stepping_down_are_one_line_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    who = {"lease": "trainyard-system/trainyard", "identity": "pod-1_ab12"}
    async with elected(LeaseApi()) as election:
        assert lines(caplog) == [{"msg": "became the leader", **who, "fencing_token": 1}]
        caplog.clear()
        await election.release()
    assert lines(caplog) == [{"msg": "released the Lease", **who}]
