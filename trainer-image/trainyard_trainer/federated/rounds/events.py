"""What the rounds are told and what they command, in words of their own.

They stand apart because the state machine, the server and the tests all speak in them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.federated import RoundsConfig


class RoundPhase(StrEnum):
    """Where the federation stands."""

    WAITING = "Waiting"
    """For a quorum of parties."""
    INITIAL = "Initial"
    """One party has been asked for the initial model."""
    OPEN = "Open"
    """A round is announced and collects updates."""
    STORING = "Storing"
    """A model is being made safe."""
    FINAL = "Final"
    """The last model is being evaluated."""
    ENDED = "Ended"


class Instruction(StrEnum):
    """What a party is asked to do."""

    WAIT = "Wait"
    INITIAL = "Initial"
    """Send the task's initial model."""
    TRAIN = "Train"
    """Evaluate the global model, train it, send the result."""
    EVALUATE = "Evaluate"
    END = "End"


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedUpdate:
    """A verified update, as far as the rounds care."""

    samples: int
    """Training samples of the party."""
    weight: float
    loss: float | None = None
    """Mean training loss."""
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a party says of the global model."""

    samples: int
    """Held-out samples; 0 for a party without any."""
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRound:
    """Announce a round; who polls is told."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Initialize:
    """Make this party's upload the model of round 0 and store it; then call `stored`."""

    party: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """Fold these parties' updates into the model of `round` and store it; then call `stored`."""

    round: int
    parties: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AbandonRound:
    """A round came to its deadline without a quorum; it is announced anew when there is one."""

    round: int
    had: int
    """Updates that had come; they are kept, for they are of the same round and model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepBest:
    """Keep the model of `round`, which is in force, as the best so far."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Store the model of `round` as the result; then call `finished`."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """It is over; who polls is told."""

    result: Result


Command = OpenRound | Initialize | Aggregate | AbandonRound | KeepBest | Finish | End


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSettings:
    """What a round is announced with; a Plan may change it for the rounds to come."""

    rounds: RoundsConfig
    parties: tuple[str, ...]
    """Who may take part."""
    expected: frozenset[str] = frozenset()
    """Who should be there at the start: the parties that have pods."""


def shuffled(parties: Collection[str], seed: int, round_: int) -> Sequence[str]:
    """The parties in an order that is random over rounds and the same for whoever computes it."""

    def lot(name: str) -> tuple[bytes, str]:
        return hashlib.blake2b(f"{seed}/{round_}/{name}".encode(), digest_size=8).digest(), name

    return sorted(parties, key=lot)


def mean(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Each metric's mean over the parties that have it, weighted by held-out samples."""
    sums: dict[str, list[tuple[int, float]]] = {}
    for found in evaluations:
        for name, value in found.metrics.items():
            if found.samples > 0:
                sums.setdefault(name, []).append((found.samples, value))
    return {
        name: math.fsum(count * value for count, value in pairs) / sum(c for c, _ in pairs)
        for name, pairs in sorted(sums.items())
    }
