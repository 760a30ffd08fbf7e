"""A job's conditions: each has a status and a reason for programs, and a message for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal

import msgspec

ConditionStatus = Literal["True", "False", "Unknown"]
RESUMED: Final = "Resumed"
"""The reason of `Suspended=False` after a suspension."""


class ConditionType(StrEnum):
    """Every condition type that a job may carry."""

    ACCEPTED = "Accepted"
    ADMITTED = "Admitted"
    RUNNING = "Running"
    RESCALING = "Rescaling"
    SUSPENDED = "Suspended"
    STATE_DURABLE = "StateDurable"
    COORDINATOR_REACHABLE = "CoordinatorReachable"
    DEGRADED = "Degraded"
    DIVERGED = "Diverged"
    COMPLETE = "Complete"
    FAILED = "Failed"


class Condition(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One condition as in `metav1.Condition`."""

    type: str
    status: ConditionStatus
    reason: str
    message: str = ""
    last_transition_time: datetime | None = None
    observed_generation: int = 0


def merge_conditions(
    before: Iterable[Condition], changes: Iterable[Condition], now: datetime, generation: int
) -> list[Condition]:
    """The conditions with `changes` set: the transition time moves only when a status changes."""
    merged: dict[str, Condition] = {c.type: c for c in before}
    for change in changes:
        old = merged.get(change.type)
        since = old.last_transition_time if old and old.status == change.status else now
        merged[change.type] = msgspec.structs.replace(
            change, last_transition_time=since or now, observed_generation=generation
        )
    return sorted(merged.values(), key=lambda c: _ORDER.get(c.type, len(_ORDER)))


def is_true(conditions: Iterable[Condition], type_: ConditionType) -> bool:
    """Whether the condition is there and True."""
    return any(c.type == type_ and c.status == "True" for c in conditions)


_ORDER: Mapping[str, int] = {type_: order for order, type_ in enumerate(ConditionType)}
