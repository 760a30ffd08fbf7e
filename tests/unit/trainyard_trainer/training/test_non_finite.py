"""A training that diverges is reported as such, and in strict JSON."""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.processes.tasks import Line
from tests.unit.trainyard_trainer.training.test_replica import CONFIG, CPU, turn
from trainyard_trainer.coordinator.state import DOCUMENT, SpooledUpload, StateStore
from trainyard_trainer.runtime import checkpoint
from trainyard_trainer.runtime.checkpoint import STATE, CheckpointStore
from trainyard_trainer.runtime.exits import divergence
from trainyard_trainer.training.replica import Replica, build
from trainyard_trainer.training.result import final_model, result


class Diverging(Line):
    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=1e300)


def diverged() -> Replica:
    replica = build(Diverging(), replace(CONFIG, epochs=1), CPU)
    while not replica.is_over:
        turn([replica])
    return replica


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def header(data: bytes) -> str:
    length = int.from_bytes(data[:8], "little")
    text: str = json.loads(data[8 : 8 + length])["__metadata__"][DOCUMENT]
    return text


def keep(store: StateStore, replica: Replica) -> int:
    data, spool = replica.encode(), store.store.open_spool()
    (spool / STATE).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return store.keep_checkpoint(SpooledUpload(spool=spool, sha256=digest, size=len(data)))


def test_non_finite_steps_are_counted_until_one_is_finite() -> None:
    replica = diverged()
    assert replica.non_finite_steps > 0
    assert not replica.is_finite
    other = build(Line(), CONFIG, CPU)
    other.non_finite_steps = 3
    turn([other])
    assert other.non_finite_steps == 0
    assert other.is_finite


def test_a_result_that_is_not_finite_is_strict_json_and_says_so() -> None:
    replica = diverged()
    found = strict(json.dumps(result(replica)))
    assert (found["loss"], found["metrics"]["eval/loss"]) == (None, None)
    assert found["finite"] is False
    assert "diverged" in divergence(found)
    assert strict(header(final_model(replica)))["finite"] is False
    assert divergence(result(build(Line(), CONFIG, CPU))) == ""


def test_a_state_that_is_not_finite_travels_as_strict_json() -> None:
    replica, other = diverged(), build(Diverging(), CONFIG, CPU)
    strict(header(replica.encode()))
    other.restore(replica.encode())
    assert other.digest() == replica.digest()
    assert math.isnan(other.loss)
    assert math.isnan(other.metrics["eval/loss"])
    assert other.non_finite_steps == replica.non_finite_steps


def test_a_state_that_is_not_finite_replaces_no_checkpoint(tmp_path: Path) -> None:
    store = StateStore(CheckpointStore(tmp_path, 1, 2), "")
    good = build(Line(), CONFIG, CPU)
    turn([good])
    assert keep(store, good) == 1
    assert keep(store, diverged()) == 1
    newest = store.store.newest()
    assert newest is not None
    assert newest[1].step == 1
    assert not list(tmp_path.glob("checkpoints/.tmp-*"))
    assert checkpoint.document(newest[0], DOCUMENT)["finite"] is True


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_come_back_in_the_optimizers_settings(value: float) -> None:
    one, other = build(Line(), CONFIG, CPU), build(Line(), CONFIG, CPU)
    one.optimizer.param_groups[0]["weight_decay"] = value
    other.restore(one.encode())
    found = other.optimizer.param_groups[0]["weight_decay"]
    assert found == value or (math.isnan(found) and math.isnan(value))
