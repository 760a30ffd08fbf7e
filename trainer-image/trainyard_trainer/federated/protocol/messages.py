"""The JSON messages between aggregator and parties, with every field bounded."""

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
"""The longest message; most of it may be a Task's arguments."""
MAX_METRICS: Final = 100
MAX_SAMPLES: Final = 1 << 40
"""Of one party; more is a mistake, or an attack."""
MAX_MAGNITUDE: Final = 1e100
"""Of a metric or loss: sums over all parties' samples stay finite."""

Name = Annotated[str, Meta(max_length=300)]
MetricName = Annotated[str, Meta(max_length=128)]
Count = Annotated[int, Meta(ge=0, le=1 << 62)]
Samples = Annotated[int, Meta(ge=0, le=MAX_SAMPLES)]
Magnitude = Annotated[float, Meta(ge=-MAX_MAGNITUDE, le=MAX_MAGNITUDE)]
Metrics = Annotated[dict[MetricName, Magnitude | None], Meta(max_length=MAX_METRICS)]


class TrainConfig(Struct, frozen=True, kw_only=True):
    """How a party trains; equal configurations and models give equal updates."""

    task: str
    args: dict[str, Any]
    """Arguments of the Task: the job's, overridden by the party's."""
    seed: int
    batch_size: Count
    local_epochs: Count
    rounds: Count = 1
    """Rounds at the most, which the Task's scheduler must last for."""
    lr: float | None = None
    """The party's own learning rate; overrides the optimizer's."""
    optimizer: dict[str, Any] | None = None
    """Name, lr and args of the job's optimizer; None keeps the Task's."""
    local: dict[str, float] = {}
    """The strategy's settings for local training."""
    target: Name = ""
    """The target metric, which the Task must have."""


class RoundAnnouncement(Struct, frozen=True, kw_only=True):
    """The response to a party's poll."""

    term: Count
    instruction: Instruction
    round: Count
    """The round in flight."""
    config: TrainConfig
    wire: Count = WIRE_VERSION
    seconds: float = 0.0
    """Until the deadline; a duration, as the clocks of different machines disagree."""
    model: Name = ""
    """SHA-256 of the global model's file; empty when there is none."""
    evaluate: bool = False
    """Whether to evaluate the global model before training."""
    result: Result | None = None
    """How the federation ended, with `Instruction.END`."""


class UpdateMetadata(Struct, frozen=True, kw_only=True):
    """The document in an update's header."""

    term: Count
    round: Count
    samples: Samples
    """Training samples of the party."""
    weight: float
    """The weight of the update: its samples, or less."""
    loss: Magnitude | None = None
    """Mean training loss over the round."""


class UploadResult(Struct, frozen=True, kw_only=True):
    """The response to an update."""

    refusal: RefusalReason | None = None
    message: str = ""


class EvaluationReport(Struct, frozen=True, kw_only=True):
    """A party's evaluation of the model of `round`."""

    term: Count
    round: Count
    samples: Samples
    """Held-out samples; 0 for a party without any."""
    metrics: Metrics = {}


def parse_metadata(document: dict[str, Any]) -> UpdateMetadata:
    """The metadata of an update; raises UpdateRefused."""
    try:
        metadata = msgspec.convert(document, UpdateMetadata)
    except msgspec.ValidationError as error:
        text = f"its header's document is invalid: {error}"
        raise UpdateRefused(RefusalReason.HEADER, text) from None
    weight, samples = metadata.weight, metadata.samples
    if not 0 < weight <= samples:  # Which is false for NaN as well.
        text = f"its weight is {weight} for {samples} samples"
        text = f"{text}; both must be above 0, and the weight at most the samples"
        raise UpdateRefused(RefusalReason.WEIGHT, text)
    if metadata.loss is not None and math.isnan(metadata.loss):
        raise UpdateRefused(RefusalReason.HEADER, "its loss is NaN; leave it out instead")
    return metadata


def parse_evaluation(body: bytes) -> EvaluationReport:
    """A party's evaluation; raises UpdateRefused that names the field."""
    try:
        return msgspec.json.decode(body, type=EvaluationReport)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UpdateRefused(RefusalReason.EVALUATION, f"invalid evaluation: {error}") from None


def bounded_or_none(value: float | None) -> float | None:
    """`value`, or None for NaN and for what is beyond `MAX_MAGNITUDE`."""
    return value if value is not None and abs(value) <= MAX_MAGNITUDE else None
