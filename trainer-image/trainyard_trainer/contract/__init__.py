"""What the operator's image and the trainer's image agree on.

It stands apart, and uses the standard library alone, because it is the one part of the trainer that
the operator imports: environment names, ports, paths, exit codes, metric names, the job's
configuration and the Plan; what only federations have is in `federated`. A change that an older
peer would misread raises `WIRE_VERSION`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import IntEnum, StrEnum
from typing import Any, Final, TypeVar

WIRE_VERSION: Final = 1
"""Raised by each change that an older peer would misread; a mismatch becomes a condition."""

# Environment. World size is never here: a pod knows its job, its name and its coordinator, and
# learns all else from the coordinator.
ENV_NAMESPACE: Final = "TRAINYARD_NAMESPACE"
ENV_JOB: Final = "TRAINYARD_JOB"
ENV_POD: Final = "TRAINYARD_POD"
ENV_POD_IP: Final = "TRAINYARD_POD_IP"
ENV_NODE: Final = "TRAINYARD_NODE"
ENV_COORDINATOR: Final = "TRAINYARD_COORDINATOR"
"""`host:port` of the coordinator; given to workers and parties."""
ENV_PARTY: Final = "TRAINYARD_PARTY"
"""The party's name; given to parties."""
ENV_TERM: Final = "TRAINYARD_TERM"
"""The coordinator's attempt number, a positive integer; given to the coordinator."""
ENV_CONFIG: Final = "TRAINYARD_CONFIG"
"""The job's configuration as JSON (`JobConfig`, `FederatedConfig`); given to the coordinator."""
ENV_STATE: Final = "TRAINYARD_STATE"
"""The job's own folder below `STATE_DIR`; jobs may share a claim, and a job that is created anew
under an old name must not take the old one's result for its own."""
ENV_WIRE: Final = "TRAINYARD_WIRE"
"""The operator's `WIRE_VERSION`."""

COORDINATOR_PORT: Final = 7430
"""HTTPS with client certificates: metrics, Plans, members, state."""

# Paths inside the pods.
TLS_DIR: Final = "/var/run/trainyard/tls"
TLS_CA: Final = f"{TLS_DIR}/ca.crt"
TLS_CERT: Final = f"{TLS_DIR}/tls.crt"
TLS_KEY: Final = f"{TLS_DIR}/tls.key"
STATE_DIR: Final = "/var/lib/trainyard"
"""Checkpoints and results: the claim, or an emptyDir that dies with the coordinator."""
DATA_DIR: Final = "/var/lib/trainyard-data"
"""A party's own data, read-only; there only where the party names a claim."""
TERMINATION_LOG: Final = "/dev/termination-log"
TERMINATION_BYTES: Final = 4096
"""Kubernetes cuts a termination message here."""

MODEL_FILE: Final = "model.safetensors"
RESULT_FILE: Final = "result.json"

# HTTP paths of the coordinator.
PATH_METRICS: Final = "/metrics"
PATH_HEALTH: Final = "/healthz"
PATH_PLAN: Final = "/v1/plan"
PATH_MEMBER: Final = "/v1/member"
"""WebSocket: one per worker, for as long as it is a member."""
PATH_STATE: Final = "/v1/state"
"""Streamed checkpoints and models, both ways."""


class Role(StrEnum):
    """Who a certificate speaks for; the last part of its URI name."""

    OPERATOR = "operator"
    COORDINATOR = "coordinator"
    WORKER = "worker"
    PARTY = "party"
    """A participant of a federation; its certificate names it besides."""


def identity(namespace: str, job: str, role: Role, member: str = "") -> str:
    """The URI subject alternative name that binds a certificate to namespace, job and role.

    `member` is the party's name: parties do not trust each other, so each has a name of its own.
    """
    name = f"trainyard://{namespace}/{job}/{role}"
    return f"{name}/{member}" if member else name


class Exit(IntEnum):
    """Exit codes of the trainer's processes, from sysexits.h where one fits."""

    OK = 0
    TASK_FAILED = 1
    """An exception in the user's code; retried up to `failure.maxRestarts`."""
    TASK_INVALID = 64
    """The task cannot be loaded or refuses its arguments; a retry would fail the same way."""
    INTERNAL = 70
    """A defect of ours; retried."""
    STATE_UNUSABLE = 74
    """The state directory cannot be read or written."""
    FENCED = 75
    """A higher term, or a newer member of the same name, has taken this process' place."""
    WIRE_MISMATCH = 76
    """Operator and trainer images do not speak the same wire version."""


