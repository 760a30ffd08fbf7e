"""The aggregator's endpoints against parties that are slow, greedy or hostile."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.unit.trainyard_trainer.federated.models import body, metadata, random_model
from tests.unit.trainyard_trainer.federated.server.test_aggregator import CONFIG
from trainyard_trainer.contract.federated import (
    PATH_EVALUATION,
    PATH_MODEL,
    PATH_ROUND,
    PATH_UPDATE,
    FederatedConfig,
    PartyState,
)
from trainyard_trainer.federated.protocol.layout import Entry, Layout
from trainyard_trainer.federated.server import http
from trainyard_trainer.federated.server.aggregator import Aggregator
from trainyard_trainer.federated.server.http import AggregatorServer
from trainyard_trainer.transport.tls import Credentials

LARGE = Layout.of([Entry(name="w", dtype="F32", shape=(1 << 22,))])
"""More than the sockets of a connection buffer."""


class Served:
    """A served aggregator, and parties' requests."""

    def __init__(self, aggregator: Aggregator, session: aiohttp.ClientSession, url: str) -> None:
        self.aggregator, self.session, self.url = aggregator, session, url

    def request(self, method: str, path: str, party: str, **options: Any) -> Any:
        params = {"party": party, "wire": "1", "term": "1", **options.pop("params", {})}
        return self.session.request(method, self.url + path, params=params, **options)

    async def status(self, method: str, path: str, party: str, **options: Any) -> int:
        async with self.request(method, path, party, **options) as response:
            await response.read()
            return int(response.status)

    async def initialize(self, layout: Layout) -> None:
        """Have the parties join and send the same initial model."""
        whole = body(layout, random_model(layout, 0), metadata(round=0))
        for party in self.aggregator.parties:
            self.aggregator.seen(party, 1)
            self.aggregator.joined(party)
        for party in self.aggregator.parties:
            await self.status(
                "PUT", PATH_UPDATE, party, params={"round": "0"}, data=io.BytesIO(whole)
            )
        async with asyncio.timeout(30):
            while self.aggregator.machine.history.round < 0:
                await self.aggregator.wait_for_change(0.05)


@asynccontextmanager
async def served(folder: Path, config: FederatedConfig = CONFIG) -> AsyncIterator[Served]:
    credentials = Credentials(namespace="n", job="j", directory=str(folder / "none"))
    aggregator = Aggregator(config, 1, folder / "state")
    async with (
        AggregatorServer(aggregator, credentials).serving("127.0.0.1", 0) as port,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        yield Served(aggregator, session, f"http://127.0.0.1:{port}")


async def test_a_compressed_body_is_refused(tmp_path: Path) -> None:
    headers = {"Content-Encoding": "gzip"}
    async with served(tmp_path) as aggregator:
        status = await aggregator.status(
            "POST", PATH_EVALUATION, "a", data=b"\x1f\x8b", headers=headers
        )
        assert status == 415


async def test_an_impossible_term_is_answered_by_name(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as aggregator,
        aggregator.request("GET", PATH_ROUND, "a", params={"term": str(10**9)}) as response,
    ):
        assert response.status == 400
        assert "it claims to know of term 1000000000" in await response.text()


async def test_a_forged_evaluation_is_refused_by_name_and_the_round_goes_on(
    tmp_path: Path,
) -> None:
    report = {"term": 1, "round": 0, "samples": 1 << 62, "metrics": {"eval/accuracy": 1e308}}
    async with served(tmp_path) as aggregator:
        await aggregator.initialize(LARGE)
        data = msgspec.json.encode(report)
        async with aggregator.request("POST", PATH_EVALUATION, "a", data=data) as response:
            assert response.status == 422
            assert (await response.json())["refusal"] == "EvaluationInvalid"
        whole = body(LARGE, random_model(LARGE, 1), metadata(round=1))
        for party in "ab":
            update, number = io.BytesIO(whole), {"round": "1"}
            status = await aggregator.status("PUT", PATH_UPDATE, party, params=number, data=update)
            assert status == 200
        async with asyncio.timeout(30):
            while aggregator.aggregator.machine.history.round < 1:
                await aggregator.aggregator.wait_for_change(0.05)


async def test_a_party_downloads_one_model_at_a_time(tmp_path: Path) -> None:
    async with served(tmp_path) as aggregator:
        await aggregator.initialize(LARGE)
        async with aggregator.request("GET", PATH_MODEL, "a") as first:
            await first.content.readexactly(1000)
            assert await aggregator.status("GET", PATH_MODEL, "b") == 200
            assert await aggregator.status("GET", PATH_MODEL, "a") == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await first.content.read()


async def test_a_download_has_an_end_while_no_round_is_open(tmp_path: Path) -> None:
    rounds = replace(CONFIG.rounds, deadline_seconds=1.0)
    async with served(tmp_path, replace(CONFIG, rounds=rounds)) as aggregator:
        await aggregator.initialize(LARGE)
        for party in "ab":
            aggregator.aggregator.left(party)
        async with asyncio.timeout(30):
            while aggregator.aggregator.deadline is not None:
                await asyncio.sleep(0.05)
            async with aggregator.request("GET", PATH_MODEL, "a") as response:
                await response.content.readexactly(1000)
                await asyncio.sleep(1.5)
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.content.read()


async def test_the_rest_of_a_refused_body_is_read_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "DISCARD_SECONDS", 0.2)

    async def endless() -> AsyncIterator[bytes]:
        yield (1 << 60).to_bytes(8, "little")
        while True:
            await asyncio.sleep(0.05)
            yield b"x"

    async with served(tmp_path) as aggregator:
        aggregator.aggregator.joined("a")
        aggregator.aggregator.joined("b")
        async with asyncio.timeout(30):
            with contextlib.suppress(aiohttp.ClientError):
                status = await aggregator.status(
                    "PUT", PATH_UPDATE, "a", params={"round": "0"}, data=endless()
                )
                assert status == 422
        assert aggregator.aggregator.refusals == {("a", "HeaderInvalid"): 1}


async def test_a_party_whose_connections_broke_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainyard_trainer.federated.server.aggregator.GONE_SECONDS", 0.2)
    async with served(tmp_path) as aggregator:
        machine = aggregator.aggregator.machine
        await aggregator.initialize(LARGE)
        async with aiohttp.ClientSession() as dying:
            url = aggregator.url + PATH_ROUND
            params = {"party": "b", "wire": "1", "term": "1", "ready": "0"}
            async with dying.get(url, params=params) as response:
                assert response.status == 200
            await asyncio.sleep(0.6)
            assert "b" in machine.present, "an open connection is enough, however silent"
            # Its other connections, as those of `aggregator`, are open still.
            await aggregator.session.close()
            await asyncio.sleep(0.6)
            assert machine.present == {"b"}
        async with asyncio.timeout(30):
            while machine.present:
                await asyncio.sleep(0.05)
        assert machine.party_state("b") is PartyState.ABSENT
