"""A schedule must last for all rounds, which is known before the first."""

from typing import Any

import pytest
import torch

from tests.processes.tasks import Line
from trainyard_trainer.federated.party.trainer import LocalTrainer
from trainyard_trainer.federated.protocol.messages import TrainConfig
from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.task import Party


class Cycle(Line):
    """Seven steps of 32 samples a round; the schedule lasts for three rounds."""

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=21)


def trainer(rounds: int) -> LocalTrainer:
    task = f"{__name__}:Cycle"
    config = TrainConfig(task=task, args={}, seed=1, batch_size=32, local_epochs=1, rounds=rounds)
    return LocalTrainer(config, Party(name="a"), torch.device("cpu"))


def test_a_schedule_that_ends_before_the_rounds_is_refused_before_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainyard_trainer.federated.party.trainer.load", lambda *_: Cycle())
    with pytest.raises(TaskInvalid, match="does not last for 4 rounds of 7 steps"):
        trainer(4)
    last = trainer(3)
    last.state.pack()
    assert last.train(3).samples == 203
