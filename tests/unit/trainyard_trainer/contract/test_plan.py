"""Which Plan may replace which, for both kinds of job."""

from dataclasses import dataclass
from typing import Any

import pytest

from trainyard_trainer.contract.federated import FederatedPlan, PartyConfig, RoundsConfig
from trainyard_trainer.contract.plan import AcceptPlan, Plan, StalePlan, plan_precedence

NEW, REPEATED = AcceptPlan(is_new=True), AcceptPlan(is_new=False)


def stale(generation: int, token: int) -> StalePlan:
    return StalePlan(generation=generation, fencing_token=token)


def distributed(generation: int, token: int, size: int = 1) -> Plan:
    return Plan(generation=generation, fencing_token=token, workers=size)


def federated(generation: int, token: int, size: int = 1) -> FederatedPlan:
    return FederatedPlan(
        generation=generation,
        fencing_token=token,
        parties=(PartyConfig(name="a"),),
        rounds=RoundsConfig(max=size),
    )


@dataclass(frozen=True, kw_only=True)
class Case:
    """Plans as (generation, fencing token) or (generation, fencing token, size)."""

    current: tuple[int, ...] | None = None
    new: tuple[int, ...]
    floor: tuple[int, int] = (0, 0)
    expected: AcceptPlan | StalePlan


CASES = {
    "the first Plan": Case(new=(1, 0), expected=NEW),
    "the next generation": Case(current=(3, 7), new=(4, 7, 2), expected=NEW),
    "a generation left out": Case(current=(3, 7), new=(9, 7, 2), expected=NEW),
    "the next generation, otherwise equal": Case(current=(3, 7), new=(4, 7), expected=NEW),
    "the next generation, of the next operator": Case(current=(3, 7), new=(4, 8), expected=NEW),
    "the same again": Case(current=(3, 7), new=(3, 7), expected=REPEATED),
    "the same, of the next operator": Case(current=(3, 7), new=(3, 8), expected=NEW),
    "the same, of a replaced operator": Case(current=(3, 7), new=(3, 6), expected=stale(3, 7)),
    "an older generation": Case(current=(3, 7), new=(2, 7), expected=stale(3, 7)),
    "an older generation, of the next operator": Case(
        current=(3, 7), new=(2, 8), expected=stale(3, 7)
    ),
    "a newer generation, of a replaced operator": Case(
        current=(3, 7), new=(9, 6), expected=stale(3, 7)
    ),
    "another Plan of the same generation": Case(
        current=(3, 7), new=(3, 7, 2), expected=stale(3, 7)
    ),
    "another Plan of the same generation, of the next operator": Case(
        current=(3, 7), new=(3, 8, 2), expected=stale(3, 7)
    ),
    "the first Plan of a term, newer than the stored generation": Case(
        new=(4, 7), floor=(3, 7), expected=NEW
    ),
    "the first Plan of a term, of the stored generation": Case(
        new=(3, 7), floor=(3, 7), expected=NEW
    ),
    "the first Plan of a term, older than the stored generation": Case(
        new=(2, 7), floor=(3, 7), expected=stale(3, 7)
    ),
    "the first Plan of a term, of an operator replaced before": Case(
        new=(4, 6), floor=(3, 7), expected=stale(3, 7)
    ),
    "a stored generation above the one in force": Case(
        current=(2, 7), new=(3, 7), floor=(4, 7), expected=stale(4, 7)
    ),
    "a stored generation below the one in force": Case(
        current=(4, 7), new=(3, 7), floor=(2, 7), expected=stale(4, 7)
    ),
    "a stored token above the one in force": Case(
        current=(2, 6), new=(3, 6), floor=(2, 7), expected=stale(2, 7)
    ),
    "a stored token below the one in force": Case(
        current=(2, 8), new=(3, 7), floor=(2, 7), expected=stale(2, 8)
    ),
    "the next generation, above all floors": Case(
        current=(4, 8), new=(5, 8), floor=(3, 7), expected=NEW
    ),
}


@pytest.mark.parametrize("make", [distributed, federated])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_plan_replaces_only_older_ones(case: Case, make: Any) -> None:
    current = make(*case.current) if case.current is not None else None
    generation_floor, token_floor = case.floor
    found = plan_precedence(
        current, make(*case.new), generation_floor=generation_floor, token_floor=token_floor
    )
    assert found == case.expected
