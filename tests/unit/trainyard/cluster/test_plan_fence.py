"""The guard in front of Plans: a former leader sends none to a coordinator, however late."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import web

from tests.support.fakeapi import FakeApi
from tests.support.jobs import KEY, coordinator
from tests.support.rotation import JOBS, NOW, files, phases
from tests.unit.trainyard.cluster.test_client import Server, refuse, serving
from tests.unit.trainyard.reconcile.test_rotation_handshakes import install
from trainyard.cluster import coordinator as coordinator_module
from trainyard.cluster.client import KubeClient
from trainyard.cluster.coordinator import Coordinators, UnreachableError, address_of
from trainyard.cluster.lease import LeadershipLost
from trainyard_trainer.contract.plan import Plan

PLAN = Plan(generation=1, workers=2)


class Coordinator(NamedTuple):
    """A coordinator that listens."""

    server: Server
    send_plan: Callable[[KubeClient], Awaitable[None]]
    """Sends it a Plan as the operator with that client does."""


@pytest.fixture
async def listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Coordinator]:
    """A coordinator with its certificates."""
    api, job = FakeApi(), JOBS[0]
    _, operator = await anext(phases(api))
    tls = await operator.deps.authorities.operator_context(job.key, job.uid, NOW)
    credentials = install(tmp_path, files(api, job), "coordinator")
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=credentials.server())
    await site.start()
    [(_, port)] = runner.addresses
    monkeypatch.setattr(coordinator_module, "COORDINATOR_PORT", port)
    address = address_of(KEY, coordinator(ip="127.0.0.1"), "cluster.local")

    async def send(client: KubeClient) -> None:
        coordinators = Coordinators(client, is_direct=True)
        try:
            await coordinators.put_plan(address, tls, PLAN)
        finally:
            await coordinators.close()

    yield Coordinator(server, send)
    await runner.cleanup()


async def test_the_leader_sends_its_plan(listening: Coordinator) -> None:
    async with serving(Server()) as client:
        client.guard = lambda: None
        await listening.send_plan(client)
    assert listening.server.arrived == [("PUT", "/v1/plan")]


async def test_a_former_leader_does_not_even_connect(listening: Coordinator) -> None:
    async with serving(Server()) as client:
        client.guard = refuse
        with pytest.raises(LeadershipLost):
            await listening.send_plan(client)
    assert listening.server.arrived == []


async def test_leadership_lost_while_the_connection_opens_stops_the_plan(
    listening: Coordinator,
) -> None:
    """A process that is suspended in its TLS handshake goes on whenever it wakes up."""
    checks = 0

    def refuse_the_second_time() -> None:
        nonlocal checks
        checks += 1
        if checks > 1:
            refuse()

    async with serving(Server()) as client:
        client.guard = refuse_the_second_time
        with pytest.raises(UnreachableError):
            await listening.send_plan(client)
    assert checks > 1
    assert listening.server.arrived == []
