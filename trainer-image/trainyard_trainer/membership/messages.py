"""Messages between the workers and the coordinator of a DistributedJob.

The state machine takes and returns these very structs, and `transport.codec` encodes them as JSON
objects whose `kind` is the class name. Every field that a peer fills in is bounded here.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from trainyard_trainer.contract.env import WIRE_VERSION
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership.views import MemberAddress, View, ViewId

Name = Annotated[str, Meta(max_length=300)]
Count = Annotated[int, Meta(ge=0, le=1 << 62)]
Reason = Annotated[str, Meta(max_length=2000)]
Layout = Annotated[tuple[Name, ...], Meta(max_length=1000)]
"""What all members must have alike, a readable line for each; empty where it is not known."""


MAX_SAMPLES = 10_000
"""Sample ids in a message, up to 200 KB."""


class Message(Struct, frozen=True, kw_only=True, tag_field="kind", tag=True):
    """A message; its class name is its kind."""


class ConfigurationThroughput(Struct, frozen=True, kw_only=True):
    """Throughput in one configuration, as a worker measured it."""

    nodes: Count
    workers: Count
    local_batch: Count
    steps: Count
    samples_per_second: float
    compute_seconds: float
    communication_seconds: float
    blocks: Count = 0
    """Blocks of windows behind `sample_seconds`; 0 where no spread is known."""
    sample_seconds: float = 0.0
    sample_seconds_deviation: float = 0.0
    """Of one block."""


class RescaleCost(Struct, frozen=True, kw_only=True):
    """What a view change cost one survivor, or one joiner."""

    view: Count
    stall_seconds: float = 0.0
    """A survivor's gap between two steps, less a normal step."""
    joining_seconds: float = 0.0
    """A joiner's time from the start of its process to its first step."""


# --- worker → coordinator -------------------------------------------------------------------------


class ProgressReport(Message, frozen=True, kw_only=True):
    """Training progress; rank 0 sends it about once a second, others only with a rescale cost."""

    step: Count = 0
    epoch: float = 0.0
    samples: Count = 0
    loss: float | None = None
    non_finite_steps: Count = 0
    """Consecutive steps, up to the last, whose loss was not finite."""
    metrics: dict[Name, float | None] = {}
    epochs_audited: Count = 0
    samples_wrong: Count = 0
    plan_generation: Count = 0
    """Of the plan in force; 0 before the first."""
    plan_effective_step: Count = 0
    """The step at which that plan took effect."""
    throughput: Annotated[list[ConfigurationThroughput], Meta(max_length=1000)] = []
    """All configurations that the worker has measured."""
    rescale_cost: RescaleCost | None = None


class TaskRaised(Message, frozen=True, kw_only=True):
    """The user's code raised in the worker's part of an iteration, before which it has the state.

    The part is from `first` to `end` of the iteration's positions, which all workers share alike;
    it is empty for an error that may be due to its size.
    """

    iteration: Count
    first: Count
    end: Count
    samples: Annotated[tuple[Count, ...], Meta(max_length=MAX_SAMPLES)] = ()
    """The ids at the positions from `first` on, as many as there is room for."""
    data: Name = ""
    """`train_data` or `eval_data`."""
    reason: Reason = ""


class Hello(Message, frozen=True, kw_only=True):
    """A worker's first message on a connection: who it is and, on a reconnect, what it knows."""

    address: MemberAddress
    wire: Count = WIRE_VERSION
    term: Count = 0
    """The highest term of a coordinator that it has met."""
    ready: bool = False
    layout: Layout = ()
    announced: ViewId | None = None
    """The newest view announced to it."""
    state_view: View | None = None
    """The last view entered with state: what the state at `progress` belongs to."""
    progress: Annotated[int, Meta(ge=-1)] = -1
    """Iterations committed; -1 without state."""
    digest: Name = ""
    stopped: bool = False
    leaving: bool = False
    finished: Result | None = None
    raised: TaskRaised | None = None
    report: ProgressReport | None = None


class Ready(Message, frozen=True, kw_only=True):
    """The worker has warmed up and can be given a view."""

    layout: Layout = ()


class Unfit(Message, frozen=True, kw_only=True):
    """The worker, which has no state, cannot take part and is about to exit."""

    reason: Reason


class BuildFailed(Message, frozen=True, kw_only=True):
    """The worker trains on, but cannot build the process group of the pending view `view`."""

    view: ViewId
    reason: Reason


class ViewEntered(Message, frozen=True, kw_only=True):
    """The worker has the view's process group and state."""

    view: View
    progress: Count


class Stopped(Message, frozen=True, kw_only=True):
    """The worker's view broke, or a stop was requested; it waits for a view that begins at once."""

    announced: ViewId | None
    state_view: ViewId | None
    progress: Annotated[int, Meta(ge=-1)]
    digest: Name


class Finished(Message, frozen=True, kw_only=True):
    """The worker has reached the end of training, or the suspension, and holds the final state."""

    result: Result
    progress: Count
    digest: Name


class LeaveRequest(Message, frozen=True, kw_only=True):
    """The worker is terminating and waits to be dismissed."""


class Goodbye(Message, frozen=True, kw_only=True):
    """The worker exits cleanly."""

    left_for: ViewId | None = None
    """The view whose switch left it out."""


# --- coordinator → worker -------------------------------------------------------------------------


class Welcome(Message, frozen=True, kw_only=True):
    """The coordinator's first message on a connection: its term and the job's configuration."""

    term: Count
    config: dict[str, Any]
    wire: Count = WIRE_VERSION


class ViewAnnouncement(Message, frozen=True, kw_only=True):
    """A view to begin, or to prepare."""

    view: View


class StopRequest(Message, frozen=True, kw_only=True):
    """Stop at once and report the progress with `Stopped`."""


class Fence(Message, frozen=True, kw_only=True):
    """The worker was given up for dead: its state is void, and it may rejoin as a new member."""

    replaced: bool = False
    """A newer worker of the same pod name has connected: exit."""


class Exclude(Message, frozen=True, kw_only=True):
    """The worker cannot take part: exit."""

    reason: Reason
    is_own_fault: bool = True
    """Whether the others train, or are about to, without this worker."""


class PlanUpdate(Message, frozen=True, kw_only=True):
    """The newest plan, as JSON of `contract.plan.Plan`."""

    plan: Annotated[str, Meta(max_length=10_000)]


class CollectState(Message, frozen=True, kw_only=True):
    """Upload the state: the model of a complete training, else a checkpoint."""

    result: Result


class SnapshotRequest(Message, frozen=True, kw_only=True):
    """Upload a checkpoint at the next step boundary, and train on."""


class Dismiss(Message, frozen=True, kw_only=True):
    """Exit with this result: cleanly, or with `reason` when the job has failed."""

    result: Result
    reason: Reason = ""


MembershipMessage = (
    Hello
    | Ready
    | Unfit
    | BuildFailed
    | TaskRaised
    | ViewEntered
    | Stopped
    | Finished
    | LeaveRequest
    | Goodbye
)
"""The worker's messages that the coordinator's state machine handles."""
WorkerMessage = MembershipMessage | ProgressReport
CoordinatorMessage = (
    Welcome
    | ViewAnnouncement
    | StopRequest
    | Fence
    | Exclude
    | PlanUpdate
    | CollectState
    | SnapshotRequest
    | Dismiss
)
