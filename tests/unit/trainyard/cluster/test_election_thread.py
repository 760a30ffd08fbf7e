"""The Lease is renewed whatever the controller's loop does, and fences it all the same."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Self, cast

import pytest

from tests.support.fakeapi import Object
from tests.unit.trainyard.cluster.test_lease import LEASE, LeaseApi
from trainyard.cluster.client import KubeClient
from trainyard.cluster.election_thread import ElectionThread
from trainyard.cluster.leaderelection import LeaseTimings
from trainyard.cluster.lease import Election, LeadershipLost

TIMINGS = LeaseTimings(
    duration=timedelta(seconds=1),
    renew_deadline=timedelta(seconds=0.6),
    retry=timedelta(seconds=0.05),
)


class OwnApi(LeaseApi):
    """The client of an election, which is opened and closed on the election's loop."""

    def __init__(self) -> None:
        super().__init__()
        self.loops: list[asyncio.AbstractEventLoop] = []
        self.renewals = 0

    async def __aenter__(self) -> Self:
        self.loops.append(asyncio.get_running_loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.loops.append(asyncio.get_running_loop())

    async def request(self, method: str, path: str, **options: Any) -> Object:
        self.renewals += 1
        return await super().request(method, path, **options)

    def take(self) -> None:
        """Another replica takes the Lease."""
        self.objects[LEASE]["spec"]["holderIdentity"] = "pod-2"
        self.objects[LEASE]["metadata"]["resourceVersion"] = "99"


@contextlib.asynccontextmanager
async def elected(api: OwnApi) -> AsyncIterator[tuple[ElectionThread, asyncio.Task[None]]]:
    client: Any = api
    election = Election(client, "trainyard-system", "trainyard", "pod-1_ab12", TIMINGS)
    async with ElectionThread(election, cast(KubeClient, client)) as thread:
        task = asyncio.create_task(thread.run())
        async with asyncio.timeout(5):
            await thread.elected.wait()
        yield thread, task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_busy_loop_costs_no_leadership() -> None:
    api = OwnApi()
    async with elected(api) as (election, _):
        assert (election.is_leader, election.fencing_token) == (True, 1)
        before = api.renewals
        time.sleep(1.5)  # noqa: ASYNC251 - longer than the duration of the Lease
        election.check()
        assert api.renewals > before + 3
    assert not election.is_leader
    assert "holderIdentity" not in api.objects[LEASE]["spec"], "it is released at the end"
    assert len(set(api.loops)) == 1
    assert api.loops[0] is not asyncio.get_running_loop()


async def test_a_lease_that_cannot_be_renewed_ends_the_process_and_its_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = OwnApi()

    async def hang(*_: Any, **__: Any) -> Object:
        await asyncio.sleep(3600)
        raise AssertionError

    async with elected(api) as (election, task):
        monkeypatch.setattr(api, "request", hang)
        monkeypatch.setattr(api, "get", hang)
        time.sleep(1.0)  # noqa: ASYNC251 - nobody reports the loss to this loop meanwhile
        with pytest.raises(LeadershipLost, match="has not been renewed"):
            election.check()
        with pytest.raises(LeadershipLost):
            await asyncio.wait_for(task, 5)


async def test_a_lease_that_was_taken_ends_the_process() -> None:
    api = OwnApi()
    async with elected(api) as (election, task):
        api.take()
        with pytest.raises(LeadershipLost):
            await election.confirm()
        assert not election.is_leader
        with pytest.raises(LeadershipLost):
            await asyncio.wait_for(task, 5)
    assert api.objects[LEASE]["spec"]["holderIdentity"] == "pod-2", "it is not ours to release"
