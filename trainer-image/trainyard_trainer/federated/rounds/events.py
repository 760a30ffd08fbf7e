"""The events and commands of a federation's rounds, and the values that they carry."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.federated import FederatedConfig, FederatedPlan, RoundsConfig

MAX_METRICS: Final = 32
"""Metrics kept of a round: what the operator reads."""


class RoundPhase(StrEnum):
    """The phase of a federation."""

    WAITING = "Waiting"
    """For a quorum of parties."""
    INITIAL = "Initial"
    """One party is instructed to send the initial model."""
    OPEN = "Open"
    """A round is announced and collects updates."""
    STORING = "Storing"
    """A model is being made durable."""
    FINAL = "Final"
    """The last model is being evaluated."""
    ENDED = "Ended"


class Instruction(StrEnum):
    """What a party is to do."""

    WAIT = "Wait"
    INITIAL = "Initial"
    """Send the Task's initial model."""
    TRAIN = "Train"
    """Evaluate the global model, train it, send the update."""
    EVALUATE = "Evaluate"
    END = "End"


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedUpdate:
    """What the rounds need to know of a verified update."""

    samples: int
    """Training samples of the party."""
    loss: float | None = None
    """Mean training loss."""
    digest: str = ""
    """Of an initial model that another party has to confirm; empty for one that needs no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A party's evaluation of the global model."""

    samples: int
    """Held-out samples; 0 for a party without any."""
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRound:
    """Announce a round to the parties."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Initialize:
    """Store this party's upload as the model of round 0, then call `stored`."""

    party: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """Aggregate these parties' updates into the model of `round`, store it, then call `stored`."""

    round: int
    parties: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AbandonRound:
    """A round reached its deadline without a quorum; it is announced again when there is one."""

    round: int
    updates: int
    """How many had arrived; they are kept, as they are of the same round and model."""
    mismatched: tuple[str, ...] = ()
    """Parties whose initial models nobody else has; these are not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepBest:
    """Keep the global model, which is that of `round`, as the best so far."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Store the model of `round` as the result, then call `finished`."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The federation has ended; announce it to the parties."""

    result: Result


Command = OpenRound | Initialize | Aggregate | AbandonRound | KeepBest | Finish | End


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSettings:
    """The settings of the rounds to come; a Plan may change them."""

    rounds: RoundsConfig
    parties: tuple[str, ...]
    """Who may take part."""
    expected: frozenset[str] = frozenset()
    """Who should be there at the start: the parties that have pods."""
    generation: int = 0
    """Of the Plan that these settings are from; 0 for the job's configuration."""
    fencing_token: int = 0
    """Of that Plan."""

    @classmethod
    def of(cls, source: FederatedConfig | FederatedPlan) -> RoundSettings:
        """The settings in a job's configuration or in a Plan."""
        plan = source if isinstance(source, FederatedPlan) else None
        return cls(
            rounds=source.rounds,
            parties=tuple(party.name for party in source.parties),
            expected=frozenset(party.name for party in source.parties if not party.external),
            generation=plan.generation if plan is not None else 0,
            fencing_token=plan.fencing_token if plan is not None else 0,
        )


def shuffled(parties: Collection[str], seed: int, round_: int) -> Sequence[str]:
    """The parties in a random order that is a function of (seed, round) and their names."""

    def key(name: str) -> tuple[bytes, str]:
        return hashlib.blake2b(f"{seed}/{round_}/{name}".encode(), digest_size=8).digest(), name

    return sorted(parties, key=key)


def mean_metrics(evaluations: Sequence[Evaluation], target: str = "") -> dict[str, float]:
    """The mean of each metric over the parties that have it, weighted by held-out samples.

    Of more than `MAX_METRICS` those are kept that most parties have, the target's metric first,
    so that no party's names displace everybody's.
    """
    weighted: dict[str, list[tuple[int, float]]] = {}
    for evaluation in evaluations:
        for name, value in evaluation.metrics.items():
            if evaluation.samples > 0:
                weighted.setdefault(name, []).append((evaluation.samples, value))

    def rank(name: str) -> tuple[bool, int, bool, str]:
        return name != target, -len(weighted[name]), not name.startswith("eval/"), name

    kept = sorted(weighted, key=rank)[:MAX_METRICS]
    return {name: _weighted_mean(weighted[name]) for name in sorted(kept)}


def measured_by(evaluations: Iterable[Evaluation], metric: str) -> list[float]:
    """The values of a metric by the parties that have measured it."""
    return [e.metrics[metric] for e in evaluations if e.samples > 0 and metric in e.metrics]


def mean_loss(updates: Sequence[AcceptedUpdate]) -> float | None:
    """The mean training loss of the updates that have one, weighted by samples."""
    pairs = [(update.samples, update.loss) for update in updates if update.loss is not None]
    return _weighted_mean(pairs) if pairs else None


def _weighted_mean(pairs: Sequence[tuple[int, float]]) -> float:
    return math.fsum(count * value for count, value in pairs) / sum(count for count, _ in pairs)
