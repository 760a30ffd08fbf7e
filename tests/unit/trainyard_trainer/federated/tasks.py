"""A small Task whose features the tests of local training choose."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, StepLR

from trainyard_trainer.task import Data, Task, Tensors


class Slope(Task):
    """A line through points that differ from party to party."""

    def __init__(self, norm: bool = False, groups: bool = False, decay: float = 1.0) -> None:
        self.norm, self.groups, self.decay = norm, groups, decay

    def model(self) -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(3, 4)]
        if self.norm:
            layers.append(nn.BatchNorm1d(4))
        return nn.Sequential(*layers, nn.Linear(4, 1))

    def train_data(self) -> Data:
        seed = 0 if self.party is None else sum(self.party.name.encode())
        rng = torch.Generator().manual_seed(seed)
        inputs = torch.randn(37, 3, generator=rng)
        return Tensors(inputs, inputs @ torch.randn(3, 1, generator=rng))

    def eval_data(self) -> Data:
        return Tensors(torch.ones(5, 3), torch.zeros(5, 1))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"height": model(batch[0]).mean()}

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        if not self.groups:
            return torch.optim.SGD(params, lr=0.1)
        first, *rest = params
        chosen: list[dict[str, Any]] = [{"params": [first], "lr": 0.3}, {"params": rest}]
        return torch.optim.SGD(chosen, lr=0.1)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
        return None if self.decay == 1.0 else StepLR(optimizer, step_size=1, gamma=self.decay)
