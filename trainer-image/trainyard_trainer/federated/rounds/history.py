"""What a federation remembers of its rounds: the record that is stored with each model.

It stands apart, and is pure, because the rounds, the store and the metrics share it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from trainyard_trainer.contract.config import Direction, Target

LENGTH: Final = 1_000
"""Rounds kept in the history; the oldest are forgotten, counts and the best round are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """A round that is over."""

    round: int
    """0 is the initial model."""
    parties: int = 0
    """How many contributed."""
    samples: int = 0
    loss: float | None = None
    """Mean training loss over the parties, weighted by samples."""
    seconds: float = 0.0
    """From its announcement to its model being folded."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of its model, meaned over the parties' held-out samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best round so far, by the target metric (without a target, by training loss)."""

    round: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationHistory:
    """All that the rounds' state is, but for the round in flight."""

    round: int = -1
    """The last one whose model is safe; -1 before the initial model."""
    history: tuple[RoundRecord, ...] = ()
    best: Best | None = None
    contributors: tuple[str, ...] = ()
    """Whose updates are in the last model."""
    contributions: dict[str, int] = field(default_factory=dict)
    """Rounds that each party contributed to."""
    samples: dict[str, int] = field(default_factory=dict)
    """Training samples of each party, by its last update."""
    trained: int = 0
    """Samples trained on in all folded rounds."""
    generation: int = 0
    """Of the newest Plan."""
    fencing_token: int = 0
    """The highest seen in a Plan."""
    task: dict[str, Any] = field(default_factory=dict)
    """The task and its arguments that the model belongs to."""

    @property
    def last(self) -> RoundRecord:
        """The round whose model is in force."""
        return self.history[-1]

    def aggregated(
        self, past: RoundRecord, samples: Mapping[str, int], local_epochs: int
    ) -> FederationHistory:
        """The record after a round to which these parties contributed."""
        counts = self.contributions
        return replace(
            self,
            round=past.round,
            history=(*self.history, past)[-LENGTH:],
            contributors=tuple(sorted(samples)),
            contributions={**counts, **{name: counts.get(name, 0) + 1 for name in samples}},
            samples={**self.samples, **samples},
            trained=self.trained + local_epochs * sum(samples.values()),
        )

    def evaluated(self, metrics: Mapping[str, float]) -> FederationHistory:
        """The record with the evaluation of the model in force."""
        past = replace(self.last, metrics=dict(metrics))
        return replace(self, history=(*self.history[:-1], past))

    def judged(self, value: float | None, mode: Direction) -> FederationHistory:
        """The record after the model in force has shown `value`; the best one is the first best."""
        if value is None or not math.isfinite(value):
            return self
        best = self.best if self.best is None or self.best.round != self.round else None
        if best is not None and not _better(value, best.value, mode):
            return self
        return replace(self, best=Best(round=self.round, value=value))

    def is_stale(self, patience: int | None) -> bool:
        """Whether `patience` rounds have brought nothing better than the best."""
        if patience is None or self.round < 0:
            return False
        since = self.best.round if self.best is not None else 0
        return self.round - since >= patience


def _better(value: float, than: float, mode: Direction) -> bool:
    return value > than if mode is Direction.MAX else value < than


def is_reached(target: Target | None, metrics: Mapping[str, float]) -> bool:
    """Whether these metrics are at the target."""
    value = None if target is None else metrics.get(target.metric)
    return target is not None and value is not None and target.reached(value)


def encode(record: FederationHistory) -> bytes:
    """The record as JSON."""
    return msgspec.json.encode(record)


def decode(text: bytes) -> FederationHistory:
    """The record of which `encode` made `text`; raises ValueError for anything else."""
    return msgspec.json.decode(text, type=FederationHistory)
