"""A user's Task that diverges at one party, whose learning rate is NaN."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from trainyard_trainer.tasks.heart import Heart


class Poisoned(Heart):
    """Heart, with updates of NaN where `poison` is set."""

    def __init__(self, poison: bool = False, **args: Any) -> None:
        super().__init__(**args)
        self.poison = poison

    def optimizer(self, params: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """SGD; with `poison` the first step makes every weight NaN."""
        return torch.optim.SGD(params, lr=math.nan if self.poison else self.lr)
