"""A surrogate of a physical simulation: a field carried by a wind and smoothed by diffusion.

Data: none but what the task computes itself from a seed, by finite differences of the
advection–diffusion equation ∂u/∂t = -c·∇u + κ∇²u on a periodic square (first-order upwind in
space, forward Euler in time; LeVeque, Finite Difference Methods, 2007, chapters 9 and 10).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainyard_trainer.task import Data, Task, Tensors

Fields = NDArray[np.float32]

TIME_STEP: Final = 0.2
"""Of grid spacing over the fastest wind: stable, since |cx| + |cy| + 4κ < 1 / TIME_STEP."""
DIFFUSIVITY: Final = 0.1
WAVES: Final = 4
"""Initial fields are sums of this many waves in either direction."""
HELD_OUT: Final = 128


class Advection(Task):
    """A small convolutional network that predicts the field `steps` time steps ahead.

    `eval/relative_error` is |prediction - truth| / |truth|, `eval/skill` is 1 less the ratio of the
    prediction's error to that of persistence, the forecast that nothing changes: 0 is useless, 1
    perfect.
    """

    def __init__(
        self,
        size: int = 16,
        samples: int = 512,
        steps: int = 10,
        width: int = 16,
        lr: float = 3e-3,
        data_seed: int = 0,
    ) -> None:
        """A grid of `size` by `size`, `samples` for training, `width` channels in the network."""
        self.width, self.lr = width, lr
        rng = np.random.default_rng(data_seed)
        fields, winds = initial_fields(rng, samples + HELD_OUT, size)
        later = simulate(fields, winds, steps)
        # Each sample has three channels: the field, and the wind's two components everywhere.
        wind_maps = np.broadcast_to(winds[:, :, None, None], (*winds.shape, size, size))
        inputs = torch.tensor(np.concatenate([fields[:, None], wind_maps], axis=1))
        targets = torch.tensor(later)
        self._eval = Tensors(inputs[:HELD_OUT], targets[:HELD_OUT])
        self._train = Tensors(inputs[HELD_OUT:], targets[HELD_OUT:])

    def model(self) -> nn.Module:
        """Two periodic convolutions and a projection, added to the field as it is."""
        return Surrogate(self.width)

    def train_data(self) -> Data:
        """Pairs of (field and wind, field later)."""
        return self._train

    def eval_data(self) -> Data:
        """128 pairs with other fields and winds."""
        return self._eval

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Mean squared error over the grid."""
        inputs, targets = batch
        return nn.functional.mse_loss(model(inputs), targets)

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Mean squares of the prediction's error, of persistence's error and of the truth."""
        inputs, targets = batch
        return {
            "error": (model(inputs) - targets).square().mean(),
            "persistence": (inputs[:, 0] - targets).square().mean(),
            "truth": targets.square().mean(),
        }

    def summary(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """Ratios of root mean squares over the whole held-out set."""
        return {
            "loss": means["loss"],
            "relative_error": (means["error"] / means["truth"]) ** 0.5,
            "skill": 1.0 - (means["error"] / means["persistence"]) ** 0.5,
        }

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(params, lr=self.lr)


class Surrogate(nn.Module):
    """Predicts the change of the field from the field and the wind around each point."""

    def __init__(self, width: int) -> None:
        """`width` channels between the convolutions."""
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 5, padding=2, padding_mode="circular"),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="circular"),
            nn.GELU(),
            nn.Conv2d(width, 1, 1),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (batch, 3, size, size) to fields (batch, size, size)."""
        change: Tensor = self.net(inputs)
        return inputs[:, 0] + change[:, 0]


def initial_fields(rng: np.random.Generator, count: int, size: int) -> tuple[Fields, Fields]:
    """Smooth fields (count, size, size) of unit variance, and winds (count, 2) in [-1, 1]."""
    waves = np.arange(-WAVES, WAVES + 1)
    amplitude = 1.0 / (1.0 + np.hypot(*np.meshgrid(waves, waves)))
    shape = (count, len(waves), len(waves))
    coefficients = amplitude * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    phase = np.exp(2j * np.pi * np.outer(waves, np.arange(size)) / size)
    fields = np.einsum("nkl,kx,ly->nxy", coefficients, phase, phase, optimize=True).real
    fields /= fields.std(axis=(1, 2), keepdims=True)
    winds = rng.uniform(-1.0, 1.0, size=(count, 2))
    return fields.astype(np.float32), winds.astype(np.float32)


def simulate(fields: Fields, winds: Fields, steps: int) -> Fields:
    """The fields (count, size, size) after `steps` time steps in constant winds (count, 2)."""
    for _ in range(steps):
        tendency = DIFFUSIVITY * sum(
            np.roll(fields, shift, axis) - fields for axis in (1, 2) for shift in (-1, 1)
        )
        for axis in (1, 2):
            wind = winds[:, axis - 1, None, None]
            behind = fields - np.roll(fields, 1, axis)
            ahead = np.roll(fields, -1, axis) - fields
            tendency = tendency - wind * np.where(wind > 0, behind, ahead)
        fields = fields + np.float32(TIME_STEP) * tendency
    return fields
