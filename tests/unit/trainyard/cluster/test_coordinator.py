"""Connections to coordinators: knocked at before they are made, closed with their job."""

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
    """A port of the loopback that nobody listens on yet."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        found: int = probe.getsockname()[1]
    return found


@pytest.fixture
def address(port: int, monkeypatch: pytest.MonkeyPatch) -> Address:
    """A coordinator's, at that port."""
    monkeypatch.setattr(coordinator_module, "COORDINATOR_PORT", port)
    return address_of(KEY, coordinator(ip=LOOPBACK), "cluster.local")


async def test_who_does_not_listen_is_found_out_without_tls(address: Address) -> None:
    with pytest.raises(UnreachableError, match="ConnectionRefusedError"):
        await Coordinators(FakeApi().client, is_direct=True).probe(address)


async def test_who_listens_is_left_in_peace(address: Address, port: int) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(serve, LOOPBACK, port):
        await Coordinators(FakeApi().client, is_direct=True).probe(address)


async def test_behind_a_tunnel_there_is_nobody_to_knock_at(address: Address) -> None:
    await Coordinators(FakeApi().client, is_direct=False).probe(address)


async def test_a_job_that_is_gone_leaves_no_connection(address: Address) -> None:
    coordinators = Coordinators(FakeApi().client, is_direct=True)
    await coordinators._link(address, ssl.create_default_context())
    assert coordinators.is_open(address.pod.uid)
    await coordinators.forget_job(KEY)
    assert not coordinators.is_open(address.pod.uid)


def test_a_refused_plan_names_the_one_in_force_whatever_else_it_says() -> None:
    error = coordinator_module._refusal(b'{"generation": 3, "fencingToken": 2, "unknown": [1]}')
    assert (error.generation, error.fencing_token) == (3, 2)
