"""A user's Task that mostly sleeps, so that many jobs can train concurrently."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from trainyard_trainer.task import Data, Task, Tensors


class Paced(Task):
    """Linear regression on synthetic data; a step takes at least `seconds`."""

    def __init__(self, seconds: float = 0.05) -> None:
        self.seconds = seconds

    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def train_data(self) -> Data:
        points = torch.linspace(0, 1, 512).unsqueeze(1)
        return Tensors(points, 2 * points + 1)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        time.sleep(self.seconds)
        return nn.functional.mse_loss(model(batch[0]), batch[1])
