"""Merging changed conditions into those of a status."""

from __future__ import annotations

import msgspec

from tests.support.jobs import NOW, ago
from trainyard.api.conditions import (
    Condition,
    ConditionStatus,
    ConditionType,
    is_true,
    merge_conditions,
)
from trainyard.api.jobs import format_time

BEFORE = ago(hours=1)


def condition(type_: str, status: ConditionStatus, reason: str = "Because") -> Condition:
    return Condition(type=type_, status=status, reason=reason)


def merged(before: list[Condition], *changes: Condition) -> list[Condition]:
    return merge_conditions(before, changes, NOW, 5)


def test_a_transition_time_moves_only_when_the_status_changes() -> None:
    before = merge_conditions([], [condition("Running", "False")], BEFORE, 4)
    (same,) = merged(before, condition("Running", "False", "Other"))
    assert (same.last_transition_time, same.reason) == (BEFORE, "Other")
    assert same.observed_generation == 5
    (changed,) = merged(before, condition("Running", "True"))
    assert changed.last_transition_time == NOW


def test_conditions_that_do_not_change_stay_as_they_are() -> None:
    before = merge_conditions([], [condition("Admitted", "True")], BEFORE, 4)
    after = merged(before, condition("Running", "True"))
    assert after[0] == before[0]


def test_conditions_are_always_in_the_same_order() -> None:
    types = [str(t) for t in ConditionType]
    changes = [condition(t, "True") for t in reversed(types)]
    assert [c.type for c in merged([], condition("Other", "True"), *changes)] == [*types, "Other"]


def test_a_condition_has_all_that_the_api_server_requires() -> None:
    (written,) = merged([], condition("Running", "True"))
    assert msgspec.to_builtins(written) == {
        "type": "Running",
        "status": "True",
        "reason": "Because",
        "message": "",
        "lastTransitionTime": format_time(NOW),
        "observedGeneration": 5,
    }


def test_only_true_is_true() -> None:
    conditions = [
        condition("Running", "Unknown"),
        condition("Failed", "False"),
        condition("Complete", "True"),
    ]
    assert [
        is_true(conditions, t)
        for t in (ConditionType.RUNNING, ConditionType.FAILED, ConditionType.COMPLETE)
    ] == [*(False, False, True)]
    assert not is_true([], ConditionType.ADMITTED)
