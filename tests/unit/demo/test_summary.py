"""What the demo prints of the changes of its job's size."""

from __future__ import annotations

from typing import Any

import pytest

from tests.demo.progress import describe, new_decisions

WHY = "2→4 paid at first and clearly no longer does: 0.96× (minGain 1.05): shrinking 4→2"


def change(before: int, after: int, reason: str, **fields: Any) -> dict[str, Any]:
    time = {"decisionTime": "2026-07-01T12:00:00Z"}
    return {"from": before, "to": after, "reason": reason, **time, **fields}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        pytest.param(
            change(2, 4, "GrowPays", expectedSpeedup=1.71),
            "[bold]2 → 4 workers[/bold] (GrowPays): expected 1.71×",
            id="a growth before it is measured",
        ),
        pytest.param(
            change(2, 4, "GrowPays", expectedSpeedup=1.71, measuredSpeedup=1.254),
            "[bold]2 → 4 workers[/bold] (GrowPays): measured [green]1.25×[/green] the samples per "
            "second",
            id="a growth that was measured",
        ),
        pytest.param(
            change(4, 2, "ShrinkDoesNotPay", expectedSpeedup=1.04, message=WHY),
            f"[bold]4 → 2 workers[/bold] (ShrinkDoesNotPay): {WHY}",
            id="a size given up: why",
        ),
        pytest.param(
            change(4, 2, "ShrinkDoesNotPay", message=WHY, measuredSpeedup=1.02),
            f"[bold]4 → 2 workers[/bold] (ShrinkDoesNotPay): {WHY}; measured [green]1.02×[/green] "
            "the samples per second",
            id="a size given up, measured",
        ),
        pytest.param(
            change(4, 2, "Requested", message="[red]"),
            r"[bold]4 → 2 workers[/bold] (Requested): \[red]",
            id="a message is no markup",
        ),
    ],
)
def test_a_change_is_described(entry: dict[str, Any], expected: str) -> None:
    assert describe(entry) == expected


def test_a_decision_is_printed_once() -> None:
    job = {"status": {"scaling": {"history": [change(4, 2, "ShrinkDoesNotPay", message=WHY)]}}}
    printed: set[str] = set()
    assert [WHY in line for line in new_decisions(job, printed)] == [True]
    assert new_decisions(job, printed) == []
