"""What the coordinator's state machine takes and returns, besides workers' messages."""

from __future__ import annotations

from msgspec import Struct

from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.membership.messages import (
    CollectState,
    Dismiss,
    Fence,
    MembershipMessage,
    StopRequest,
    ViewAnnouncement,
)


class Disconnected(Struct, frozen=True, kw_only=True):
    """A worker's connection is gone."""

    member_id: str


class StateStored(Struct, frozen=True, kw_only=True):
    """The state that a `CollectState` asked for is stored."""

    member_id: str


class Tick(Struct, frozen=True):
    """Time has passed."""


Event = tuple[str, MembershipMessage] | Disconnected | StateStored | Plan | Tick
"""A worker's message comes after the id of its sender; a Plan is the one to follow from now on."""

Command = tuple[str, ViewAnnouncement | StopRequest | Fence | CollectState | Dismiss]
"""A message, after the id of the worker to send it to."""
