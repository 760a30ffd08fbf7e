"""The inputs and outputs of the coordinator's state machine."""

from __future__ import annotations

from msgspec import Struct

from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.membership.messages import (
    CollectState,
    Dismiss,
    Exclude,
    Fence,
    MembershipMessage,
    StopRequest,
    ViewAnnouncement,
)


class Disconnected(Struct, frozen=True, kw_only=True):
    """A worker's connection has ended."""

    member_id: str


class StateStored(Struct, frozen=True, kw_only=True):
    """The state that a `CollectState` asked for is stored."""

    member_id: str


class Tick(Struct, frozen=True, kw_only=True):
    """Time has passed."""

    usual_step_seconds: float = 0.0
    """The median duration of recent steps; 0 while it is not known."""


Event = tuple[str, MembershipMessage] | Disconnected | StateStored | Plan | Tick
"""A message from a worker, paired with its member id; a new Plan; or what happened otherwise."""

Command = tuple[str, ViewAnnouncement | StopRequest | Fence | Exclude | CollectState | Dismiss]
"""A message to a worker, paired with its member id."""