class Result(StrEnum):
    """How a process ended, in its termination message."""

    COMPLETE = "Complete"
    SUSPENDED = "Suspended"
    LEFT = "Left"
    """The worker left on request (SIGTERM) after its agreed step."""
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LastWords:
    """A pod's termination message: one JSON object of at most `TERMINATION_BYTES` bytes."""

    result: Result
    error: str = ""
    """One sentence for a person: what went wrong and, where known, what to do."""
    traceback: str = ""
    """The last lines of the traceback; cut first when the message is too long."""
    step: int | None = None
    samples: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """Final evaluation metrics by name, for example `eval/accuracy`."""

    def encode(self) -> str:
        """The message, its traceback and then its error cut from the left until it fits."""
        words = {k: v for k, v in asdict(self).items() if v not in (None, "", {})}
        text = json.dumps(words)
        for name in ("traceback", "error"):
            excess = len(text.encode()) - TERMINATION_BYTES
            if excess > 0 and name in words:
                # An escaped character is at most 12 bytes of JSON, so halving converges fast.
                while excess > 0 and words[name]:
                    words[name] = words[name][min(len(words[name]), max(excess // 2, 1)) :]
                    text = json.dumps(words)
                    excess = len(text.encode()) - TERMINATION_BYTES
        return text

    @classmethod
    def decode(cls, message: str) -> LastWords | None:
        """Parse a termination message; None when a process other than ours wrote it.

        Anyone may write one, so nothing is taken on trust; metrics that are not finite are dropped.
        """
        try:
            words = json.loads(message)
            known = {f.name for f in fields(cls)}
            picked = {k: v for k, v in words.items() if k in known}
            said = cls(**{**picked, "result": Result(words["result"])})
            if not isinstance(said.error, str) or not isinstance(said.traceback, str):
                return None
            finite = {k: float(v) for k, v in said.metrics.items() if math.isfinite(v)}
            return replace(said, metrics=finite)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return None


class Goal(StrEnum):
    """Which way a target metric improves."""

    MAX = "Max"
    MIN = "Min"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Training ends early when `metric` reaches `goal`."""

    metric: str
    goal: float
    mode: Goal = Goal.MAX

    def reached(self, value: float) -> bool:
        """Whether `value` is at the goal or beyond; NaN never is."""
        return value >= self.goal if self.mode is Goal.MAX else value <= self.goal


@dataclass(frozen=True, slots=True, kw_only=True)
class JobConfig:
    """What a coordinator needs to know of its job at its start; it passes it on to the workers."""

    task: str
    """`module:Class` of the Task."""
    args: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 256
    """Global batch in samples; every worker gets its share."""
    epochs: int = 1
    init: str = ""
    """A safetensors file (path in the image or below the state directory) to start from."""
    target: Target | None = None
    seed: int = 0
    checkpoint_seconds: float = 120.0
    checkpoint_keep: int = 3
    durable: bool = False
    """Whether `STATE_DIR` survives the coordinator's pod."""
    min_workers: int = 1
    silence_seconds: float = 5.0
    """A member not heard of for so long is dead."""

    def encode(self) -> str:
        """The configuration as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def decode(cls, text: str) -> JobConfig:
        """Parse; raises ValueError that names the field."""
        values = parse_object(text, "job configuration")
        if (target := values.get("target")) is not None:
            target = build(Target, {**target, "mode": Goal(target.get("mode", Goal.MAX))})
        return build(cls, {**values, "target": target})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the operator wants of a running job: whole, idempotent, ordered by `generation`.

    The coordinator refuses a generation below the one in force, announces the step at which a new
    one takes effect, and echoes both in its metrics.
    """

    generation: int
    workers: int
    """How many workers should step together; the pods come and go by the operator's hand."""
    batch_size: int | None = None
    """Global batch in samples; None keeps the job's own."""
    suspend: bool = False
    """Checkpoint at the next step boundary, then stop."""
    leadership: int = 0
    """The sending operator's term of office; one that a later operator has replaced is refused."""

    def __post_init__(self) -> None:
        """Refuse what no job could follow."""
        if self.generation < 1:
            raise ValueError(f"plan.generation must be at least 1, got {self.generation}")
        if self.workers < 0 or (self.workers == 0 and not self.suspend):
            raise ValueError(f"plan.workers must be at least 1, got {self.workers}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"plan.batch_size must be at least 1, got {self.batch_size}")

    def encode(self) -> str:
        """The plan as JSON."""
        return json.dumps({"wire": WIRE_VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def decode(cls, text: str) -> Plan:
        """Parse; raises ValueError that names the field or the wire version."""
        values = dict(parse_object(text, "plan"))
        wire = values.pop("wire", None)
        if wire != WIRE_VERSION:
            raise ValueError(f"plan has wire version {wire}, this trainer speaks {WIRE_VERSION}")
        return build(cls, values)


T = TypeVar("T")


def parse_object(text: str, what: str) -> Mapping[str, Any]:
    """The JSON object in `text`; raises ValueError that says `what` it should be."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object, got {type(value).__name__}")
    return value


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """A `cls` of these fields; raises ValueError that names an unknown or a missing one."""
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{cls.__name__}: {error}") from None


class Metric:
    """Names of what a coordinator serves as OpenMetrics; any trainer that does can be scaled.

    `CONFIGURATION` labels (`nodes`, `workers`, `local_batch`) key the throughput profile: each
    series is the mean over the steps made in that configuration since the coordinator learnt of it,
    steps within a rescale left out.
    """

    CONFIGURATION: Final = ("nodes", "workers", "local_batch")

    INFO: Final = "trainyard_training_info"
    """1, with labels `wire`, `version` and `task`."""
    TERM: Final = "trainyard_training_term"
    VIEW: Final = "trainyard_training_view"
    """Number of the view in force."""
    MEMBERS: Final = "trainyard_training_members"
    """Workers by label `state` (warming, replaying, active, leaving)."""
    STEP: Final = "trainyard_training_step"
    EPOCH: Final = "trainyard_training_epoch"
    """Passes over the data, with its fraction."""
    SAMPLES: Final = "trainyard_training_samples"
    """Counter (exposed with `_total`) of samples in committed steps."""
    EPOCHS_AUDITED: Final = "trainyard_training_epochs_audited"
    """Counter (exposed with `_total`) of epochs whose samples were counted and checked."""
    SAMPLES_WRONG: Final = "trainyard_training_samples_wrong"
    """Samples that the audits found missing or repeated within an epoch; 0 is the promise."""
    LOSS: Final = "trainyard_training_loss"
    """Mean training loss of the last reported step."""
    EVAL: Final = "trainyard_training_eval"
    """Last evaluation by label `metric`, for example `eval/accuracy`."""
    LAST_STEP_AT: Final = "trainyard_training_last_step_timestamp_seconds"
    """Unix time of the last committed step; old means stale."""
    SAMPLES_PER_SECOND: Final = "trainyard_training_samples_per_second"
    """Throughput by `CONFIGURATION`."""
    MEASURED_STEPS: Final = "trainyard_training_measured_steps"
    """How many steps stand behind a configuration's figures."""
    COMPUTE_SECONDS: Final = "trainyard_training_compute_seconds"
    """Mean forward and backward time of a step by `CONFIGURATION`."""
    COMMUNICATION_SECONDS: Final = "trainyard_training_communication_seconds"
    """Mean time of a step in collectives by `CONFIGURATION`."""
    RESCALES: Final = "trainyard_training_rescales"
    """Counter of completed view changes."""
    RESCALE_STALL: Final = "trainyard_training_rescale_stall_seconds"
    """Of the last rescale: survivors' longest gap between two steps, minus a normal step."""
    RESCALE_COST: Final = "trainyard_training_rescale_cost_gpu_seconds"
    """Of the last rescale: worker seconds that did not train, from a joiner's start to steady."""
    PLAN_GENERATION: Final = "trainyard_training_plan_generation"
    PLAN_EFFECTIVE_STEP: Final = "trainyard_training_plan_effective_step"
    CHECKPOINT_STEP: Final = "trainyard_training_checkpoint_step"
    """Step of the newest checkpoint that is safely stored; -1 before the first."""
    OUTCOME: Final = "trainyard_training_outcome"
    """1, with label `result` (Complete or Suspended), once the coordinator has ended training."""
