"""Merging claims into conditions."""

from __future__ import annotations

import msgspec

from tests.support.jobs import NOW, ago
from trainyard.api.conditions import Condition, Truth, Type, is_true, merge_conditions
from trainyard.api.jobs import format_time

BEFORE = ago(hours=1)


def said(type_: str, status: Truth, reason: str = "Because") -> Condition:
    return Condition(type=type_, status=status, reason=reason)


def merged(before: list[Condition], *claims: Condition) -> list[Condition]:
    return merge_conditions(before, claims, NOW, 5)


def test_a_transition_time_moves_only_when_the_status_changes() -> None:
    before = merge_conditions([], [said("Running", "False")], BEFORE, 4)
    (same,) = merged(before, said("Running", "False", "Other"))
    assert (same.last_transition_time, same.reason) == (BEFORE, "Other")
    assert same.observed_generation == 5
    (changed,) = merged(before, said("Running", "True"))
    assert changed.last_transition_time == NOW


def test_conditions_that_are_not_claimed_stay_as_they_are() -> None:
    before = merge_conditions([], [said("Admitted", "True")], BEFORE, 4)
    after = merged(before, said("Running", "True"))
    assert after[0] == before[0]


def test_conditions_keep_one_order_however_they_come() -> None:
    types = [str(t) for t in Type]
    claims = [said(t, "True") for t in reversed(types)]
    assert [c.type for c in merged([], said("Unheard", "True"), *claims)] == [*types, "Unheard"]


def test_a_condition_has_all_that_the_api_server_requires() -> None:
    (written,) = merged([], said("Running", "True"))
    assert msgspec.to_builtins(written) == {
        "type": "Running",
        "status": "True",
        "reason": "Because",
        "message": "",
        "lastTransitionTime": format_time(NOW),
        "observedGeneration": 5,
    }


def test_only_true_is_true() -> None:
    conditions = [said("Running", "Unknown"), said("Failed", "False"), said("Complete", "True")]
    assert [is_true(conditions, t) for t in (Type.RUNNING, Type.FAILED, Type.COMPLETE)] == [
        *(False, False, True)
    ]
    assert not is_true([], Type.ADMITTED)
