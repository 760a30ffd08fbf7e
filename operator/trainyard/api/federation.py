"""Spec and status of the FederatedJob; `spec` and `status` have what both kinds share."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from trainyard.api.spec import JobSpec, Part, PodTemplate, TargetSpec, WithArguments
from trainyard.api.status import JobStatus, PodFailure

# --- Spec ---


class DataRef(Part, frozen=True, kw_only=True):
    """A party's own data."""

    claim_name: str


class PartySpec(WithArguments, frozen=True, kw_only=True):
    """One participant."""

    name: str
    external: bool = False
    certificate_request: str = ""
    data: DataRef | None = None
    lr: float | None = None
    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"
    resources: dict[str, Any] = {}
    node_selector: dict[str, str] = {}
    tolerations: list[dict[str, Any]] = []


class Rounds(Part, frozen=True, kw_only=True):
    """When a round closes, and how many there are."""

    max: int = 10
    min_parties: int = 1
    fraction: float = 1
    sampling: str = "Uniform"
    deadline: str = "5m"
    patience: int | None = None


class OptimizerSpec(WithArguments, frozen=True, kw_only=True):
    """A local optimizer instead of the Task's."""

    name: str
    lr: float


class LocalTraining(Part, frozen=True, kw_only=True):
    """How a party trains in a round."""

    local_epochs: int = 1
    batch_size: int = 32
    seed: int = 0
    init: str | None = None
    target: TargetSpec | None = None
    optimizer: OptimizerSpec | None = None


class StrategySpec(WithArguments, frozen=True, kw_only=True):
    """How updates are aggregated into the next model."""

    name: str = "FedAvg"


class UpdateSpec(Part, frozen=True, kw_only=True):
    """What an update contains, and what the aggregator accepts."""

    compression: str = "None"
    weights: Literal["Samples", "Equal"] = "Samples"
    max_weight: float | None = None
    max_norm: float | None = None
    clip_norm: float | None = None
    buffers: Literal["Average", "Local"] = "Average"


class SecureAggregation(Part, frozen=True, kw_only=True):
    """The aggregator learns only the sum of the updates."""

    threshold: int
    mask_weights: bool = True


class DifferentialPrivacy(Part, frozen=True, kw_only=True):
    """Noise that limits what the model reveals."""

    unit: Literal["Party", "Record"] = "Party"
    epsilon: float
    delta: float
    clip: float
    amplification: bool = False


class Privacy(Part, frozen=True, kw_only=True):
    """What the aggregator may learn about a party."""

    secure_aggregation: SecureAggregation | None = None
    differential_privacy: DifferentialPrivacy | None = None


class FederatedJobSpec(JobSpec, frozen=True, kw_only=True):
    """`spec` of a FederatedJob."""

    parties: list[PartySpec]
    template: PodTemplate = PodTemplate()
    rounds: Rounds = Rounds()
    training: LocalTraining = LocalTraining()
    strategy: StrategySpec = StrategySpec()
    update: UpdateSpec = UpdateSpec()
    privacy: Privacy | None = None

    @property
    def local_parties(self) -> tuple[PartySpec, ...]:
        """The parties of this cluster, which get pods, sorted by name."""
        return tuple(sorted((p for p in self.parties if not p.external), key=lambda p: p.name))

    def party(self, name: str) -> PartySpec:
        """Return the party with this name; raises KeyError if there is none."""
        for party in self.parties:
            if party.name == name:
                return party
        raise KeyError(name)


# --- Status ---


class AdmissionStatus(Part, frozen=True, kw_only=True, omit_defaults=True):
    """Which parties are admitted, and why the others are not."""

    parties: list[str] = []
    reason: str = ""
    message: str = ""
    decision_time: datetime | None = None
    cooldown_end_time: datetime | None = None
    failed_starts: int = 0
    """Starts that failed since the job last trained."""
    last_failed_start_time: datetime | None = None

    @property
    def members(self) -> tuple[str, ...]:
        """The parties that get pods."""
        return tuple(self.parties)

    @property
    def desired(self) -> int:
        """How many parties are admitted."""
        return len(self.parties)

    @property
    def recommended(self) -> int:
        """The same: only a number of workers may be recommended without being assigned."""
        return self.desired

    @property
    def assigned(self) -> tuple[str, ...]:
        """What is assigned; compared to see whether it changed."""
        return self.members


class FederatedTrainingStatus(Part, frozen=True, kw_only=True, omit_defaults=True):
    """The aggregator's last report."""

    unit: ClassVar[str] = "round"
    """What progress is counted in."""

    term: int = 0
    round: int = 0
    rounds_lost: int = 0
    best_round: int | None = None
    round_seconds: float | None = None
    parties: int = 0
    samples: int = 0
    loss: float | None = None
    evaluation: dict[str, float] = {}
    report_time: datetime | None = None

    @property
    def progress(self) -> int:
        """What was trained, in `unit`."""
        return self.round

    @property
    def stored(self) -> int:
        """How much of it a claim keeps: a round counts once it is stored."""
        return self.round


class PartyFailure(PodFailure, frozen=True, kw_only=True, omit_defaults=True):
    """The last failure of one party, and those in a row that led to it."""

    count: int = 0
    """Failures in a row that count against `failure.maxRestarts`."""
    losses: int = 0
    """Pods lost in a row, each soon after the other, through no fault of their own."""
    left_out: int = 0
    """How often in a row it was left out; 0 while it is replaced as usual."""
    rounds: int = 0
    """Rounds that it had contributed to: with one more, the failure is over."""
    generation: int = 0
    """The job's generation; another one gives the party a new budget."""
    retry_time: datetime | None = None
    """The party gets no pod before; None to replace it at once."""


class PartyStatus(Part, frozen=True, kw_only=True, omit_defaults=True):
    """State of one party, from its pod and the aggregator's report."""

    name: str
    state: str
    pod_name: str = ""
    rounds: int = 0
    samples: int = 0
    seconds: float | None = None
    refused: int = 0
    last_refusal: str = ""
    failure: PartyFailure | None = None
    """None once it has contributed to a round since."""


class FederatedJobStatus(JobStatus, frozen=True, kw_only=True, omit_defaults=True):
    """`status` of a FederatedJob."""

    admission: AdmissionStatus | None = None
    training: FederatedTrainingStatus | None = None
    coordinator_restarts: int = 0
    """Failures of the aggregator; `restarts` has those of the parties too."""
    parties: list[PartyStatus] = []
