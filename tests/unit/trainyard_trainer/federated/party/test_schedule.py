"""Learning rates go on from round to round, and last for all rounds."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from tests.processes.tasks import Line
from trainyard_trainer.federated.party.schedule import RoundSchedule
from trainyard_trainer.federated.party.trainer import LocalTrainer
from trainyard_trainer.federated.protocol.messages import TrainConfig
from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.task import Party

STEPS = 3
ROUNDS = 40
MakeScheduler = Callable[[Optimizer], LRScheduler]


class Cycle(Line):
    """Seven steps of 32 samples a round; the schedule lasts for three rounds."""

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=21)


class CountedSteps(lr_scheduler.StepLR):
    """A schedule that counts its steps over all schedulers, also those of other rounds."""

    count = 0

    def step(self, epoch: int | None = None) -> None:
        CountedSteps.count += 1
        super().step(epoch)


class Counted(Line):
    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return CountedSteps(optimizer, step_size=5, gamma=0.9)


def trainer(
    rounds: int, monkeypatch: pytest.MonkeyPatch, task: Callable[[], Line] = Cycle
) -> LocalTrainer:
    monkeypatch.setattr("trainyard_trainer.federated.party.trainer.load", lambda *_: task())
    config = TrainConfig(
        task="any:Task", args={}, seed=1, batch_size=32, local_epochs=1, rounds=rounds
    )
    made = LocalTrainer(config, Party(name="a"), torch.device("cpu"))
    made.state.pack()
    return made


def test_a_schedule_that_ends_before_the_rounds_is_refused_before_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(TaskInvalid, match="does not last for 4 rounds of 7 steps"):
        trainer(4, monkeypatch)
    last = trainer(3, monkeypatch)
    assert last.train(3).samples == 203


def test_a_late_round_takes_no_more_steps_of_the_schedule_than_an_early_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    party = trainer(1000, monkeypatch, Counted)

    def steps_of(number: int) -> int:
        before = CountedSteps.count
        party.train(number)
        return CountedSteps.count - before

    train, initial = 7, 1  # A new scheduler makes a step of its own.
    early = [steps_of(number) for number in (2, 3)]
    away = steps_of(900)
    assert away == 897 * 7 + train + initial, "a party that was away catches up once"
    assert [steps_of(number) for number in (901, 902)] == early == [7 + train + initial] * 2
    assert steps_of(902) == train + initial, "a round that is repeated begins where it did"


def test_a_round_begins_where_the_last_one_ended_if_its_last_batch_is_larger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Norm(Counted):
        """BatchNorm needs two samples: a rest of one joins the last batch."""

        def __init__(self) -> None:
            super().__init__(norm=True)
            self.data.columns = tuple(column[:65] for column in self.data.columns)

    party = trainer(10, monkeypatch, Norm)
    party.train(1)
    replica = party._replica
    assert replica.step == 2
    reached = replica.optimizer.param_groups[0]["lr"], replica.scheduler.last_epoch  # type: ignore[union-attr]
    party._start_round(2)
    replica = party._replica
    begun = replica.optimizer.param_groups[0]["lr"], replica.scheduler.last_epoch  # type: ignore[union-attr]
    assert begun == reached


SCHEDULERS: dict[str, MakeScheduler] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=4, gamma=0.7),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [5, 9, 31], gamma=0.3),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.97),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, start_factor=0.1, total_iters=20),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=50, power=2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=11),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=5),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, base_lr=0.01, max_lr=0.2, step_size_up=7),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.3, total_steps=STEPS * ROUNDS),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1.0 / (1.0 + step)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9 + step / 1e4),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, total_iters=7), lr_scheduler.ExponentialLR(o, gamma=0.9)],
        milestones=[7],
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, total_iters=7), lr_scheduler.ExponentialLR(o, gamma=0.95)]
    ),
}


def make_optimizer(lr: float | None, *, is_tensor: bool) -> Optimizer:
    first, second = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    base: Any = torch.tensor(0.1) if is_tensor else 0.1
    groups: list[dict[str, Any]] = [{"params": [first], "lr": 0.05}, {"params": [second]}]
    optimizer = torch.optim.SGD(groups, lr=base, momentum=0.9)
    for group in optimizer.param_groups:
        group["lr"] = lr if lr is not None else group["lr"]
    return optimizer


def rates_of_round(optimizer: Optimizer, scheduler: LRScheduler) -> list[float]:
    """All settings that change in a round, before each of its steps."""
    seen = []
    for _ in range(STEPS):
        for group in optimizer.param_groups:
            seen += [float(group["lr"]), float(group["momentum"])]
        optimizer.step()
        scheduler.step()
    return seen


def replayed(make: MakeScheduler, number: int, lr: float | None, *, is_tensor: bool) -> list[float]:
    optimizer = make_optimizer(lr, is_tensor=is_tensor)
    scheduler = make(optimizer)
    for _ in range((number - 1) * STEPS):
        scheduler.step()
    return rates_of_round(optimizer, scheduler)


@pytest.mark.parametrize("name", SCHEDULERS)
@settings(max_examples=25)
@given(
    rounds=st.lists(
        st.tuples(st.integers(1, ROUNDS), st.sampled_from([None, None, None, 0.2])),
        min_size=2,
        max_size=6,
    ),
    is_tensor=st.booleans(),
)
def test_learning_rates_are_those_of_one_schedule_over_all_rounds(
    name: str, rounds: Sequence[tuple[int, float | None]], is_tensor: bool
) -> None:
    make, schedule = SCHEDULERS[name], RoundSchedule(STEPS, ROUNDS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        warnings.filterwarnings("ignore", message=".*optimizer.step.. has been overridden.*")
        for number, lr in rounds:
            optimizer = make_optimizer(lr, is_tensor=is_tensor)
            scheduler = make(optimizer)
            schedule.start_round(number, optimizer, scheduler, lr)
            expected = replayed(make, number, lr, is_tensor=is_tensor)
            assert rates_of_round(optimizer, scheduler) == expected
