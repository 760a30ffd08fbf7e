"""Plans, and what parties get from an aggregator without TLS."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import PATH_PLAN
from trainyard_trainer.contract.federated import (
    PATH_ROUND,
    FederatedConfig,
    FederatedPlan,
    PartyConfig,
    RoundsConfig,
)
from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.coordinator.server import Coordinator
from trainyard_trainer.federated.server.aggregator import Aggregator
from trainyard_trainer.federated.server.http import AggregatorServer
from trainyard_trainer.transport.tls import Credentials

PARTIES = (PartyConfig(name="a"), PartyConfig(name="b", args={"k": 1}, lr=0.5))
CONFIG = FederatedConfig(task="m:C", args={"j": 2, "k": 0}, parties=PARTIES)


@contextlib.asynccontextmanager
async def distributed(folder: Path) -> AsyncIterator[str]:
    credentials = Credentials(namespace="n", job="j", directory=str(folder / "none"))
    server = Coordinator(JobConfig(task="m:C"), 1, folder / "state", credentials)
    async with server.serving("127.0.0.1", 0) as port:
        yield f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def federated(folder: Path) -> AsyncIterator[str]:
    credentials = Credentials(namespace="n", job="j", directory=str(folder / "none"))
    server = AggregatorServer(Aggregator(CONFIG, 1, folder / "state"), credentials)
    async with server.serving("127.0.0.1", 0) as port:
        yield f"http://127.0.0.1:{port}"


def plan_of(kind: Any, generation: int, fencing_token: int, *, other: bool = False) -> str:
    if kind is distributed:
        plan: Plan | FederatedPlan = Plan(
            generation=generation, fencing_token=fencing_token, workers=2 if other else 1
        )
    else:
        plan = FederatedPlan(
            generation=generation,
            fencing_token=fencing_token,
            parties=PARTIES,
            rounds=RoundsConfig(max=20 if other else 10),
        )
    return plan.encode()


@pytest.mark.parametrize("kind", [distributed, federated])
async def test_stale_plans_and_those_of_replaced_operators_are_refused(
    tmp_path: Path, kind: Any
) -> None:
    async with kind(tmp_path) as url, aiohttp.ClientSession() as session:

        async def put(text: str) -> tuple[int, Any]:
            async with session.put(url + PATH_PLAN, data=text) as answer:
                return answer.status, await answer.json()

        in_force = {"generation": 3, "fencingToken": 7}
        assert (await put(plan_of(kind, 3, 7)))[0] == 200
        assert await put(plan_of(kind, 2, 7)) == (409, in_force)
        assert await put(plan_of(kind, 9, 6)) == (409, in_force)
        assert await put(plan_of(kind, 3, 7, other=True)) == (409, in_force)
        assert (await put(plan_of(kind, 3, 7)))[0] == 200
        assert (await put(plan_of(kind, 3, 8)))[0] == 200, "the same, of the next operator"
        assert await put(plan_of(kind, 4, 7)) == (409, {"generation": 3, "fencingToken": 8})
        assert (await put(plan_of(kind, 4, 8, other=True)))[0] == 200
        assert (await put(plan_of(kind, 4, 8)[:-1]))[0] == 400
        assert (await put(plan_of(kind, 5, 8).replace('"wire": 1', '"wire": 2')))[0] == 400


@pytest.mark.parametrize("kind", [distributed, federated])
async def test_fields_of_a_later_operator_are_ignored(tmp_path: Path, kind: Any) -> None:
    async with kind(tmp_path) as url, aiohttp.ClientSession() as session:

        async def put(text: str, **query: str) -> int:
            async with session.put(url + PATH_PLAN, data=text, params=query) as answer:
                return answer.status

        earlier = plan_of(kind, 1, 0)
        later = json.dumps({**json.loads(earlier), "unknown": {"nested": 1}})
        assert await put(later, unknown="1") == 200
        assert await put(earlier) == 200, "the same Plan"
        assert await put(later) == 200


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max": 0}, "rounds.max must be at least 1, got 0"),
        ({"min_parties": 0}, "rounds.min_parties must be at least 1"),
        ({"patience": 0}, "rounds.patience must be at least 1"),
        ({"fraction": 0}, "rounds.fraction must be above 0"),
        ({"fraction": 1.1}, "rounds.fraction must be above 0 and at most 1"),
        ({"deadline_seconds": 0}, "rounds.deadline must be above 0"),
        ({"max": "9"}, "Expected `int`, got `str` - at `\\$.rounds.max`"),
    ],
)
def test_invalid_rounds_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FederatedConfig.decode(json.dumps({"task": "m:C", "parties": [], "rounds": change}))


def test_a_configuration_is_decoded_unchanged() -> None:
    assert FederatedConfig.decode(CONFIG.encode()) == CONFIG
    plan = FederatedPlan(generation=1, parties=PARTIES, rounds=RoundsConfig(max=3))
    assert FederatedPlan.decode(plan.encode()) == plan


async def test_an_announcement_has_the_partys_own_arguments(tmp_path: Path) -> None:
    async with federated(tmp_path) as url, aiohttp.ClientSession() as session:
        query = {"party": "b", "wire": "1", "term": "0", "ready": "0"}
        async with session.get(url + PATH_ROUND, params=query) as answer:
            announcement = await answer.json()
        assert announcement["config"]["args"] == {"j": 2, "k": 1}
        assert announcement["config"]["lr"] == 0.5
        assert (announcement["term"], announcement["instruction"]) == (1, "Wait")


async def test_query_parameters_of_a_later_party_are_ignored(tmp_path: Path) -> None:
    async with federated(tmp_path) as url, aiohttp.ClientSession() as session:
        query = {"party": "a", "wire": "1", "term": "0", "ready": "0", "unknown": "1"}
        async with session.get(url + PATH_ROUND, params=query) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ({"party": "x", "wire": "1"}, 404, "'x' is not a party of this federation"),
        ({"wire": "1"}, 404, "is not a party"),
        ({"party": "a", "wire": "2"}, 426, "wire version 2, this aggregator 1"),
        ({"party": "a"}, 426, "use images of the same release"),
        ({"party": "a", "wire": "1", "term": "x"}, 400, "term is not a number"),
    ],
)
async def test_a_party_that_cannot_take_part_gets_the_reason(
    tmp_path: Path, query: dict[str, str], status: int, says: str
) -> None:
    async with (
        federated(tmp_path) as url,
        aiohttp.ClientSession() as session,
        session.get(url + PATH_ROUND, params=query) as answer,
    ):
        assert answer.status == status
        assert says in await answer.text()
