"""The spec of the DistributedJob and what it shares with the FederatedJob's, as msgspec structs.

The API server has validated specs and filled in their defaults. The defaults here repeat those of
the CRD only for objects that were stored before a field had one.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all parts of a resource: frozen, camelCase in JSON, unknown fields ignored."""


class WithArguments(Part, frozen=True, kw_only=True):
    """Base of parts with arguments of any shape.

    They stay encoded, and cost their bytes: as Python objects they would take twenty times that.
    """

    args: msgspec.Raw = msgspec.Raw(b"{}")

    def __post_init__(self) -> None:
        """Let go of the message that the arguments were a part of."""
        msgspec.structs.force_setattr(self, "args", self.args.copy())

    def arguments(self) -> dict[str, Any]:
        """The arguments, decoded."""
        found: dict[str, Any] = msgspec.json.decode(self.args, type=dict[str, Any])
        return found


class TaskRef(WithArguments, frozen=True, kw_only=True):
    """The user's code."""

    entrypoint: str


class PodMetadata(Part, frozen=True, kw_only=True):
    """Labels and annotations that a job adds to its pods."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class CoordinatorTemplate(Part, frozen=True, kw_only=True):
    """The subset of a pod that a job may set for all of its pods."""

    metadata: PodMetadata = PodMetadata()
    tolerations: list[dict[str, Any]] = []
    affinity: dict[str, Any] = {}
    node_selector: dict[str, str] = {}
    image_pull_secrets: list[dict[str, str]] = []
    service_account_name: str = ""
    scheduler_name: str = ""
    security_context: dict[str, Any] | None = None
    """User and groups; None: those of the operator's installation."""


class PodTemplate(CoordinatorTemplate, frozen=True, kw_only=True):
    """The subset of a pod that a job may set for its workers or parties."""

    env: list[dict[str, Any]] = []
    volumes: list[dict[str, Any]] = []
    volume_mounts: list[dict[str, Any]] = []
    runtime_class_name: str = ""


class TargetSpec(Part, frozen=True, kw_only=True):
    """A metric value at which training ends early."""

    metric: str
    value: float
    direction: Literal["Max", "Min"] = "Max"


class CodeSource(Part, frozen=True, kw_only=True):
    """Modules and packages that are not in the image."""

    config_map: str = ""
    requirements: list[str] = []


class StateRef(Part, frozen=True, kw_only=True):
    """Where checkpoints and results are stored."""

    claim_name: str = ""


class Failure(Part, frozen=True, kw_only=True):
    """What happens when something fails."""

    retry: str = "Step"
    max_restarts: int = 10
    hung_after_steps: int = 10
    replace_stragglers: bool = False
    rules: list[dict[str, Any]] = []


class CoordinatorSpec(Part, frozen=True, kw_only=True):
    """Settings of the coordinator's pod."""

    resources: dict[str, Any] = {}
    template: CoordinatorTemplate = CoordinatorTemplate()

    def template_with(self, members: CoordinatorTemplate) -> CoordinatorTemplate:
        """The template, with what it leaves out of that of the workers or parties.

        Not their labels and their placement, which are for pods with accelerators.
        """
        own = self.template
        context = own.security_context
        return msgspec.structs.replace(
            own,
            tolerations=own.tolerations or members.tolerations,
            image_pull_secrets=own.image_pull_secrets or members.image_pull_secrets,
            security_context=members.security_context if context is None else context,
        )


class JobSpec(Part, frozen=True, kw_only=True):
    """Fields that the specs of both kinds have."""

    task: TaskRef
    image: str = ""
    """Empty for the operator's `--trainer-image`."""
    code: CodeSource = CodeSource()
    adjustments: dict[str, Any] = {}
    state: StateRef = StateRef()
    failure: Failure = Failure()
    coordinator: CoordinatorSpec = CoordinatorSpec()
    suspend: bool = False
    priority_class_name: str = ""
    active_deadline_seconds: int | None = None
    ttl_seconds_after_finished: int | None = None
    managed_by: str = ""


class Workers(Part, frozen=True, kw_only=True):
    """How many workers there may be, and what each of them runs with."""

    min: int = 1
    max: int = 1
    replicas: int = 1
    allowed: list[int] = []
    gpus: int = 1
    gpu_resource: str = "nvidia.com/gpu"
    resources: dict[str, Any] = {}
    template: PodTemplate = PodTemplate()


class Training(Part, frozen=True, kw_only=True):
    """Hyperparameters of the training."""

    batch_size: int = 256
    max_batch_size: int | None = None
    epochs: int = 1
    seed: int = 0
    precision: str = "FP32"
    init: str | None = None
    target: TargetSpec | None = None


class Sync(Part, frozen=True, kw_only=True):
    """How workers synchronize."""

    algorithm: str = "AllReduce"
    interval: int = 1
    compression: str = "None"


class Scaling(Part, frozen=True, kw_only=True):
    """Who decides the number of workers, and how readily it changes."""

    weight: float = 1
    policy: Literal["Manual", "Throughput", "Goodput"] = "Throughput"
    mode: Literal["Apply", "Recommend"] = "Apply"
    cooldown: str = "60s"
    max_changes_per_hour: int = 12
    min_gain: float = 1.05


class Checkpoint(Part, frozen=True, kw_only=True):
    """How often the state is saved, and how much of it is retained."""

    interval: str = "2m"
    keep: int = 3


class DistributedJobSpec(JobSpec, frozen=True, kw_only=True):
    """`spec` of a DistributedJob."""

    workers: Workers = Workers()
    training: Training = Training()
    sync: Sync = Sync()
    scaling: Scaling = Scaling()
    candidates: list[dict[str, msgspec.Raw]] = []
    selection: dict[str, Any] | None = None
    checkpoint: Checkpoint = Checkpoint()

    @property
    def template(self) -> PodTemplate:
        """Further settings of the workers' pods."""
        return self.workers.template
