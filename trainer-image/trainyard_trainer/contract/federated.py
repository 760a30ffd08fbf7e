"""The contract of a FederatedJob: its configuration, its Plan and its metrics.

What both kinds of job have in common (roles, exit codes, termination messages, the metrics of
training) is in the package's other modules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from trainyard_trainer.contract.config import Target
from trainyard_trainer.contract.encoding import (
    decode,
    decode_versioned,
    encode,
    encode_versioned,
)

# HTTP paths of the aggregator, beside the coordinator's for metrics, Plans and health.
PATH_ROUND: Final = "/v1/round"
"""GET waits for an instruction (long poll); DELETE removes a party that leaves."""
PATH_MODEL: Final = "/v1/model"
"""GET streams the global model."""
PATH_UPDATE: Final = "/v1/update"
"""PUT streams a party's trained model."""
PATH_EVALUATION: Final = "/v1/evaluation"
"""POST reports the global model's metrics on a party's held-out data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyConfig:
    """One participant, in the cluster or outside it."""

    name: str
    external: bool = False
    """It connects from outside the cluster; no pod is created for it."""
    args: dict[str, Any] = field(default_factory=dict)
    """This party's own arguments of the Task; they override the job's."""
    lr: float | None = None
    """Its learning rate; overrides the job's optimizer and the Task's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsConfig:
    """When a round closes, and when training ends."""

    max: int = 10
    min_parties: int = 1
    """The quorum: with fewer accepted updates a round is abandoned."""
    fraction: float = 1.0
    """Share of the connected parties that is selected for each round."""
    deadline_seconds: float = 300.0
    """From a round's announcement; updates that arrive later are left out."""
    patience: int | None = None
    """Rounds without a better target metric (without a target: training loss) before the end."""

    def __post_init__(self) -> None:
        """Refuse instructions that no federation could follow."""
        for name in ("max", "min_parties", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"rounds.{name} must be at least 1, got {value}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"rounds.fraction must be above 0 and at most 1, got {self.fraction}")
        if not 0 < self.deadline_seconds < math.inf:
            raise ValueError(f"rounds.deadline must be above 0, got {self.deadline_seconds} s")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """A local optimizer that replaces the Task's."""

    name: str
    """A class of `torch.optim`."""
    lr: float
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyConfig:
    """How updates are aggregated into the next model."""

    name: str = "FedAvg"
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedConfig:
    """A FederatedJob's configuration; the aggregator derives each party's from it."""

    task: str
    """`module:Class` of the Task."""
    parties: tuple[PartyConfig, ...]
    args: dict[str, Any] = field(default_factory=dict)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    local_epochs: int = 1
    batch_size: int = 32
    """Samples per local step."""
    optimizer: OptimizerConfig | None = None
    """None keeps the Task's."""
    init: str = ""
    """A safetensors file (path in the image or below the state directory) to start from."""
    target: Target | None = None
    seed: int = 0
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    durable: bool = False
    """Whether `STATE_DIR` survives the aggregator's pod."""

    def encode(self) -> str:
        """The configuration as JSON."""
        return encode(self)

    @classmethod
    def decode(cls, text: str) -> FederatedConfig:
        """Parse; raises ValueError that names the field."""
        return decode(text, cls, "federated job configuration")


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedPlan:
    """The operator's instructions for a running federation, ordered by `generation`.

    It holds what may change while the job runs; a round that is announced already keeps the
    settings it was announced with. The aggregator refuses a generation or a `fencing_token` below
    the one in force, and echoes the generation in its metrics.
    """

    generation: int
    parties: tuple[PartyConfig, ...]
    rounds: RoundsConfig
    suspend: bool = False
    """Close the round in flight or abandon it at its deadline, keep the state, then stop."""
    fencing_token: int = 0
    """Of the sending operator."""

    def __post_init__(self) -> None:
        """Refuse instructions that no federation could follow."""
        if self.generation < 1:
            raise ValueError(f"plan.generation must be at least 1, got {self.generation}")
        if not self.parties:
            raise ValueError("plan.parties must name at least one party")

    def encode(self) -> str:
        """The Plan as JSON."""
        return encode_versioned(self)

    @classmethod
    def decode(cls, text: str) -> FederatedPlan:
        """Parse; raises ValueError that names the field or the wire version."""
        return decode_versioned(text, cls, "plan")


class PartyState(StrEnum):
    """What a party is doing, as the aggregator sees it."""

    ABSENT = "Absent"
    """It has not connected yet, or has stopped polling."""
    IDLE = "Idle"
    """Connected, and not selected for the round in flight."""
    TRAINING = "Training"
    """Selected; its update has not arrived."""
    LAGGING = "Lagging"
    """Selected, but not waited for: it was refused or silent in the last three rounds."""
    DELIVERED = "Delivered"
    """Its update of the round in flight is validated and stored."""
    REFUSED = "Refused"
    """Its update of the round in flight was refused."""


class FederatedMetric:
    """Names of the metrics that only an aggregator serves.

    Of `Metric` it serves INFO, TERM, SAMPLES, LOSS, EVAL, PLAN_GENERATION and OUTCOME; LOSS and
    EVAL are means over the parties, weighted by samples.
    """

    ROUND: Final = "trainyard_federated_round"
    """Rounds that are aggregated and safely stored."""
    ROUND_SECONDS: Final = "trainyard_federated_round_seconds"
    """Of the last aggregated round: from its announcement until its model is stored."""
    ROUND_DEADLINE: Final = "trainyard_federated_round_deadline_timestamp_seconds"
    """Unix time at which the round in flight closes at the latest."""
    ROUNDS_LOST: Final = "trainyard_federated_rounds_lost"
    """Counter (exposed with `_total`) of rounds abandoned without a quorum or by a crash."""
    BEST_ROUND: Final = "trainyard_federated_best_round"
    """The round whose model has the best target metric so far."""
    PARTY_STATE: Final = "trainyard_federated_party_state"
    """1, with labels `party` and `state` (`PartyState`)."""
    PARTY_ROUNDS: Final = "trainyard_federated_party_rounds"
    """Counter (exposed with `_total`) of aggregated rounds that a party contributed to."""
    PARTY_SAMPLES: Final = "trainyard_federated_party_samples"
    """Training samples of a party, as of its last update."""
    PARTY_SECONDS: Final = "trainyard_federated_party_seconds"
    """From a round's announcement until the party's update was validated, last time."""
    PARTY_RECEIVED: Final = "trainyard_federated_party_received_bytes"
    """Counter (exposed with `_total`) of update bytes received from a party."""
    PARTY_SENT: Final = "trainyard_federated_party_sent_bytes"
    """Counter (exposed with `_total`) of model bytes sent to a party."""
    REFUSED: Final = "trainyard_federated_updates_refused"
    """Counter (exposed with `_total`) of updates refused, by labels `party` and `reason`
    (`RefusalReason`)."""


class RefusalReason(StrEnum):
    """Why what a party sent was refused."""

    HEADER = "HeaderInvalid"
    """Its header cannot be parsed, or exceeds the limits."""
    NOT_FINITE = "NotFinite"
    """It holds NaN or an infinity."""
    SHAPE = "ShapeMismatch"
    """Names, shapes or dtypes differ from the model's."""
    WEIGHT = "WeightInvalid"
    """Its weight or number of samples is zero, negative or not finite, or it weighs more than its
    samples."""
    CHECKSUM = "ChecksumMismatch"
    SIZE = "SizeMismatch"
    """More or fewer bytes than announced."""
    ROUND = "WrongRound"
    """It belongs to a closed round, or to another term of the aggregator."""
    INITIAL = "InitialModelDiffers"
    """An initial model is not that of `training.init`, or not that of two other parties."""
    VOLUME = "VolumeTooSmall"
    """The state directory has no space for the rounds of an initial model of this size."""
    DIVERGED = "Diverged"
    """With it the next model would hold NaN or an infinity, and its norm was the largest."""
    TERM = "TermInvalid"
    """A request names a term that no aggregator of this job can have."""
    EVALUATION = "EvaluationInvalid"
    """An evaluation has counts, values or names beyond the limits."""
