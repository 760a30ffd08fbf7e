"""Conditions: claims about a job, each with a reason for programs and a message for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal

import msgspec

Truth = Literal["True", "False", "Unknown"]


class Type(StrEnum):
    """Every condition type that a job may carry."""

    ACCEPTED = "Accepted"
    ADMITTED = "Admitted"
    RUNNING = "Running"
    RESCALING = "Rescaling"
    SUSPENDED = "Suspended"
    STATE_DURABLE = "StateDurable"
    DEGRADED = "Degraded"
    COMPLETE = "Complete"
    FAILED = "Failed"


class Condition(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One condition as in `metav1.Condition`."""

    type: str
    status: Truth
    reason: str
    message: str = ""
    last_transition_time: datetime | None = None
    observed_generation: int = 0


def merge_conditions(
    before: Iterable[Condition], changes: Iterable[Condition], now: datetime, generation: int
) -> list[Condition]:
    """The conditions with `claims` set: the transition time moves only when a status changes."""
    merged: dict[str, Condition] = {c.type: c for c in before}
    for claim in changes:
        old = merged.get(claim.type)
        since = old.last_transition_time if old and old.status == claim.status else now
        merged[claim.type] = msgspec.structs.replace(
            claim, last_transition_time=since or now, observed_generation=generation
        )
    return sorted(merged.values(), key=lambda c: _ORDER.get(c.type, len(_ORDER)))


def is_true(conditions: Iterable[Condition], type_: Type) -> bool:
    """Whether the condition is there and True."""
    return any(c.type == type_ and c.status == "True" for c in conditions)


_ORDER: Mapping[str, int] = {type_: place for place, type_ in enumerate(Type)}
