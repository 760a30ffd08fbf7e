"""What both images agree on of a FederatedJob: its configuration, its Plan and its metrics.

Apart from the rest of the contract because nothing of a DistributedJob needs it; what both kinds
have in common (roles, exit codes, last words, the metrics of training) is in the package itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

from trainyard_trainer.contract.config import Direction, Target
from trainyard_trainer.contract.decoding import build, parse_object
from trainyard_trainer.contract.env import WIRE_VERSION

# HTTP paths of the aggregator, beside the coordinator's for metrics, Plans and health.
PATH_ROUND: Final = "/v1/round"
"""GET waits for something to do (long poll); DELETE says that a party leaves."""
PATH_MODEL: Final = "/v1/model"
"""GET streams the global model."""
PATH_UPDATE: Final = "/v1/update"
"""PUT streams a party's trained model."""
PATH_EVALUATION: Final = "/v1/evaluation"
"""POST says how the global model does on a party's held-out data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyConfig:
    """One participant, in the cluster or outside it."""

    name: str
    external: bool = False
    """It dials in from elsewhere; nobody starts a pod for it."""
    args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the Task that are this party's own; they go over the job's."""
    lr: float | None = None
    """Its learning rate; overrides the job's optimiser and the Task's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsConfig:
    """When a round closes, and when the last one has."""

    max: int = 10
    min_parties: int = 1
    """The quorum: with fewer accepted updates a round is not folded."""
    fraction: float = 1.0
    """Of the parties that are there, how many are asked for each round."""
    deadline_seconds: float = 300.0
    """From a round's announcement; who has not delivered by then is left out."""
    patience: int | None = None
    """Rounds without a better target metric (without a target: training loss) before the end."""

    def __post_init__(self) -> None:
        """Refuse what no federation could follow."""
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
    """A local optimiser that takes the Task's place."""

    name: str
    """A class of `torch.optim`."""
    lr: float
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyConfig:
    """How updates become the next model."""

    name: str = "FedAvg"
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedConfig:
    """What an aggregator needs to know of its job at its start; parties learn theirs from it."""

    task: str
    """`module:Class` of the Task."""
    parties: tuple[PartyConfig, ...]
    args: dict[str, Any] = field(default_factory=dict)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    local_epochs: int = 1
    batch_size: int = 32
    """Samples of one local step."""
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
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def decode(cls, text: str) -> FederatedConfig:
        """Parse; raises ValueError that names the field."""
        values = dict(parse_object(text, "federated job configuration"))
        values["parties"] = _parties(values.get("parties", ()))
        values["rounds"] = build(RoundsConfig, values.get("rounds", {}))
        values["strategy"] = build(StrategyConfig, values.get("strategy", {}))
        if (optimizer := values.get("optimizer")) is not None:
            values["optimizer"] = build(OptimizerConfig, optimizer)
        if (target := values.get("target")) is not None:
            direction = Direction(target.get("direction", Direction.MAX))
            values["target"] = build(Target, {**target, "direction": direction})
        return build(cls, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedPlan:
    """What the operator wants of a running federation: whole, idempotent, ordered by `generation`.

    It holds what may change while the job runs; a round that is announced already keeps the terms
    it was announced with. The aggregator refuses a generation below the one in force, and any from
    an operator whose `fencing_token` a later one has replaced; it echoes the generation.
    """

    generation: int
    parties: tuple[PartyConfig, ...]
    rounds: RoundsConfig
    suspend: bool = False
    """Close the round in flight or give it up at its deadline, keep the state, then stop."""
    fencing_token: int = 0
    """The sending operator's term of office."""

    def __post_init__(self) -> None:
        """Refuse what no federation could follow."""
        if self.generation < 1:
            raise ValueError(f"plan.generation must be at least 1, got {self.generation}")
        if not self.parties:
            raise ValueError("plan.parties must name at least one party")

    def encode(self) -> str:
        """The plan as JSON."""
        return json.dumps({"wire": WIRE_VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def decode(cls, text: str) -> FederatedPlan:
        """Parse; raises ValueError that names the field or the wire version."""
        values = dict(parse_object(text, "plan"))
        wire = values.pop("wire", None)
        if wire != WIRE_VERSION:
            raise ValueError(f"plan has wire version {wire}, this trainer speaks {WIRE_VERSION}")
        values["parties"] = _parties(values.get("parties", ()))
        values["rounds"] = build(RoundsConfig, values.get("rounds", {}))
        return build(cls, values)


def _parties(values: Iterable[Mapping[str, Any]]) -> tuple[PartyConfig, ...]:
    return tuple(build(PartyConfig, value) for value in values)


class PartyState(StrEnum):
    """What a party is doing, as the aggregator sees it."""

    ABSENT = "Absent"
    """It has not come yet, or was not heard of for a while."""
    IDLE = "Idle"
    """There, and not asked for anything in this round."""
    TRAINING = "Training"
    """Asked, and has not delivered."""
    DELIVERED = "Delivered"
    """Its update of the round in flight is verified and safe."""
    REFUSED = "Refused"
    """Its update of the round in flight was refused."""


class FederatedMetric:
    """Names of what an aggregator serves beside the `Metric`s that both kinds have.

    Of those it serves INFO, TERM, SAMPLES, LOSS, EVAL, PLAN_GENERATION and OUTCOME; LOSS and EVAL
    are means over the parties, weighted by samples.
    """

    ROUND: Final = "trainyard_federated_round"
    """Rounds that are folded and safely stored."""
    ROUND_SECONDS: Final = "trainyard_federated_round_seconds"
    """Of the last folded round: from its announcement to its model being safe."""
    ROUND_DEADLINE: Final = "trainyard_federated_round_deadline_timestamp_seconds"
    """Unix time at which the round in flight closes at the latest."""
    ROUNDS_LOST: Final = "trainyard_federated_rounds_lost"
    """Counter (exposed with `_total`) of rounds given up, for want of a quorum or by a crash."""
    BEST_ROUND: Final = "trainyard_federated_best_round"
    """The round whose model has the best target metric so far."""
    PARTY_STATE: Final = "trainyard_federated_party_state"
    """1, with labels `party` and `state` (`PartyState`)."""
    PARTY_ROUNDS: Final = "trainyard_federated_party_rounds"
    """Counter (exposed with `_total`) of folded rounds that a party contributed to."""
    PARTY_SAMPLES: Final = "trainyard_federated_party_samples"
    """Training samples of a party, by its last update."""
    PARTY_SECONDS: Final = "trainyard_federated_party_seconds"
    """From a round's announcement to the party's update being verified, last time."""
    PARTY_RECEIVED: Final = "trainyard_federated_party_received_bytes"
    """Counter (exposed with `_total`) of update bytes received from a party."""
    PARTY_SENT: Final = "trainyard_federated_party_sent_bytes"
    """Counter (exposed with `_total`) of model bytes sent to a party."""
    REFUSED: Final = "trainyard_federated_updates_refused"
    """Counter (exposed with `_total`) of updates refused, by labels `party` and `reason`
    (`Refusal`)."""


class RefusalReason(StrEnum):
    """Why an update was refused."""

    HEADER = "HeaderInvalid"
    """Its header cannot be read, or is beyond the limits."""
    NOT_FINITE = "NotFinite"
    """It holds NaN or an infinity."""
    SHAPE = "ShapeMismatch"
    """Names, shapes or dtypes are not the model's."""
    WEIGHT = "WeightInvalid"
    """Its weight is zero, negative or not finite."""
    CHECKSUM = "ChecksumMismatch"
    SIZE = "SizeMismatch"
    """More or fewer bytes than announced."""
    ROUND = "WrongRound"
    """Of a round that is closed, or of another aggregator's term."""
