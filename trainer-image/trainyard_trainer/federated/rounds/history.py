"""The history of a federation's rounds, as it is stored with each model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from trainyard_trainer.contract.config import Direction, Target

MAX_ROUNDS: Final = 1_000
"""Round records kept; older ones are dropped, but not the counts or the best round."""

MAX_COUNT: Final = (1 << 63) - 1
"""The largest integer that the API server and JSON parsers keep."""


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
    """From its announcement to the aggregation of its model."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of its model, averaged over the parties' held-out samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best round so far, by the target metric or, without a target, by training loss."""

    round: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationHistory:
    """The durable state of the rounds: everything except the round in flight."""

    round: int = -1
    """The last one whose model is stored; -1 before the initial model."""
    rounds: tuple[RoundRecord, ...] = ()
    best: Best | None = None
    scored_since_best: int = 0
    """Rounds that were scored after the best one; those that nobody measured say nothing."""
    contributors: tuple[str, ...] = ()
    """Whose updates are in the last model."""
    contributions: dict[str, int] = field(default_factory=dict)
    """Rounds that each party contributed to."""
    samples: dict[str, int] = field(default_factory=dict)
    """Training samples of each party, by its last update."""
    samples_trained: int = 0
    """Samples trained on in all aggregated rounds."""
    generation: int = 0
    """Of the newest Plan."""
    fencing_token: int = 0
    """The highest of any Plan."""

    @property
    def last_round(self) -> RoundRecord:
        """The round of the global model."""
        return self.rounds[-1]

    def with_round(
        self, record: RoundRecord, samples: Mapping[str, int], local_epochs: int
    ) -> FederationHistory:
        """The history after a round; `samples` are those of the parties that contributed."""
        counts = self.contributions
        return replace(
            self,
            round=record.round,
            rounds=(*self.rounds, record)[-MAX_ROUNDS:],
            contributors=tuple(sorted(samples)),
            contributions={**counts, **{name: counts.get(name, 0) + 1 for name in samples}},
            samples={**self.samples, **samples},
            samples_trained=min(
                self.samples_trained + local_epochs * sum(samples.values()), MAX_COUNT
            ),
        )

    def with_metrics(self, metrics: Mapping[str, float]) -> FederationHistory:
        """The history with the evaluation of the global model."""
        record = replace(self.last_round, metrics=dict(metrics))
        return replace(self, rounds=(*self.rounds[:-1], record))

    def with_score(self, value: float | None, direction: Direction) -> FederationHistory:
        """The history with the score of the global model; of equal ones the first is the best.

        Scored again, a round replaces its own earlier score.
        """
        if value is None or not math.isfinite(value):
            return self
        best = self.best if self.best is None or self.best.round != self.round else None
        if best is not None and not _is_better(value, best.value, direction):
            return replace(self, scored_since_best=self.scored_since_best + 1)
        return replace(self, best=Best(round=self.round, value=value), scored_since_best=0)

    def is_patience_exhausted(self, patience: int | None) -> bool:
        """Whether the last `patience` rounds that were scored brought no improvement."""
        return patience is not None and self.scored_since_best >= patience


def _is_better(value: float, than: float, direction: Direction) -> bool:
    return value > than if direction is Direction.MAX else value < than


def is_target_reached(target: Target | None, metrics: Mapping[str, float]) -> bool:
    """Whether these metrics reach the target."""
    value = None if target is None else metrics.get(target.metric)
    return target is not None and value is not None and target.reached(value)
