"""Connections to coordinators: probed before they are opened, closed with their job."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest

from tests.support.fakeapi import FakeApi
from tests.support.jobs import KEY, coordinator
from trainyard.cluster import coordinator as coordinator_module
from trainyard.cluster.coordinator import Address, Coordinators, UnreachableError, address_of

LOOPBACK = "127.0.0.1"


@pytest.fixture
def port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        found: int = probe.getsockname()[1]
    return found


@pytest.fixture
def address(port: int, monkeypatch: pytest.MonkeyPatch) -> Address:
    """The address of a coordinator at that port."""
    monkeypatch.setattr(coordinator_module, "COORDINATOR_PORT", port)
    return address_of(KEY, coordinator(ip=LOOPBACK), "cluster.local")


async def test_a_closed_port_is_detected_without_tls(address: Address) -> None:
    with pytest.raises(UnreachableError, match="ConnectionRefusedError"):
        await Coordinators(FakeApi().client, is_direct=True).probe(address)


async def test_an_open_port_is_not_disturbed(address: Address, port: int) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(serve, LOOPBACK, port):
        await Coordinators(FakeApi().client, is_direct=True).probe(address)


async def test_a_coordinator_behind_a_tunnel_is_not_probed(address: Address) -> None:
    await Coordinators(FakeApi().client, is_direct=False).probe(address)


async def test_a_removed_job_leaves_no_connection(address: Address) -> None:
    coordinators = Coordinators(FakeApi().client, is_direct=True)
    await coordinators._connect(address, ssl.create_default_context())
    assert coordinators.is_open(address.pod.uid)
    await coordinators.forget_job(KEY)
    assert not coordinators.is_open(address.pod.uid)


def test_a_refused_plan_names_the_one_in_force_whatever_else_it_says() -> None:
    error = coordinator_module._refusal(b'{"generation": 3, "fencingToken": 2, "unknown": [1]}')
    assert (error.generation, error.fencing_token) == (3, 2)
