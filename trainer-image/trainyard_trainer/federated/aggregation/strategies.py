"""The strategies by which updates become the next model: one small class each.

`combine` reduces the parties' arrays to one, `step` computes the next model from it, and
`local_settings` configure local training. Both work on a chunk of numbers at a time, so a strategy
never holds a model. Its state from round to round is in slots: arrays with one element for each
trainable one of the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trainyard_trainer.contract import federated as contract
from trainyard_trainer.runtime.exits import TaskInvalid

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvg:
    """The mean of the parties' models, weighted by samples (McMahan et al. 2017, algorithm 1)."""

    slots: ClassVar[Mapping[str, str]] = {}
    """The attribute with the initial value, by slot."""

    @property
    def local_settings(self) -> dict[str, float]:
        """Settings for the parties' local training."""
        return {}

    def combine(self, pieces: Iterable[tuple[float, Floats]], out: Floats) -> Floats:
        """The weighted mean of `pieces` (weight and numbers, taken one at a time), in `out`.

        `out` is float64, or longdouble where float64 would lose digits; weights are positive.
        """
        out.fill(0.0)
        total = 0.0
        for weight, numbers in pieces:
            out += np.multiply(numbers, weight, dtype=out.dtype)
            total += weight
        out /= total
        return out

    def step(self, old: Floats, mean: Floats, slots: Mapping[str, Floats]) -> Floats:  # noqa: ARG002
        """The next model's trainable numbers from the old ones and the mean; updates `slots`."""
        return mean


@dataclass(frozen=True, slots=True, kw_only=True)
class FedProx(FedAvg):
    """FedAvg of parties that are kept near the global model (Li et al. 2020, algorithm 2).

    A party minimizes its loss plus mu/2 times the squared distance from the global model.
    """

    mu: float = 0.01

    def __post_init__(self) -> None:
        """Refuse a negative weight."""
        _require(self.mu >= 0, "mu", "at least 0", self.mu)

    @property
    def local_settings(self) -> dict[str, float]:
        """The weight of the proximal term."""
        return {"mu": self.mu}


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdam(FedAvg):
    """Adam at the server, with the mean change as its gradient (Reddi et al. 2021, algorithm 2).

    Without bias correction, and with v initialized to tau squared, as in the paper. It has two
    slots, so its state is two more models.
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "_zero", "v": "_tau_squared"}

    lr: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    """Degree of adaptivity: small values adapt more."""

    def __post_init__(self) -> None:
        """Refuse settings that would not converge."""
        _require(self.lr > 0, "lr", "above 0", self.lr)
        _require(0 <= self.beta1 < 1, "beta1", "at least 0 and below 1", self.beta1)
        _require(0 <= self.beta2 < 1, "beta2", "at least 0 and below 1", self.beta2)
        _require(self.tau > 0, "tau", "above 0", self.tau)

    @property
    def _zero(self) -> float:
        return 0.0

    @property
    def _tau_squared(self) -> float:
        return self.tau**2

    def step(self, old: Floats, mean: Floats, slots: Mapping[str, Floats]) -> Floats:
        """One step of Adam along the mean change."""
        change = mean - old
        m, v = slots["m"], slots["v"]
        m += (1 - self.beta1) * (change - m)
        v += (1 - self.beta2) * (change * change - v)
        return old + self.lr * m / (np.sqrt(v) + self.tau)


Strategy = FedAvg
"""The interface: FedAvg does as little as a strategy can, and the others override it."""

STRATEGIES: Mapping[str, type[Strategy]] = {cls.__name__: cls for cls in (FedAvg, FedProx, FedAdam)}


def make_strategy(config: contract.StrategyConfig) -> Strategy:
    """The configured strategy; raises TaskInvalid that names the field."""
    if (cls := STRATEGIES.get(config.name)) is None:
        known = ", ".join(STRATEGIES)
        raise TaskInvalid(f"strategy.name is {config.name!r}; this version has {known}")
    known_args = [field.name for field in fields(cls)]
    for name, value in config.args.items():
        if name not in known_args:
            takes = ", ".join(known_args) or "no arguments"
            raise TaskInvalid(f"strategy.args.{name}: {config.name} takes {takes}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TaskInvalid(f"strategy.args.{name} must be a number, got {value!r}")
    return cls(**{name: float(value) for name, value in config.args.items()})


def _require(is_valid: bool, name: str, what: str, value: float) -> None:
    if not is_valid or not np.isfinite(value):
        raise TaskInvalid(f"strategy.args.{name} must be {what}, got {value}")
