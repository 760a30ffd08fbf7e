"""The index of capacities answers as a scan of all nodes would."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from trainyard.scheduling.packing import NodeCapacityIndex

NAMES = [f"n{index}" for index in range(6)]


def by_scanning(capacities: Mapping[str, int], workers: int) -> list[tuple[str, int]]:
    """The largest nodes first, then best fit for the remainder."""
    left, chosen = dict(capacities), []
    if workers > max(capacities.values(), default=0):
        for name in sorted(capacities, key=lambda name: (-capacities[name], name)):
            if workers <= capacities[name]:
                break
            chosen.append((name, left.pop(name)))
            workers -= capacities[name]
    enough = [(capacity, name) for name, capacity in left.items() if capacity >= workers]
    if workers and enough:
        chosen.append((min(enough)[1], workers))
    return chosen


@given(
    free=st.fixed_dictionaries({name: st.integers(-2, 16) for name in NAMES}),
    nodes=st.frozensets(st.sampled_from(NAMES)),
    gpus=st.integers(1, 4),
    updates=st.lists(st.tuples(st.sampled_from(NAMES), st.integers(-2, 16)), max_size=12),
    workers=st.lists(st.integers(1, 20), min_size=1, max_size=4),
)
def test_after_any_updates_it_packs_as_if_it_scanned_all_nodes(
    free: dict[str, int],
    nodes: frozenset[str],
    gpus: int,
    updates: list[tuple[str, int]],
    workers: list[int],
) -> None:
    index = NodeCapacityIndex({n: free[n] // gpus for n in nodes})
    for name, now in [*updates, (NAMES[0], free[NAMES[0]])]:
        for count in workers:
            expected = {n: free[n] // gpus for n in nodes if free[n] >= gpus}
            assert index.total == sum(expected.values())
            assert index.pack(count) == by_scanning(expected, count)
        free[name] = now
        index.update(name, now // gpus)


def test_of_equal_nodes_the_first_by_name_is_chosen() -> None:
    assert NodeCapacityIndex({"b": 2, "a": 2, "c": 1}).pack(2) == [("a", 2)]
    assert NodeCapacityIndex({"b": 2, "a": 2, "c": 1}).pack(1) == [("c", 1)]


def test_an_overcommitted_node_has_no_capacity() -> None:
    index = NodeCapacityIndex({"a": -2})
    assert (index.total, index.pack(1)) == (0, [])
