"""Handwritten digits of 8 by 8 pixels: 1,797 samples, ten classes.

Data: "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998; UCI Machine
Learning Repository, CC BY 4.0), as scikit-learn ships it (BSD 3-Clause).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from trainyard_trainer.task import Data, Task, Tensors

HELD_OUT: Final = 360
"""Samples for evaluation, about a fifth."""
GREYS: Final = 16.0
"""Pixels are counts from 0 to 16."""


class Digits(Task):
    """A network with one hidden layer on scikit-learn's digits; `eval/accuracy` reaches 0.97."""

    def __init__(self, hidden: int = 64, lr: float = 3e-3, split: int = 0) -> None:
        """`hidden` units, AdamW's learning rate, and the seed that picks the held-out samples."""
        self.hidden, self.lr = hidden, lr
        pixels, classes = load_digits(return_X_y=True)
        order = np.random.default_rng(split).permutation(len(pixels))
        inputs = torch.tensor(pixels[order] / GREYS, dtype=torch.float32)
        targets = torch.tensor(classes[order])
        self._eval = Tensors(inputs[:HELD_OUT], targets[:HELD_OUT])
        self._train = Tensors(inputs[HELD_OUT:], targets[HELD_OUT:])

    def model(self) -> nn.Module:
        """64 pixels, `hidden` rectified units, 10 classes."""
        return nn.Sequential(nn.Linear(64, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 10))

    def train_data(self) -> Data:
        """1,437 samples."""
        return self._train

    def eval_data(self) -> Data:
        """360 samples."""
        return self._eval

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW, which needs no tuning here for batches from 16 to 1,024."""
        return torch.optim.AdamW(params, lr=self.lr)
