"""An aggregator's commands and crashes, without the network."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch

from tests.processes.tasks import Tied
from tests.unit.trainyard_trainer.federated.models import FLAT, body, metadata, random_model
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.federated import (
    FederatedConfig,
    FederatedPlan,
    PartyConfig,
    RefusalReason,
    RoundsConfig,
    StrategyConfig,
)
from trainyard_trainer.federated.party.state import ModelState
from trainyard_trainer.federated.protocol.layout import Bytes, Entry, Layout
from trainyard_trainer.federated.protocol.wire import UpdateRefused
from trainyard_trainer.federated.rounds.events import Instruction
from trainyard_trainer.federated.rounds.machine import RoundMachine
from trainyard_trainer.federated.server.aggregator import Aggregator
from trainyard_trainer.federated.server.connections import MAX_CORRUPT_UPLOADS
from trainyard_trainer.runtime.exits import Diverged, StateUnusable

PARTIES = (PartyConfig(name="a"), PartyConfig(name="b"))
CONFIG = FederatedConfig(
    task="m:C", parties=PARTIES, rounds=RoundsConfig(max=3, min_parties=2), durable=True
)


@asynccontextmanager
async def running(
    folder: Path, term: int = 1, config: FederatedConfig = CONFIG
) -> AsyncIterator[Aggregator]:
    aggregator = Aggregator(config, term, folder)
    task = asyncio.create_task(aggregator.run())
    try:
        yield aggregator
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def join(aggregator: Aggregator) -> None:
    for party in PARTIES:
        aggregator.seen(party.name, 0)
        aggregator.joined(party.name)


async def wait_for(aggregator: Aggregator, party: str, instruction: Instruction) -> None:
    async with asyncio.timeout(30):
        while aggregator.machine.instruction(party) is not instruction:
            assert not aggregator.ended.done(), aggregator.ended.exception()
            await aggregator.wait_for_change(0.05)


def deliver(
    aggregator: Aggregator, party: str, largest: float = 1.0, layout: Layout = FLAT
) -> None:
    upload = aggregator.open_upload()
    number = aggregator.machine.round
    document = metadata(term=aggregator.term, round=number)
    data = random_model(layout, number)
    data.view("<f4")[4] = largest
    upload.feed(body(layout, data, document))
    aggregator.accept(party, upload, number)


async def run_rounds(aggregator: Aggregator, rounds: int) -> None:
    """Have the parties deliver to this many rounds after the initial model."""
    join(aggregator)
    if aggregator.machine.history.round < 0:
        for party in "ab":
            deliver(aggregator, party)
    for _ in range(rounds):
        for party in "ab":
            await wait_for(aggregator, party, Instruction.TRAIN)
            deliver(aggregator, party)


async def test_a_suspension_loses_no_round(tmp_path: Path) -> None:
    plan = FederatedPlan(generation=1, parties=PARTIES, rounds=CONFIG.rounds, suspend=True)
    async with running(tmp_path) as aggregator:
        await run_rounds(aggregator, 1)
        await wait_for(aggregator, "a", Instruction.TRAIN)
        aggregator.set_plan(plan)
        await run_rounds(aggregator, 1)
        await aggregator.closed.wait()
        assert aggregator.machine.result is Result.SUSPENDED
        assert aggregator.machine.history.round == 2
    async with running(tmp_path, 2) as successor:
        assert successor.machine.rounds_lost == 0
        assert successor.machine.history == replace(aggregator.machine.history)
    async with running(tmp_path, 3) as third:
        assert third.machine.rounds_lost == 1, "the second one crashed"


async def test_a_resumed_aggregator_can_lose_a_round(tmp_path: Path) -> None:
    plan = FederatedPlan(generation=1, parties=PARTIES, rounds=CONFIG.rounds, suspend=True)
    async with running(tmp_path) as aggregator:
        aggregator.set_plan(plan)
        await aggregator.closed.wait()
        aggregator.set_plan(replace(plan, generation=2, suspend=False))
        assert not aggregator.closed.is_set()
        await run_rounds(aggregator, 1)
        await wait_for(aggregator, "a", Instruction.TRAIN)
    async with running(tmp_path, 2) as successor:
        assert (successor.machine.history.round, successor.machine.rounds_lost) == (1, 1)
        assert successor.machine.history.generation == 2


@pytest.mark.parametrize(
    ("error", "becomes"), [(OSError("disk full"), StateUnusable), (KeyError("x"), KeyError)]
)
async def test_an_error_while_storing_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, becomes: type[Exception]
) -> None:
    async with running(tmp_path) as aggregator:

        def fail(*_: Any) -> None:
            raise error

        monkeypatch.setattr(aggregator.store, "initialize", fail)
        await run_rounds(aggregator, 0)
        async with asyncio.timeout(30):
            with pytest.raises(becomes):
                await aggregator.ended


async def test_a_corrupt_update_may_be_resent_a_limited_number_of_times(tmp_path: Path) -> None:
    async with running(tmp_path) as aggregator:
        await run_rounds(aggregator, 0)
        await wait_for(aggregator, "a", Instruction.TRAIN)
        for _ in range(MAX_CORRUPT_UPLOADS):
            aggregator.refuse("a", RefusalReason.CHECKSUM)
            assert aggregator.machine.instruction("a") is Instruction.TRAIN
        aggregator.refuse("a", RefusalReason.CHECKSUM)
        assert aggregator.machine.instruction("a") is Instruction.WAIT
        assert aggregator.refusals == {("a", "ChecksumMismatch"): MAX_CORRUPT_UPLOADS + 1}


async def test_a_single_party_cannot_fence_an_aggregator(tmp_path: Path) -> None:
    config = replace(CONFIG, durable=False, rounds=replace(CONFIG.rounds, min_parties=1))
    async with running(tmp_path, config=config) as aggregator:
        aggregator.seen("a", 1000)
        assert not aggregator.ended.done()
        aggregator.seen("b", 2)
        assert aggregator.ended.done()
        assert "2 parties know of term 1000" in str(aggregator.ended.exception())


async def test_less_than_a_majority_cannot_fence_an_aggregator(tmp_path: Path) -> None:
    parties = tuple(PartyConfig(name=name) for name in "abcde")
    async with running(tmp_path, config=replace(CONFIG, parties=parties, durable=False)) as among:
        among.seen("a", 2)
        among.seen("b", 2)
        assert not among.ended.done()
        among.seen("c", 2)
        assert among.ended.done()


async def test_with_a_claim_no_party_fences_an_aggregator(tmp_path: Path) -> None:
    async with running(tmp_path) as aggregator:
        for party in "ab":
            aggregator.seen(party, 2)
        assert not aggregator.ended.done()


@pytest.mark.parametrize("term", [10**9, -1])
async def test_an_impossible_term_is_refused_by_name(tmp_path: Path, term: int) -> None:
    async with running(tmp_path) as aggregator:
        with pytest.raises(UpdateRefused, match=f"it claims to know of term {term}"):
            aggregator.seen("a", term)
        assert aggregator.refusals == {("a", "TermInvalid"): 1}
        assert not aggregator.ended.done()


async def test_a_refused_evaluation_is_counted_and_not_awaited(tmp_path: Path) -> None:
    async with running(tmp_path) as aggregator:
        await run_rounds(aggregator, 0)
        await wait_for(aggregator, "a", Instruction.TRAIN)
        aggregator.refuse_evaluation("a")
        assert aggregator.refusals == {("a", "EvaluationInvalid"): 1}
        assert not aggregator.announcement("a").evaluate
        assert aggregator.announcement("b").evaluate
        await run_rounds(aggregator, 1)
        await wait_for(aggregator, "a", Instruction.TRAIN)
        assert aggregator.machine.history.round == 1


@pytest.mark.parametrize("event", ["tick", "left"])
async def test_an_error_of_a_timer_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    monkeypatch.setattr("trainyard_trainer.federated.server.aggregator.SILENCE_SECONDS", 0.1)
    rounds = replace(CONFIG.rounds, deadline_seconds=0.2)
    async with running(tmp_path, config=replace(CONFIG, rounds=rounds)) as aggregator:
        join(aggregator)

        def fail(*_: Any) -> None:
            raise ArithmeticError("of a transition")

        monkeypatch.setattr(RoundMachine, event, fail)
        async with asyncio.timeout(30):
            with pytest.raises(ArithmeticError):
                await aggregator.ended


ADAM = replace(CONFIG, strategy=StrategyConfig(name="FedAdam"))


async def test_an_update_that_would_spoil_the_model_is_left_out_by_name(tmp_path: Path) -> None:
    parties = tuple(PartyConfig(name=name) for name in "abc")
    async with running(tmp_path, config=replace(ADAM, parties=parties)) as aggregator:
        aggregator.seen("c", 1)
        aggregator.joined("c")
        await run_rounds(aggregator, 0)
        await wait_for(aggregator, "a", Instruction.TRAIN)
        for party, largest in {"a": 1.0, "b": 1e21, "c": 1.0}.items():
            deliver(aggregator, party, largest)
        async with asyncio.timeout(30):
            while aggregator.machine.history.round < 1:
                await aggregator.wait_for_change(0.05)
        assert aggregator.machine.history.contributors == ("a", "c")
        assert aggregator.refusals == {("b", "Diverged"): 1}
        assert aggregator.store.model is not None
        assert np.isfinite(aggregator.store.model.data.view("<f4")).all()


async def test_a_federation_that_diverges_ends_with_its_last_good_model(tmp_path: Path) -> None:
    async with running(tmp_path, config=ADAM) as aggregator:
        await run_rounds(aggregator, 1)
        await wait_for(aggregator, "a", Instruction.TRAIN)
        for party in "ab":
            deliver(aggregator, party, 1e21)
        async with asyncio.timeout(30):
            with pytest.raises(
                Diverged, match=r"round 2: w would .*; the model of round 1 is kept"
            ):
                await aggregator.ended
    async with running(tmp_path, 2, config=ADAM) as successor:
        assert successor.machine.history.round == 1


OTHER = Layout.of([Entry(name="other", dtype="F32", shape=(100,))])


@pytest.mark.parametrize("layout", [FLAT, OTHER], ids=["other numbers", "another layout"])
async def test_no_party_alone_chooses_the_initial_model(tmp_path: Path, layout: Layout) -> None:
    parties = tuple(PartyConfig(name=name) for name in "abc")
    async with running(tmp_path, config=replace(CONFIG, parties=parties)) as aggregator:
        for party in "abc":
            aggregator.seen(party, 1)
            aggregator.joined(party)
        deliver(aggregator, "a", 5.0, layout)
        deliver(aggregator, "b")
        deliver(aggregator, "c")
        await wait_for(aggregator, "a", Instruction.TRAIN)
        assert aggregator.refusals == {("a", "InitialModelDiffers"): 1}
        assert aggregator.store.model is not None
        assert aggregator.store.model.layout == FLAT
        assert aggregator.store.model.data.view("<f4")[4] == 1.0


def send(aggregator: Aggregator, layout: Layout, data: Bytes, party: str = "a") -> None:
    upload = aggregator.open_upload()
    try:
        upload.feed(body(layout, data, metadata(round=0)))
        aggregator.accept(party, upload, 0)
    finally:
        upload.discard()


def with_init(folder: Path) -> FederatedConfig:
    (folder / "start.safetensors").write_bytes(
        safetensors.numpy.save(
            {
                "_orig_mod.w": random_model(FLAT, 0).view("<f4")[:21].reshape(7, 3).copy(),
                "b": random_model(FLAT, 0).view("<f4")[21:].copy(),
            }
        )
    )
    return replace(CONFIG, init="start.safetensors")


async def test_the_starting_model_needs_no_second_party(tmp_path: Path) -> None:
    async with running(tmp_path, config=with_init(tmp_path)) as aggregator:
        join(aggregator)
        send(aggregator, FLAT, random_model(FLAT, 0))
        await wait_for(aggregator, "a", Instruction.TRAIN)
        assert aggregator.refusals == {}


async def test_another_model_than_the_starting_one_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, config=with_init(tmp_path)) as aggregator:
        join(aggregator)
        with pytest.raises(UpdateRefused, match=r"its w is not that of training\.init") as refused:
            send(aggregator, FLAT, random_model(FLAT, 1))
        assert refused.value.reason is RefusalReason.INITIAL


async def test_what_the_starting_model_lacks_needs_a_second_party(tmp_path: Path) -> None:
    async with running(tmp_path, config=with_init(tmp_path)) as aggregator:
        join(aggregator)
        send(aggregator, OTHER, random_model(OTHER, 1))
        assert aggregator.machine.instruction("b") is Instruction.INITIAL


PUBLISHED = {
    "under both names": {},
    "under the first name": {"second.weight": ""},
    "under the second name": {"first.weight": ""},
    "with what is not persistent": {"": "scale"},
}


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
async def test_a_starting_model_as_others_publish_it_is_confirmed_by_two_parties(
    tmp_path: Path, prefix: str, published: dict[str, str]
) -> None:
    model = Tied()
    state = {k: v for k, v in model.state_dict().items() if k not in published}
    if "" in published:
        state["scale"] = model.scale
    stored = {prefix + name: tensor.clone() for name, tensor in state.items()}
    safetensors.torch.save_file(stored, tmp_path / "start.safetensors")
    sent = ModelState(model)
    sent.pack()
    async with running(tmp_path, config=replace(CONFIG, init="start.safetensors")) as aggregator:
        join(aggregator)
        send(aggregator, sent.layout, sent.memory)
        assert aggregator.machine.instruction("b") is Instruction.INITIAL
        send(aggregator, sent.layout, sent.memory, "b")
        await wait_for(aggregator, "a", Instruction.TRAIN)
        assert aggregator.refusals == {}


async def test_tied_tensors_are_compared_with_the_starting_model(tmp_path: Path) -> None:
    model = Tied()
    stored = {"second.weight": model.second.weight.detach() + 1.0}
    safetensors.torch.save_file(stored, tmp_path / "start.safetensors")
    sent = ModelState(model)
    sent.pack()
    async with running(tmp_path, config=replace(CONFIG, init="start.safetensors")) as aggregator:
        join(aggregator)
        with pytest.raises(UpdateRefused, match=r"its first\.weight is not that of"):
            send(aggregator, sent.layout, sent.memory)


async def test_an_initial_model_too_large_for_the_volume_is_refused(tmp_path: Path) -> None:
    layout = Layout.of([Entry(name="w", dtype="F32", shape=(1 << 37,))])
    header = layout.header(metadata(round=0))
    async with running(tmp_path) as aggregator:
        join(aggregator)
        with pytest.raises(UpdateRefused, match="use a larger volume") as refused:
            aggregator.open_upload().feed(header + b"x")
        assert refused.value.reason is RefusalReason.VOLUME
