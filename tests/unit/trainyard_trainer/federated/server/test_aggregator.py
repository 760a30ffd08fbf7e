"""What an aggregator makes of commands and crashes, without the network."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainyard_trainer.federated.models import FLAT, body, note, random_model
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.federated import (
    FederatedConfig,
    FederatedPlan,
    PartyConfig,
    RefusalReason,
    RoundsConfig,
)
from trainyard_trainer.federated.rounds.events import Instruction
from trainyard_trainer.federated.server.aggregator import REPEATS, Aggregator
from trainyard_trainer.runtime.exits import StateUnusable

PARTIES = (PartyConfig(name="a"), PartyConfig(name="b"))
CONFIG = FederatedConfig(
    task="m:C", parties=PARTIES, rounds=RoundsConfig(max=3, min_parties=2), durable=True
)


@asynccontextmanager
async def working(folder: Path, term: int = 1) -> AsyncIterator[Aggregator]:
    aggregator = Aggregator(CONFIG, term, folder)
    work = asyncio.create_task(aggregator.train_config())
    try:
        yield aggregator
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def join(aggregator: Aggregator) -> None:
    for party in PARTIES:
        aggregator.hear(party.name, 0)
        aggregator.apply(aggregator.course.joined(party.name, aggregator.now))


async def until_asked(aggregator: Aggregator, party: str, ask: Instruction) -> None:
    async with asyncio.timeout(30):
        while aggregator.course.instruction(party) is not ask:
            assert not aggregator.ended.done(), aggregator.ended.exception()
            await aggregator.changed(0.05)


def deliver(aggregator: Aggregator, party: str) -> None:
    upload = aggregator.spool()
    number = aggregator.course.round
    document = note(term=aggregator.term, round=number)
    upload.feed(body(FLAT, random_model(FLAT, number), document))
    aggregator.accept(party, upload)


async def play(aggregator: Aggregator, rounds: int) -> None:
    """Let the parties deliver to so many rounds, the initial model not counted."""
    join(aggregator)
    if aggregator.course.record.round < 0:
        deliver(aggregator, "a")
    for _ in range(rounds):
        for party in "ab":
            await until_asked(aggregator, party, Instruction.TRAIN)
            deliver(aggregator, party)


async def test_an_aggregator_that_was_suspended_has_lost_no_round(tmp_path: Path) -> None:
    plan = FederatedPlan(generation=1, parties=PARTIES, rounds=CONFIG.rounds, suspend=True)
    async with working(tmp_path) as aggregator:
        await play(aggregator, 1)
        await until_asked(aggregator, "a", Instruction.TRAIN)
        aggregator.follow(plan)
        await play(aggregator, 1)
        await aggregator.closed.wait()
        assert aggregator.course.result is Result.SUSPENDED
        assert aggregator.course.record.round == 2
    async with working(tmp_path, 2) as successor:
        assert successor.course.lost == 0
        assert successor.course.record == replace(aggregator.course.record)
    async with working(tmp_path, 3) as third:
        assert third.course.lost == 1, "the second ended without a word"


async def test_a_suspended_aggregator_that_goes_on_can_lose_a_round(tmp_path: Path) -> None:
    plan = FederatedPlan(generation=1, parties=PARTIES, rounds=CONFIG.rounds, suspend=True)
    async with working(tmp_path) as aggregator:
        aggregator.follow(plan)
        await aggregator.closed.wait()
        aggregator.follow(replace(plan, generation=2, suspend=False))
        assert not aggregator.closed.is_set()
        await play(aggregator, 1)
        await until_asked(aggregator, "a", Instruction.TRAIN)
    async with working(tmp_path, 2) as successor:
        assert (successor.course.record.round, successor.course.lost) == (1, 1)
        assert successor.course.record.generation == 2


@pytest.mark.parametrize(
    ("error", "becomes"), [(OSError("disk full"), StateUnusable), (KeyError("x"), KeyError)]
)
async def test_what_goes_wrong_while_storing_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, becomes: type[Exception]
) -> None:
    async with working(tmp_path) as aggregator:

        def fail(*_: Any) -> None:
            raise error

        monkeypatch.setattr(aggregator.archive, "initialize", fail)
        await play(aggregator, 0)
        async with asyncio.timeout(30):
            with pytest.raises(becomes):
                await aggregator.ended


async def test_a_damaged_update_may_be_repeated_so_often(tmp_path: Path) -> None:
    async with working(tmp_path) as aggregator:
        await play(aggregator, 0)
        await until_asked(aggregator, "a", Instruction.TRAIN)
        for _ in range(REPEATS):
            aggregator.refuse("a", RefusalReason.CHECKSUM)
            assert aggregator.course.instruction("a") is Instruction.TRAIN
        aggregator.refuse("a", RefusalReason.CHECKSUM)
        assert aggregator.course.instruction("a") is Instruction.WAIT
        assert aggregator.refusals == {("a", "ChecksumMismatch"): REPEATS + 1}


async def test_no_single_party_fences_an_aggregator(tmp_path: Path) -> None:
    async with working(tmp_path) as aggregator:
        aggregator.hear("a", 10**9)
        assert not aggregator.ended.done()
        aggregator.hear("b", 2)
        assert aggregator.ended.done()
        assert "2 parties know of term 1000000000" in str(aggregator.ended.exception())
