"""Rounds on disk are complete or absent, fenced by term, and resumed after any crash."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from tests.processes.tasks import Tied
from tests.unit.trainyard_trainer.federated.models import FLAT, random_model
from trainyard_trainer.contract.env import MODEL_FILE, RESULT_FILE
from trainyard_trainer.federated.aggregation.aggregate import AggregateNotFinite, Update
from trainyard_trainer.federated.aggregation.strategies import FedAdam, FedAvg, Strategy
from trainyard_trainer.federated.party.state import ModelState
from trainyard_trainer.federated.rounds.history import Best, FederationHistory, RoundRecord
from trainyard_trainer.federated.server import store as store_module
from trainyard_trainer.federated.server.store import RoundStore
from trainyard_trainer.runtime import checkpoint
from trainyard_trainer.runtime.exits import Fenced, StateUnusable, TaskInvalid


def add_round(store: RoundStore, number: int) -> None:
    updates = [Update(party=p, weight=1.0, data=random_model(FLAT, number + ord(p))) for p in "ab"]
    history = store.history.with_round(RoundRecord(round=number, parties=2), {"a": 3, "b": 4}, 1)
    store.aggregate(updates, history)


def open_store(directory: Path, term: int = 1, strategy: Strategy | None = None) -> RoundStore:
    store = RoundStore(directory, term, strategy or FedAvg())
    if store.model is None:
        history = FederationHistory().with_round(RoundRecord(round=0), {}, 0)
        store.initialize(FLAT, random_model(FLAT, 0), history)
    return store


def model_of(store: RoundStore) -> list[float]:
    assert store.model is not None
    return list(store.model.data.view("<f4"))


@pytest.mark.parametrize("strategy", [FedAvg(), FedAdam()])
def test_a_successor_resumes_without_a_difference(tmp_path: Path, strategy: Strategy) -> None:
    undisturbed = open_store(tmp_path / "undisturbed", strategy=strategy)
    for number in (1, 2, 3, 4):
        add_round(undisturbed, number)
        restarted = open_store(tmp_path / "restarted", number, strategy)
        add_round(restarted, number)
    assert model_of(undisturbed) == model_of(restarted)
    assert undisturbed.history == restarted.history
    assert undisturbed.history.contributions == {"a": 4, "b": 4}


def test_only_the_newest_rounds_are_kept(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for number in range(1, 6):
        add_round(store, number)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["000000000004-000001", "000000000005-000001"]


class Crash(BaseException):
    """The process ends here."""


CRASHES = ["_create", "aggregate", "_checksums", "write_atomically", "keep_checkpoint", "rename"]


@pytest.mark.parametrize("point", CRASHES)
@pytest.mark.parametrize("strategy", [FedAvg(), FedAdam()], ids=["FedAvg", "FedAdam"])
def test_a_crash_during_an_aggregation_loses_only_that_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, strategy: Strategy
) -> None:
    store = open_store(tmp_path, strategy=strategy)
    add_round(store, 1)
    before = model_of(store)

    def crash(*_: Any, **__: Any) -> None:
        raise Crash

    with monkeypatch.context() as broken:
        owner: Any = {
            "_create": RoundStore,
            "write_atomically": checkpoint,
            "keep_checkpoint": checkpoint.CheckpointStore,
            "rename": Path,
        }.get(point, store_module)
        broken.setattr(owner, point, crash)
        with pytest.raises(Crash):
            add_round(store, 2)
    successor = open_store(tmp_path, 2, strategy)
    assert successor.history.round == 1
    assert model_of(successor) == before
    assert not list((tmp_path / "checkpoints").glob(".tmp-*"))
    add_round(successor, 2)
    undisturbed = open_store(tmp_path / "undisturbed", strategy=strategy)
    add_round(undisturbed, 1)
    add_round(undisturbed, 2)
    assert model_of(successor) == model_of(undisturbed)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "the model": lambda folder: flip(folder / "state.safetensors"),
    "the history": lambda folder: (folder / "history.json").write_text("{"),
    "no history": lambda folder: (folder / "history.json").unlink(),
    "the strategy's state": lambda folder: flip(folder / "slots.safetensors"),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_corrupt_round_is_skipped(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    store = open_store(tmp_path, strategy=FedAdam())
    add_round(store, 1)
    assert store.model is not None
    damage(store.model.path.parent)
    assert open_store(tmp_path, 2, FedAdam()).history.round == 0


def test_a_lower_term_can_neither_start_nor_write(tmp_path: Path) -> None:
    old = open_store(tmp_path, 1)
    open_store(tmp_path, 2)
    with pytest.raises(Fenced):
        RoundStore(tmp_path, 1, FedAvg())
    with pytest.raises(Fenced):
        add_round(old, 1)
    with pytest.raises(Fenced):
        old.keep_best(Best(round=0, value=1.0))
    with pytest.raises(Fenced):
        old.finish(0, {})
    assert open_store(tmp_path, 3).history.round == 0


def test_the_best_model_outlives_its_checkpoint(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    add_round(store, 1)
    best = model_of(store)
    store.keep_best(Best(round=1, value=0.5))
    for number in range(2, 6):
        add_round(store, number)
    successor = open_store(tmp_path, 2)
    assert successor.history.best == Best(round=1, value=0.5)
    successor.finish(1, {"round": 1})
    tensors = safetensors.numpy.load((tmp_path / MODEL_FILE).read_bytes())
    # In the order of the layout: w, then b.
    assert np.concatenate([tensors["w"].ravel(), tensors["b"]]).tolist() == best
    assert [p.name for p in tmp_path.glob("best-*")] == ["best-000000000001.safetensors"]


def test_a_successor_finds_the_result(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    add_round(store, 1)
    store.finish(1, {"round": 1})
    found = open_store(tmp_path, 2).result
    assert found == json.loads((tmp_path / RESULT_FILE).read_text())
    assert found["model"]["sha256"] == checkpoint.checksum(tmp_path / MODEL_FILE)
    assert found["round"] == 1
    (tmp_path / MODEL_FILE).unlink()
    assert open_store(tmp_path, 3).result == {}


def test_a_file_system_without_links_is_supported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("links are not supported here")

    monkeypatch.setattr("os.link", refuse)
    store = open_store(tmp_path)
    store.keep_best(Best(round=0, value=0.5))
    store.finish(0, {})
    assert (tmp_path / MODEL_FILE).read_bytes() == next(tmp_path.glob("best-*")).read_bytes()


def test_a_crash_counts_as_a_lost_round_and_an_orderly_end_does_not(tmp_path: Path) -> None:
    assert open_store(tmp_path, 1).mark_in_progress() == 0
    second = open_store(tmp_path, 2)
    assert second.mark_in_progress() == 1
    second.mark(4, in_progress=True)
    third = open_store(tmp_path, 3)
    assert third.mark_in_progress() == 5
    third.mark(5, in_progress=False)
    assert open_store(tmp_path, 4).mark_in_progress() == 5


def test_a_stored_history_is_loaded_unchanged(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    record = RoundRecord(round=1, parties=2, samples=7, loss=0.5, metrics={"eval/accuracy": 0.25})
    history = store.history.with_round(record, {"a": 3, "b": 4}, 2)
    history = replace(history, generation=4, fencing_token=9, best=Best(round=1, value=0.5))
    updates = [Update(party="a", weight=1.0, data=random_model(FLAT, 1))]
    store.aggregate(updates, history)
    assert open_store(tmp_path, 2).history == history
    assert history.samples_trained == 14


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_history_of_any_figures_is_readable(tmp_path: Path, value: float) -> None:
    store = open_store(tmp_path)
    metrics = {"eval/loss": value, "eval/accuracy": 0.5}
    for number in (1, 2):
        record = RoundRecord(round=number, loss=value, seconds=value, metrics=metrics)
        history = replace(store.history.with_round(record, {}, 1), best=Best(round=1, value=value))
        store.aggregate([Update(party="a", weight=1.0, data=random_model(FLAT, 1))], history)
    found = open_store(tmp_path, 2).history
    assert found == store.history
    assert found.last_round == RoundRecord(round=2, metrics={"eval/accuracy": 0.5})


def test_rounds_that_are_all_damaged_are_no_new_beginning(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    add_round(store, 1)
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "history.json").write_text("{")
    with pytest.raises(StateUnusable, match=r"none of the 2 checkpoints .*delete them all"):
        RoundStore(tmp_path, 2, FedAvg())


def test_a_result_is_strict_json(tmp_path: Path) -> None:
    open_store(tmp_path).finish(0, {"loss": math.nan, "history": [{"loss": math.inf}]})
    result = json.loads((tmp_path / RESULT_FILE).read_text(), parse_constant=pytest.fail)
    assert (result["loss"], result["history"]) == (None, [{"loss": None}])


def test_free_space_is_checked_before_the_first_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 4 * FLAT.size + 3 * 2 * FLAT.size  # Four models, and two slots of three rounds.
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(StateUnusable, match=rf"needs {needed:,} bytes, .* {needed - 1:,} free"):
        open_store(tmp_path, strategy=FedAdam())
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("is_last", [True, False])
def test_the_result_loads_by_the_documented_line(tmp_path: Path, is_last: bool) -> None:
    state, store = ModelState(Tied()), RoundStore(tmp_path, 1, FedAvg())
    state.pack()
    history = FederationHistory().with_round(RoundRecord(round=0), {}, 0)
    store.initialize(state.layout, state.memory, history)
    store.keep_best(Best(round=0, value=0.5))
    if not is_last:
        history = store.history.with_round(RoundRecord(round=1, parties=1), {"a": 3}, 1)
        update = Update(party="a", weight=1.0, data=random_model(state.layout, 3))
        store.aggregate([update], history)
    RoundStore(tmp_path, 2, FedAvg()).finish(0, {})
    model = Tied()
    model.load_state_dict(safetensors.torch.load_file(tmp_path / MODEL_FILE))
    other = ModelState(model)
    other.pack()
    assert other.memory.tobytes() == state.memory.tobytes()
    result = json.loads((tmp_path / RESULT_FILE).read_text())
    assert result["model"] == {
        "sha256": checkpoint.checksum(tmp_path / MODEL_FILE),
        "bytes": (tmp_path / MODEL_FILE).stat().st_size,
    }
    assert not list(tmp_path.glob(".model*"))


def test_free_space_for_a_result_of_its_own_is_checked_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = ModelState(Tied()).layout
    needed = 4 * layout.size + layout.published.size
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    store = RoundStore(tmp_path, 1, FedAvg())
    with pytest.raises(StateUnusable, match=f"needs {needed:,} bytes"):
        store.initialize(layout, random_model(layout, 0), FederationHistory())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_starting_model_is_refused_with_the_line_that_converts_it(
    tmp_path: Path, zipped: bool
) -> None:
    store = RoundStore(tmp_path, 1, FedAvg())
    path = tmp_path / "model.bin"
    torch.save(Tied().state_dict(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        TaskInvalid, match=r"training\.init: model\.bin is pickled; convert it with"
    ):
        store.find_init("model.bin")


@pytest.mark.parametrize("init", ["../outside.safetensors", "link.safetensors", "ABSOLUTE"])
def test_a_starting_model_outside_the_state_directory_is_refused(tmp_path: Path, init: str) -> None:
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(FLAT.header({}) + random_model(FLAT, 1).tobytes())
    folder = tmp_path / "state"
    store = RoundStore(folder, 1, FedAvg())
    (folder / "link.safetensors").symlink_to(outside)
    init = str(outside) if init == "ABSOLUTE" else init
    with pytest.raises(TaskInvalid, match=r"training\.init is .* outside the state directory"):
        store.find_init(init)
    (folder / "inside.safetensors").write_bytes(outside.read_bytes())
    assert store.find_init("inside.safetensors") == folder / "inside.safetensors"


@pytest.mark.parametrize(("strategy", "value"), [(FedAdam(), 1e21), (FedAdam(), 3e38)])
def test_an_aggregate_that_is_not_finite_is_not_stored(
    tmp_path: Path, strategy: Strategy, value: float
) -> None:
    """A change of 1e21 is finite, and its square overflows the second moment."""
    store = open_store(tmp_path, strategy=strategy)
    before = model_of(store)
    data = random_model(FLAT, 1)
    data.view("<f4")[4] = value
    history = store.history.with_round(RoundRecord(round=1), {"a": 3}, 1)
    for _ in range(3):
        with pytest.raises(AggregateNotFinite, match="w"):
            store.aggregate([Update(party="a", weight=1.0, data=data)], history)
    assert model_of(store) == before
    successor = RoundStore(tmp_path, 2, strategy)
    assert (successor.history.round, model_of(successor)) == (0, before)
    add_round(successor, 1)
    assert np.isfinite(model_of(successor)).all()
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
