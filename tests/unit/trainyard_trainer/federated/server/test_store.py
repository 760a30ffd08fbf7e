"""Rounds on disk: whole or not there, by term, and gone on from after any crash."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.unit.trainyard_trainer.federated.models import FLAT, random_model
from trainyard_trainer.contract.env import MODEL_FILE, RESULT_FILE
from trainyard_trainer.federated.aggregation.aggregate import Update
from trainyard_trainer.federated.aggregation.strategies import FedAdam, FedAvg, Strategy
from trainyard_trainer.federated.rounds.history import Best, FederationHistory, RoundRecord
from trainyard_trainer.federated.server import store as room
from trainyard_trainer.federated.server.store import RoundStore
from trainyard_trainer.runtime import checkpoint
from trainyard_trainer.runtime.exits import Fenced


def folded(archive: RoundStore, number: int) -> None:
    updates = [Update(party=p, weight=1.0, data=random_model(FLAT, number + ord(p))) for p in "ab"]
    record = archive.record.aggregated(RoundRecord(round=number, parties=2), {"a": 3, "b": 4}, 1)
    archive.aggregate(updates, record)


def begun(directory: Path, term: int = 1, strategy: Strategy | None = None) -> RoundStore:
    archive = RoundStore(directory, term, strategy or FedAvg())
    if archive.model is None:
        record = FederationHistory().aggregated(RoundRecord(round=0), {}, 0)
        archive.initialize(FLAT, random_model(FLAT, 0), record)
    return archive


def model_of(archive: RoundStore) -> list[float]:
    assert archive.model is not None
    return list(archive.model.data.view("<f4"))


@pytest.mark.parametrize("strategy", [FedAvg(), FedAdam()])
def test_a_successor_goes_on_as_if_nothing_had_happened(tmp_path: Path, strategy: Strategy) -> None:
    calm = begun(tmp_path / "calm", strategy=strategy)
    for number in (1, 2, 3, 4):
        folded(calm, number)
        rough = begun(tmp_path / "rough", number, strategy)
        folded(rough, number)
    assert model_of(calm) == model_of(rough)
    assert calm.record == rough.record
    assert calm.record.contributions == {"a": 4, "b": 4}


def test_only_the_newest_rounds_are_kept(tmp_path: Path) -> None:
    archive = begun(tmp_path)
    for number in range(1, 6):
        folded(archive, number)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["000000000004-000001", "000000000005-000001"]


class Crash(BaseException):
    """The process ends here."""


CRASHES = ["_write", "aggregate", "_summarize", "write_atomically", "keep_checkpoint", "rename"]


@pytest.mark.parametrize("place", CRASHES)
@pytest.mark.parametrize("strategy", [FedAvg(), FedAdam()], ids=["FedAvg", "FedAdam"])
def test_a_crash_anywhere_in_a_fold_costs_that_fold_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, strategy: Strategy
) -> None:
    archive = begun(tmp_path, strategy=strategy)
    folded(archive, 1)
    before = model_of(archive)

    def crash(*_: Any, **__: Any) -> None:
        raise Crash

    with monkeypatch.context() as broken:
        owner: Any = {
            "_write": RoundStore,
            "write_atomically": checkpoint,
            "keep_checkpoint": checkpoint.CheckpointStore,
            "rename": Path,
        }.get(place, room)
        broken.setattr(owner, place, crash)
        with pytest.raises(Crash):
            folded(archive, 2)
    successor = begun(tmp_path, 2, strategy)
    assert successor.record.round == 1
    assert model_of(successor) == before
    assert not list((tmp_path / "checkpoints").glob(".tmp-*"))
    folded(successor, 2)
    undisturbed = begun(tmp_path / "calm", strategy=strategy)
    folded(undisturbed, 1)
    folded(undisturbed, 2)
    assert model_of(successor) == model_of(undisturbed)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "the model": lambda folder: flip(folder / "state.safetensors"),
    "the record": lambda folder: (folder / "record.json").write_text("{"),
    "no record": lambda folder: (folder / "record.json").unlink(),
    "the strategy's state": lambda folder: flip(folder / "slots.safetensors"),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_round_is_left_out(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    archive = begun(tmp_path, strategy=FedAdam())
    folded(archive, 1)
    assert archive.model is not None
    damage(archive.model.path.parent)
    assert begun(tmp_path, 2, FedAdam()).record.round == 0


def test_a_lower_term_neither_begins_nor_stores(tmp_path: Path) -> None:
    old = begun(tmp_path, 1)
    begun(tmp_path, 2)
    with pytest.raises(Fenced):
        RoundStore(tmp_path, 1, FedAvg())
    with pytest.raises(Fenced):
        folded(old, 1)
    with pytest.raises(Fenced):
        old.keep_best(Best(round=0, value=1.0))
    with pytest.raises(Fenced):
        old.finish(0, {})
    assert begun(tmp_path, 3).record.round == 0


def test_the_best_model_outlives_its_checkpoint(tmp_path: Path) -> None:
    archive = begun(tmp_path)
    folded(archive, 1)
    best = model_of(archive)
    archive.keep_best(Best(round=1, value=0.5))
    for number in range(2, 6):
        folded(archive, number)
    successor = begun(tmp_path, 2)
    assert successor.record.best == Best(round=1, value=0.5)
    successor.finish(1, {"round": 1})
    tensors = safetensors.numpy.load((tmp_path / MODEL_FILE).read_bytes())
    # In the order of the layout: w, then b.
    assert np.concatenate([tensors["w"].ravel(), tensors["b"]]).tolist() == best
    assert [p.name for p in tmp_path.glob("best-*")] == ["best-000000000001.safetensors"]


def test_a_result_is_found_again(tmp_path: Path) -> None:
    archive = begun(tmp_path)
    folded(archive, 1)
    archive.finish(1, {"round": 1})
    found = begun(tmp_path, 2).result
    assert found == json.loads((tmp_path / RESULT_FILE).read_text())
    assert found["model"]["sha256"] == checkpoint.checksum(tmp_path / MODEL_FILE)
    assert found["round"] == 1
    (tmp_path / MODEL_FILE).unlink()
    assert begun(tmp_path, 3).result == {}


def test_links_are_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("links are not supported here")

    monkeypatch.setattr("os.link", refuse)
    archive = begun(tmp_path)
    archive.keep_best(Best(round=0, value=0.5))
    archive.finish(0, {})
    assert (tmp_path / MODEL_FILE).read_bytes() == next(tmp_path.glob("best-*")).read_bytes()


def test_a_crash_counts_as_a_round_lost_and_an_orderly_end_does_not(tmp_path: Path) -> None:
    assert begun(tmp_path, 1).mark_in_progress() == 0
    second = begun(tmp_path, 2)
    assert second.mark_in_progress() == 1
    second.mark(4, is_open=True)
    third = begun(tmp_path, 3)
    assert third.mark_in_progress() == 5
    third.mark(5, is_open=False)
    assert begun(tmp_path, 4).mark_in_progress() == 5


def test_a_record_survives_as_it_was(tmp_path: Path) -> None:
    archive = begun(tmp_path)
    past = RoundRecord(round=1, parties=2, samples=7, loss=0.5, metrics={"eval/accuracy": 0.25})
    record = archive.record.aggregated(past, {"a": 3, "b": 4}, 2)
    record = replace(record, generation=4, fencing_token=9, best=Best(round=1, value=0.5))
    updates = [Update(party="a", weight=1.0, data=random_model(FLAT, 1))]
    archive.aggregate(updates, record)
    assert begun(tmp_path, 2).record == record
    assert record.trained == 14
