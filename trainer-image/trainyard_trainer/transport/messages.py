"""What workers and coordinator say to each other: JSON objects, each with its kind.

They stand apart because both processes decode them, and every input is bounded here. `Began`,
`Stopped` … of `membership.nouns` say the same without the wire.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import WIRE_VERSION
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership.events import MemberAddress, View, ViewId

MESSAGE_BYTES: Final = 1 << 20
"""The longest message: a view of a thousand members is about 100 KB."""

Name = Annotated[str, Meta(max_length=300)]
Count = Annotated[int, Meta(ge=0, le=1 << 62)]


class Message(Struct, frozen=True, kw_only=True, tag_field="kind", tag=str.lower):
    """A message; its class' name in lower case is its kind."""


class Speed(Struct, frozen=True, kw_only=True):
    """Throughput in one configuration, as a worker measured it."""

    nodes: Count
    workers: Count
    local_batch: Count
    steps: Count
    samples_per_second: float
    compute_seconds: float
    communication_seconds: float


class Rescale(Struct, frozen=True, kw_only=True):
    """What a change of view cost one survivor, or one joiner."""

    view: Count
    stall_seconds: float = 0.0
    """A survivor's gap between two steps, less a normal step."""
    joining_seconds: float = 0.0
    """A joiner's time from the start of its process to its first step."""


class Report(Message, frozen=True, kw_only=True):
    """How training goes; rank 0 sends all of it about once a second, others their rescales."""

    step: Count = 0
    epoch: float = 0.0
    samples: Count = 0
    loss: float | None = None
    metrics: dict[Name, float | None] = {}
    audited: Count = 0
    wrong: Count = 0
    generation: Count = 0
    """Of the plan in force; 0 before the first."""
    effective_step: Count = 0
    """The step at which that plan took effect."""
    speeds: Annotated[list[Speed], Meta(max_length=1000)] = []
    """All configurations that the worker has measured."""
    rescale: Rescale | None = None


class Hello(Message, frozen=True, kw_only=True):
    """A worker's first message on a connection: who it is and, after a loss, what it knows."""

    seat: MemberAddress
    wire: Count = WIRE_VERSION
    term: Count = 0
    warm: bool = False
    heard: ViewId | None = None
    view: View | None = None
    progress: Annotated[int, Meta(ge=-1)] = -1
    digest: Name = ""
    stopped: bool = False
    leaving: bool = False
    halted: Result | None = None
    report: Report | None = None


class Ready(Message, frozen=True, kw_only=True):
    """The worker has warmed up."""


class Begun(Message, frozen=True, kw_only=True):
    """The worker has begun a view with state."""

    view: View
    progress: Count


class Halt(Message, frozen=True, kw_only=True):
    """The worker has left its view and says how far it came."""

    heard: ViewId | None
    view: ViewId | None
    progress: Annotated[int, Meta(ge=-1)]
    digest: Name


class Finished(Message, frozen=True, kw_only=True):
    """The worker has come to the end or to the suspension."""

    result: Result
    progress: Count
    digest: Name


class Leave(Message, frozen=True, kw_only=True):
    """The worker was asked to end."""


class Goodbye(Message, frozen=True, kw_only=True):
    """The worker ends well; `left_for` is the view that it was switched out for."""

    left_for: ViewId | None = None


class Welcome(Message, frozen=True, kw_only=True):
    """The coordinator's first message: its term and the job's configuration."""

    term: Count
    config: dict[str, Any]
    wire: Count = WIRE_VERSION


class Announcement(Message, frozen=True, kw_only=True):
    """A view to begin, or to prepare."""

    view: View


class Halting(Message, frozen=True, kw_only=True):
    """Stop at once and report."""


class Fencing(Message, frozen=True, kw_only=True):
    """The worker was given up; it may come back as a new one unless a newer one has its name."""

    replaced: bool = False


class Orders(Message, frozen=True, kw_only=True):
    """The plan in force, as JSON of `contract.Plan`."""

    plan: Annotated[str, Meta(max_length=10_000)]


class Collection(Message, frozen=True, kw_only=True):
    """Send in your state."""

    result: Result


class Snapshot(Message, frozen=True, kw_only=True):
    """Send in a checkpoint at the next step boundary, and train on."""


class Dismissal(Message, frozen=True, kw_only=True):
    """End well."""

    result: Result


FromWorker = Hello | Ready | Begun | Halt | Finished | Leave | Goodbye | Report
FromCoordinator = (
    Welcome | Announcement | Halting | Fencing | Orders | Collection | Snapshot | Dismissal
)


def as_json(config: JobConfig) -> dict[str, Any]:
    """The job's configuration as a JSON object."""
    found: dict[str, Any] = json.loads(config.encode())
    return found


def to_config(values: dict[str, Any]) -> JobConfig:
    """The job's configuration in a `Welcome`; raises ValueError that names the field."""
    return JobConfig.decode(json.dumps(values))


_encoder = msgspec.json.Encoder()
_from_worker: msgspec.json.Decoder[FromWorker] = msgspec.json.Decoder(FromWorker)
_from_coordinator: msgspec.json.Decoder[FromCoordinator] = msgspec.json.Decoder(FromCoordinator)


def encode(message: Message) -> str:
    """The message as JSON."""
    return _encoder.encode(message).decode()


def decode_from_worker(text: str) -> FromWorker:
    """Parse what a worker sent; raises ValueError that says where it is wrong."""
    return _from_worker.decode(text)


def decode_from_coordinator(text: str) -> FromCoordinator:
    """Parse what a coordinator sent; raises ValueError that says where it is wrong."""
    return _from_coordinator.decode(text)
