"""What aggregator and parties say to each other beside tensors: JSON, every part of it bounded.

They stand apart because both processes decode them.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from trainyard_trainer.contract.env import WIRE_VERSION
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.federated import RefusalReason
from trainyard_trainer.federated.protocol.wire import UpdateRefused
from trainyard_trainer.federated.rounds.events import Instruction

MESSAGE_BYTES: Final = 1 << 20
"""The longest message; a Task's arguments are the largest part of one."""
METRICS: Final = 100

Name = Annotated[str, Meta(max_length=300)]
Count = Annotated[int, Meta(ge=0, le=1 << 62)]
Metrics = Annotated[dict[Name, float | None], Meta(max_length=METRICS)]


class TrainConfig(Struct, frozen=True, kw_only=True):
    """How a party trains: what must be equal for an update to be the same."""

    task: str
    args: dict[str, Any]
    """The job's arguments of the Task with the party's own over them."""
    seed: int
    batch_size: Count
    local_epochs: Count
    lr: float | None = None
    """The party's own learning rate, over that of the optimiser."""
    optimizer: dict[str, Any] | None = None
    """Name, lr and args of the job's optimiser; None keeps the Task's."""
    local: dict[str, float] = {}
    """What the strategy tells parties."""
    target: Name = ""
    """The metric that the target is set on, which the Task must have."""


class RoundAnnouncement(Struct, frozen=True, kw_only=True):
    """The answer to a party that asks what to do."""

    term: Count
    instruction: Instruction
    round: Count
    """The round in flight."""
    config: TrainConfig
    wire: Count = WIRE_VERSION
    seconds: float = 0.0
    """Until the deadline; durations, for clocks of different machines do not agree."""
    model: Name = ""
    """SHA-256 of the global model's file; empty when there is none."""
    evaluate: bool = False
    """Whether the global model is to be evaluated first."""
    result: Result | None = None
    """How it ended, with `Ask.END`."""


class UpdateMetadata(Struct, frozen=True, kw_only=True):
    """The document in an update's header."""

    term: Count
    round: Count
    samples: Count
    """Training samples of the party."""
    weight: float
    """How much the update counts; by default the samples."""
    loss: float | None = None
    """Mean training loss over the round."""


class UploadResult(Struct, frozen=True, kw_only=True):
    """The answer to an update."""

    refusal: RefusalReason | None = None
    message: str = ""


class EvaluationReport(Struct, frozen=True, kw_only=True):
    """A party's evaluation of the model of `round`."""

    term: Count
    round: Count
    samples: Count
    """Held-out samples; 0 for a party without any."""
    metrics: Metrics = {}


def read_metadata(document: dict[str, Any]) -> UpdateMetadata:
    """An update's document; raises Refused."""
    try:
        note = msgspec.convert(document, UpdateMetadata)
    except msgspec.ValidationError as error:
        raise UpdateRefused(
            RefusalReason.HEADER, f"its header's document is wrong: {error}"
        ) from None
    if not (math.isfinite(note.weight) and note.weight > 0 and note.samples > 0):
        raise UpdateRefused(
            RefusalReason.WEIGHT,
            f"its weight is {note.weight} for {note.samples} samples; both must be above 0",
        )
    return note


def finite(value: float | None) -> float | None:
    """`value`, or None for what JSON cannot say."""
    return value if value is not None and math.isfinite(value) else None
