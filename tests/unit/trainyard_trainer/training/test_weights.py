"""Weights of samples, in training and in evaluation."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.trainyard_trainer.training.test_replica import CONFIG, CPU, train, turn
from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.task import Data, Task, Tensors
from trainyard_trainer.training.replica import Replica, build

SAMPLES = 64


class Weighted(Task):
    """Few samples weigh most, and stand together."""

    def __init__(self, lr: float = 0.0, scalar: bool = False, **weights: float) -> None:
        rng = torch.Generator().manual_seed(1)
        self.lr, self.scalar = lr, scalar
        inputs = torch.randn(SAMPLES, 6, generator=rng).double()
        inputs[:8] += 3.0
        weight = torch.full((SAMPLES,), weights.get("others", 1.0)).double()
        weight[:8] = weights.get("first", 100.0)
        weight[60:] = weights.get("last", 1.0)
        self.data = Tensors(inputs, (inputs[:, 0] > 0).long(), weight)

    def model(self) -> nn.Module:
        return nn.Linear(6, 2).double()

    def train_data(self) -> Data:
        return self.data

    def eval_data(self) -> Data:
        return self.data

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        losses: Tensor = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        if self.scalar:
            losses = (losses * batch[2]).sum() / batch[2].sum()
        return losses

    def weights(self, batch: Any) -> Tensor:
        weights: Tensor = batch[2]
        return weights

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor | float]:
        hits = (model(batch[0]).argmax(dim=-1) == batch[1]).double()
        return {"accuracy": (hits * batch[2]).sum() / batch[2].sum()}

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(params, lr=self.lr)


def evaluated(task: Weighted, batch_size: int, workers: int) -> dict[str, float]:
    config = replace(CONFIG, batch_size=batch_size, epochs=1)
    replicas = [build(type(task)(task.lr), config, CPU) for _ in range(workers)]
    while not replicas[0].is_over:
        turn(replicas)
    return replicas[0].metrics


@pytest.mark.parametrize(("batch_size", "workers"), [(64, 1), (8, 1), (7, 1), (64, 2), (64, 3)])
def test_a_weighted_evaluation_is_independent_of_batch_and_workers(
    batch_size: int, workers: int
) -> None:
    task = Weighted()
    torch.manual_seed(CONFIG.seed)
    model, batch = task.model(), task.data.columns
    with torch.no_grad():
        expected = (task.loss(model, batch) * batch[2]).sum() / batch[2].sum()
        accuracy = task.metrics(model, batch)["accuracy"]
    found = evaluated(task, batch_size, workers)
    assert found["eval/loss"] == pytest.approx(float(expected), rel=1e-12)
    assert found["eval/accuracy"] == pytest.approx(float(accuracy), rel=1e-12)


def masked(scalar: bool, lr: float = 0.1) -> Replica:
    """Only the last four samples count."""
    task = Weighted(lr=lr, scalar=scalar, first=0.0, others=0.0)
    return build(task, replace(CONFIG, batch_size=4), CPU)


@pytest.mark.parametrize("scalar", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_batch_that_weighs_nothing_teaches_nothing(scalar: bool, workers: int) -> None:
    replicas = [masked(scalar) for _ in range(workers)]
    before = [p.detach().clone() for p in replicas[0].model.parameters()]
    changes = 0
    while replicas[0].cursor.epoch == 0:
        ids = replicas[0].cursor.ids(replicas[0].cursor.batch(4))
        turn(replicas)
        after = [p.detach().clone() for p in replicas[0].model.parameters()]
        changed = any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert changed == bool((ids >= 60).any())
        changes, before = changes + changed, after
    assert 0 < changes <= 4
    assert (replicas[0].step, replicas[0].audit.wrong) == (16, 0)
    assert math.isfinite(replicas[0].loss)
    assert len({replica.digest() for replica in replicas}) == 1


@pytest.mark.parametrize("scalar", [False, True])
def test_an_evaluation_counts_only_what_has_weight(scalar: bool) -> None:
    replica = masked(scalar)
    while not replica.is_over:
        turn([replica])
    rows = tuple(column[60:] for column in replica.task.train_data().columns)  # type: ignore[attr-defined]
    with torch.no_grad():
        loss = nn.functional.cross_entropy(replica.model(rows[0]), rows[1])
    assert replica.metrics["eval/loss"] == pytest.approx(float(loss), rel=1e-12)


def test_an_evaluation_in_which_nothing_has_weight_is_not_a_number() -> None:
    task = Weighted(first=0.0, others=0.0, last=0.0)
    replica = build(task, replace(CONFIG, epochs=1), CPU)
    while not replica.is_over:
        turn([replica])
    assert all(math.isnan(value) for value in replica.metrics.values())
    assert set(replica.metrics) == {"eval/loss", "eval/accuracy"}


class Sometimes(Weighted):
    """A metric that exists for batches with a positive sample of the first column only."""

    least = 3.0

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor | float]:  # noqa: ARG002
        is_there = bool((batch[0][:, 0] > self.least).any())
        return {"large": 1.0} if is_there else {}


class Late(Sometimes):
    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor | float]:
        return {} if super().metrics(model, batch) else {"small": 1.0}


def test_a_metric_that_some_batches_lack_is_the_mean_of_the_others() -> None:
    assert evaluated(Sometimes(), 8, 2)["eval/large"] == 1.0


def test_a_metric_that_the_first_samples_lack_is_refused_by_name() -> None:
    with pytest.raises(TaskInvalid, match="'small' for some batches only"):
        evaluated(Late(), 8, 1)


def test_the_default_accuracy_is_weighted() -> None:
    class Plain(Weighted):
        def weights(self, batch: Any) -> Tensor:  # noqa: ARG002
            return torch.tensor([3.0, 1.0])

    logits = nn.Identity()
    batch = (torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    assert float(Task.metrics(Plain(), logits, batch)["accuracy"]) == 0.75


def test_replicas_with_weights_stay_equal() -> None:
    train([build(Weighted(lr=0.1), CONFIG, CPU) for _ in range(3)])
