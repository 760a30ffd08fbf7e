"""What workers must have alike, in lines."""

import torch
from torch import nn

from tests.processes.tasks import Line
from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.training.layout import MAX_LINE, MAX_LINES, layout
from trainyard_trainer.training.replica import Replica


class Deep(Line):
    """More tensors than a layout has lines, with long names."""

    def model(self) -> nn.Module:
        layers = nn.Sequential(*(nn.Linear(1, 1) for _ in range(MAX_LINES)))
        return nn.ModuleDict({"name_" * 100: layers})


def replica(task: Line) -> Replica:
    return Replica(task, JobConfig(task=""), torch.device("cpu"))


def test_it_names_data_optimizer_and_tensors() -> None:
    lines = layout(replica(Line()))
    assert "203 samples in train_data" in lines
    assert "the optimizer Adam" in lines
    assert "the tensor 0.weight (float64 [8, 6])" in lines


def test_it_is_bounded_and_still_tells_large_models_apart() -> None:
    one = replica(Deep())
    lines = layout(one)
    assert len(lines) == MAX_LINES
    assert max(len(line) for line in lines) <= MAX_LINE
    list(one.model.parameters())[-1].requires_grad = False
    assert layout(one) != lines
