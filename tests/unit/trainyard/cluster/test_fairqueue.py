"""Shares and turns: however slow some groups are, the next one is served."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from trainyard.cluster.fairqueue import RoundRobin, Shares


def filled(slots: int, share: int, groups: int) -> tuple[Shares, Counter[int]]:
    """Groups that take all that they may and give nothing back, one after the other."""
    shares, held = Shares(slots, share), Counter[int]()
    for group in range(groups):
        while shares.has_slot(group):
            shares.take(group)
            held[group] += 1
    return shares, held


@given(st.integers(1, 100), st.integers(1, 40), st.integers(0, 20))
def test_no_group_has_more_than_its_share_or_than_were_free(
    slots: int, share: int, groups: int
) -> None:
    shares, held = filled(slots, share, groups)
    free = slots
    for group in range(groups):
        assert held[group] <= min(share, free)
        free -= held[group]
    assert shares.is_full == (free == 0)
    assert shares.has_slot("another") == (free > 0)


def test_six_groups_at_least_must_be_slow_before_another_waits() -> None:
    for slots, share in ((32, 16), (64, 16)):
        assert filled(slots, share, 5)[0].has_slot("honest")


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=60))
def test_every_slot_comes_back(steps: list[tuple[int, bool]]) -> None:
    shares, held = Shares(6, 3), Counter[int]()
    for group, takes in steps:
        if takes and shares.has_slot(group):
            shares.take(group)
            held[group] += 1
        elif not takes and held[group]:
            shares.release(group)
            held[group] -= 1
        assert held.total() <= 6
    for group in list(held.elements()):
        shares.release(group)
    assert filled(6, 3, 9)[1] == Counter({group: n for group, n in take_all(shares).items() if n})


def take_all(shares: Shares) -> Counter[int]:
    taken = Counter[int]()
    for group in range(9):
        while shares.has_slot(group):
            shares.take(group)
            taken[group] += 1
    return taken


def test_groups_are_served_in_turn_and_each_in_its_order() -> None:
    queue: RoundRobin[str] = RoundRobin()
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.put(item[0], item)
    shares = Shares(100, 50)
    served = [queue.get(shares) for _ in range(7)]
    assert served == ["a1", "b1", "c1", "a2", "c2", "a3", None]


def test_a_group_without_a_slot_is_passed_over_and_keeps_its_place() -> None:
    queue: RoundRobin[str] = RoundRobin()
    for item in ("a1", "a2", "b1"):
        queue.put(item[0], item)
    shares = Shares(4, 1)
    shares.take("a")
    assert queue.get(shares) == "b1"
    assert queue.get(shares) is None
    shares.release("a")
    assert queue.get(shares) == "a1"
