"""Small tasks for the tests, in float64 for close comparisons."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainyard_trainer.contract.env import ENV_POD
from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.task import Data, Task, Tensors

SAMPLES = 203
"""A prime, so that no batch size and no partition divides it."""
SPOILED = 101
"""The id of the sample that `Spoiled` cannot read."""


class Line(Task):
    """A small network on synthetic data, with steps of a minimum duration."""

    def __init__(self, pace: float = 0.0, gate: str = "", norm: bool = False) -> None:
        """A step takes at least `pace` seconds; training ends once the file `gate` exists."""
        self.pace, self.gate, self.norm = pace, gate, norm
        rng = torch.Generator().manual_seed(7)
        inputs = torch.randn(SAMPLES, 6, generator=rng, dtype=torch.float64)
        targets = torch.tanh(inputs @ torch.randn(6, 1, generator=rng, dtype=torch.float64))
        self.data = Tensors(inputs, targets)

    def model(self) -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(6, 8), nn.Tanh()]
        if self.norm:
            layers.append(nn.BatchNorm1d(8))
        return nn.Sequential(*layers, nn.Linear(8, 1)).double()

    def train_data(self) -> Data:
        return self.data

    def eval_data(self) -> Data:
        return Tensors(*(column[:17] for column in self.data.columns))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        if model.training:
            time.sleep(self.pace)
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, float]:  # noqa: ARG002
        if self.gate:
            Path(f"{self.gate}.evaluated").touch()
        return {"open": float(bool(self.gate) and Path(self.gate).exists())}

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(params, lr=0.01)


class Tied(nn.Module):
    """Two layers of one weight, and a buffer that model files leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(6, 6, bias=False) for _ in range(2))
        self.second.weight = self.first.weight
        self.last = nn.Linear(6, 1)
        self.register_buffer("scale", torch.ones(6), persistent=False)
        self.scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.second(self.first(x)) * self.scale)
        return outputs


class Failing(Line):
    """A task whose loss raises after a few calls."""

    calls = 0

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.calls += 1
        if self.calls > 5:
            raise ZeroDivisionError("the user's own mistake")
        return super().loss(model, batch)


class SelfKilling(Line):
    """A task that kills its process in the middle of a step once there is a file for its pid."""

    def __init__(self, victims: str, **args: Any) -> None:
        """`victims` is the folder of those files."""
        super().__init__(**args)
        self.request = Path(victims) / str(os.getpid())

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        loss = super().loss(model, batch)
        if model.training and self.request.exists():
            os.kill(os.getpid(), 9)
        return loss


class Stuck(Line):
    """A task whose data never arrives on a worker once there is a file of its name."""

    def __init__(self, victims: str, **args: Any) -> None:
        """`victims` is the folder of those files."""
        super().__init__(**args)
        self.request = Path(victims) / os.environ.get(ENV_POD, "-")

    def train_data(self) -> Data:
        return Reads(self.data, self._read)

    def _read(self, _index: int) -> None:
        if self.request.exists():
            threading.Event().wait()


class Spoiled(Line):
    """A task of which one sample cannot be read while there is a file `spoiled`."""

    def __init__(self, victims: str, **args: Any) -> None:
        """`victims` is the folder of that file."""
        super().__init__(**args)
        self.request = Path(victims) / "spoiled"

    def train_data(self) -> Data:
        return Reads(self.data, self._read)

    def _read(self, index: int) -> None:
        if index == SPOILED and self.request.exists():
            raise OSError(f"sample {index} cannot be decoded")


class Reads:
    """Data of which each read is announced first."""

    def __init__(self, data: Tensors, read: Callable[[int], None]) -> None:
        self.data, self.read = data, read

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        self.read(index)
        return tuple(column[index] for column in self.data.columns)


class Share(Line):
    """A party's partition of the data; training pauses while a file with its name exists."""

    def __init__(self, holds: str = "", **args: Any) -> None:
        """`holds` is the folder of those files."""
        super().__init__(**args)
        self.holds = holds

    def train_data(self) -> Data:
        assert self.party is not None
        part = sum(self.party.name.encode()) % 3
        return Tensors(*(column[part::3] for column in self.data.columns))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        is_warm_up = len(batch[0]) in (1, 8)
        if self.holds and model.training and self.party is not None and not is_warm_up:
            while (Path(self.holds) / self.party.name).exists():
                time.sleep(0.01)
        return super().loss(model, batch)

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, float]:
        error = nn.functional.mse_loss(model(batch[0]), batch[1])
        return {**super().metrics(model, batch), "error": float(error)}


class TiedShare(Share):
    """A party's share, for a model with tied weights."""

    def model(self) -> nn.Module:
        return Tied().double()


class FailingParty(Share):
    """A task whose training raises after the first round."""

    calls = 0

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        self.calls += 1
        if self.calls > 3:
            raise ZeroDivisionError("the user's own mistake")
        return super().optimizer(params)


class Unlike(Line):
    """A task that is another one on the workers whose name is in its arguments."""

    def __init__(self, fault: str, pods: str, **args: Any) -> None:
        """`fault` is `invalid`, `memory` or `model`; `pods` the names, one letter each."""
        super().__init__(**args)
        self.fault = fault if os.environ.get(ENV_POD, "-") in pods else ""
        if self.fault == "invalid":
            raise TaskInvalid("no data on this node")

    def model(self) -> nn.Module:
        if self.fault == "memory":
            raise MemoryError("out of memory")
        size = 9 if self.fault == "model" else 8
        return nn.Sequential(nn.Linear(6, size), nn.Tanh(), nn.Linear(size, 1)).double()
