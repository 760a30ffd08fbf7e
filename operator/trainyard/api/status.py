"""The statuses: what people read, and what the operator persists of a job.

First what both kinds have in common, then the DistributedJob's; the FederatedJob's is in
`federation`.

They have all that a restarted operator cannot observe in the cluster (failures counted, decisions
made, throughput measured); nothing else is persisted anywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import count, islice
from typing import ClassVar

import msgspec

from trainyard.api.conditions import Condition
from trainyard.api.spec import Part

MAX_COUNT = 2**63 - 1
"""The API server takes no integer beyond, and refuses the whole status with it."""


class PodFailure(Part, frozen=True, kw_only=True, omit_defaults=True):
    """A pod that failed."""

    pod_name: str
    pod_uid: str = msgspec.field(name="podUID")
    failure_time: datetime
    exit_code: int | None = None
    reason: str = ""
    message: str = ""


class WorkerFailure(PodFailure, frozen=True, kw_only=True, omit_defaults=True):
    """The last failure of a worker that others train without, and those in a row before it."""

    index: int
    count: int = 0
    """Failures in a row, none of which counts against the job."""
    left_out: int = 0
    """How often in a row it was left out; 0 while it is replaced as usual."""
    generation: int = 0
    """The job's generation; another one gives the worker a new start."""
    retry_time: datetime
    """The worker gets no pod before."""


class JobStatus(Part, frozen=True, kw_only=True, omit_defaults=True):
    """What the status of every kind has."""

    observed_generation: int = 0
    phase: str = ""
    image: str = ""
    """What all pods run, also after an upgrade of the operator with another default."""
    conditions: list[Condition] = []
    term: int = 0
    restarts: int = 0
    plan_generation: int = 0
    start_time: datetime | None = None
    completion_time: datetime | None = None
    failures: list[PodFailure] = []


class TrainingStatus(Part, frozen=True, kw_only=True, omit_defaults=True):
    """The coordinator's last report."""

    unit: ClassVar[str] = "step"
    """What progress is counted in."""

    term: int = 0
    view: int = 0
    step: int = 0
    epoch: float = 0.0
    samples: int = 0
    loss: float | None = None
    evaluation: dict[str, float] = {}
    samples_per_second: float | None = None
    workers: int = 0
    checkpoint_step: int | None = None
    report_time: datetime | None = None

    @property
    def progress(self) -> int:
        """What was trained, in `unit`."""
        return self.step

    @property
    def stored(self) -> int:
        """How much of it a claim keeps."""
        return self.checkpoint_step or 0


class SampleTimes(Part, frozen=True, kw_only=True):
    """Seconds per sample in one configuration, over blocks of some seconds each."""

    blocks: int
    mean: float
    deviation: float
    """Standard deviation of one block."""


class Measurement(Part, frozen=True, kw_only=True, omit_defaults=True):
    """Throughput measured in one configuration."""

    nodes: int
    workers: int
    local_batch: int
    samples_per_second: float
    steps: int = 0
    sample_times: SampleTimes | None = None
    """None from trainers that do not measure the spread, and at first."""


class Change(Part, frozen=True, kw_only=True, omit_defaults=True):
    """One decision that changed the number of workers."""

    from_: int = msgspec.field(name="from")
    to: int
    reason: str
    decision_time: datetime
    expected_speedup: float | None = None
    measured_speedup: float | None = None
    message: str = ""
    """Why the job shrank; empty for a growth."""


class NotPlaced(Part, frozen=True, kw_only=True):
    """A size at which kube-scheduler or the API server did not place all workers in time."""

    workers: int
    """The largest size that is asked for until then."""
    attempts: int
    """Attempts in a row to have more."""
    retry_time: datetime


class Provisioning(Part, frozen=True, kw_only=True, omit_defaults=True):
    """An admission on nodes that a declared pool has yet to add."""

    pool: str
    attempts: int = 0
    """Attempts in a row that brought no nodes in time."""
    retry_time: datetime | None = None
    """When nodes are asked for again; None while they are awaited."""


class ScalingStatus(Part, frozen=True, kw_only=True, omit_defaults=True):
    """What was decided, why, what it should gain, and when it may change again."""

    current: int = 0
    desired: int = 0
    recommended: int = 0
    proven: int = 0
    """The largest size found to pay since the job was last smaller: given back on a clear loss."""
    reason: str = ""
    message: str = ""
    expected_speedup: float | None = None
    measured_speedup: float | None = None
    decision_time: datetime | None = None
    cooldown_end_time: datetime | None = None
    failed_starts: int = 0
    """Starts that failed since the job last trained."""
    last_failed_start_time: datetime | None = None
    stall_seconds: float | None = None
    cost_gpu_seconds: float | None = msgspec.field(default=None, name="costGPUSeconds")
    not_placed: NotPlaced | None = None
    provisioning: Provisioning | None = None
    left_out_workers: list[int] = []
    """Indices of workers that the decision goes on without, as they alone cannot take part."""
    history: list[Change] = []
    profile: list[Measurement] = []

    @property
    def members(self) -> Sequence[int]:
        """The indices of the workers that get pods."""
        return worker_indices(self.desired, self.left_out_workers)

    @property
    def assigned(self) -> int:
        """What is assigned; compared to see whether it changed."""
        return self.desired


def worker_indices(workers: int, left_out: Collection[int]) -> Sequence[int]:
    """The lowest indices that are not left out, for so many workers."""
    if not left_out:
        return range(workers)
    return tuple(islice((index for index in count() if index not in left_out), workers))


class DistributedJobStatus(JobStatus, frozen=True, kw_only=True, omit_defaults=True):
    """`status` of a DistributedJob."""

    selector: str = ""
    replicas: int = 0
    training: TrainingStatus | None = None
    scaling: ScalingStatus | None = None
    worker_failures: list[WorkerFailure] = []
    """Of workers that have not trained since."""
