"""Shares summed over any number of workers make the step of one process."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tests.processes.tasks import Line
from trainyard_trainer.contract.config import JobConfig, Target
from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.runtime.exits import TaskFailed, TaskInvalid
from trainyard_trainer.task import Task
from trainyard_trainer.training.replica import Contribution, Replica, build
from trainyard_trainer.training.snapshot import model_tensors

CONFIG = JobConfig(task="", batch_size=16, epochs=2, seed=3)
CPU = torch.device("cpu")


class Clipped(Line):
    clip_norm = 0.01


class Piecewise(Line):
    accumulate = 3


class Weighted(Line):
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        losses: Tensor = (model(batch[0]) - batch[1]).square().squeeze(1)
        return losses

    def weights(self, batch: Any) -> Tensor:
        weights: Tensor = batch[0][:, 0].abs() + 0.1
        return weights


class Scheduled(Line):
    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)


class Dropout(Line):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 1)).double()


def make(task: Task, config: JobConfig = CONFIG) -> Replica:
    return build(task, config, CPU)


def turn(replicas: list[Replica]) -> None:
    """One turn of replicas that sum by hand."""
    works = [r.compute(rank, len(replicas)) for rank, r in enumerate(replicas)]
    totals = torch.stack([w.totals for w in works]).sum(0)
    summed = [sum(parts) for parts in zip(*(w.gradients for w in works), strict=True)]
    for replica, work in zip(replicas, works, strict=True):
        for mine, all_of_them in zip(work.gradients, summed, strict=True):
            assert isinstance(all_of_them, Tensor)
            mine.copy_(all_of_them)
        replica.commit(totals, Contribution(totals=work.totals, buffers=works[0].buffers))


def train(replicas: list[Replica], turns: int = 20) -> Replica:
    for _ in range(turns):
        turn(replicas)
    assert len({r.digest() for r in replicas}) == 1
    return replicas[0]


def assert_same(one: Replica, other: Replica) -> None:
    others = model_tensors(other.model)
    for name, tensor in model_tensors(one.model).items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [2, 3, 20])
@pytest.mark.parametrize("cls", [Line, Clipped, Weighted, Scheduled])
def test_several_replicas_compute_what_one_computes(cls: type[Task], size: int) -> None:
    assert_same(train([make(cls())]), train([make(cls()) for _ in range(size)]))


def test_pieces_of_a_share_make_up_the_share() -> None:
    assert_same(train([make(Line())]), train([make(Piecewise())]))


def test_buffers_are_those_of_rank_0() -> None:
    replicas = [make(Line(norm=True)) for _ in range(3)]
    assert int(train(replicas).model[2].num_batches_tracked) == replicas[0].step  # type: ignore[index]


def test_a_repeated_iteration_leaves_no_trace() -> None:
    one, other = make(Line(norm=True)), make(Line(norm=True))
    for _ in range(5):
        other.compute(0, 2)
        other.undo()
        other.undo()  # Asked to stop between two turns: there is nothing to forget.
        turn([one])
        turn([other])
    assert one.digest() == other.digest()


def test_a_repeated_iteration_draws_the_same_random_numbers() -> None:
    replica = make(Dropout())
    first = replica.compute(0, 1).gradients[0].clone()
    replica.undo()
    assert torch.equal(replica.compute(0, 1).gradients[0], first)


@pytest.mark.parametrize("cls", [Line, Scheduled])
def test_state_handed_over_is_the_same_bit_for_bit(cls: type[Task]) -> None:
    one, other = make(cls()), make(cls(), replace(CONFIG, seed=3))
    train([one], 9)
    other.restore(one.encode())
    assert other.digest() == one.digest()
    assert (other.cursor, other.audit, other.metrics) == (one.cursor, one.audit, one.metrics)
    train([one, other], 9)


def test_the_plan_in_force_travels_with_the_state() -> None:
    one, other = make(Line()), make(Line())
    one.plan = Plan(generation=4, workers=2, batch_size=7)
    other.restore(one.encode())
    assert other.batch_size == 7


def test_training_ends_at_the_target() -> None:
    config = replace(CONFIG, epochs=50, target=Target(metric="eval/open", value=0.0))
    replica = make(Line(), config)
    while not replica.is_over:
        turn([replica])
    assert replica.cursor.epochs == 1
    assert replica.audit.epochs == 1
    assert replica.audit.wrong == 0


def test_a_target_that_is_never_evaluated_is_refused_with_those_that_are() -> None:
    config = replace(CONFIG, target=Target(metric="eval/accuracy", value=1.0))
    with pytest.raises(TaskInvalid, match="eval/loss, eval/open"):
        make(Line(), config)


class Shelf(Line):
    def summary(self, means: Mapping[str, float]) -> Mapping[str, float]:
        return {os.fsdecode(b"caf\xe9"): means["loss"]}


def test_a_metric_is_named_so_that_it_can_be_encoded() -> None:
    """Undecodable file names are lone surrogates in Python, which no message can hold."""
    config = replace(CONFIG, epochs=1)
    replica = make(Shelf(), config)
    while not replica.is_over:
        turn([replica])
    [name] = replica.metrics
    assert name.encode() == "eval/caf\N{REPLACEMENT CHARACTER}".encode()


class Lbfgs(Line):
    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(params)


class Plateau(Line):
    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)


class Sparse(Line):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Embedding(5, 3, sparse=True))


class Stream(Line):
    def train_data(self) -> Any:
        return iter([1, 2, 3])


class Empty(Line):
    def train_data(self) -> Any:
        return []


class Matrix(Line):
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        outputs: Tensor = model(batch[0])
        return outputs


class Mistaken(Line):
    lines: ClassVar[list[int]] = []

    def model(self) -> nn.Module:
        return self.lines[3]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("cls", "says"),
    [
        (Lbfgs, "LBFGS"),
        (Plateau, "ReduceLROnPlateau"),
        (Sparse, "sparse=False"),
        (Stream, "map-style"),
        (Empty, "empty"),
        (Matrix, r"return a scalar or \(8,\)"),
    ],
)
def test_unsupported_options_are_rejected_with_a_message(cls: type[Task], says: str) -> None:
    with pytest.raises(TaskInvalid, match=says):
        make(cls())


def test_an_exception_of_user_code_is_reported_as_such() -> None:
    with pytest.raises(TaskFailed, match="list index out of range") as caught:
        make(Mistaken())
    assert isinstance(caught.value.__cause__, IndexError)


def test_a_starting_model_that_does_not_fit_is_refused() -> None:
    other = Line(norm=True)
    from trainyard_trainer.training.snapshot import encode

    data = encode(model_tensors(other.model()), {})
    with pytest.raises(TaskInvalid, match="which the model lacks"):
        make(Line()).start_from(data, "the file")
    with pytest.raises(TaskInvalid, match=r"training\.init"):
        make(Line()).start_from(b"no safetensors at all", "the file")
