"""The index of rooms answers as a look at every node would."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from trainyard.scheduling.packing import NodeCapacityIndex

NAMES = [f"n{index}" for index in range(6)]


def by_looking(rooms: Mapping[str, int], workers: int) -> list[tuple[str, int]]:
    """Whole roomy nodes first, then the one where the rest fits tightest."""
    left, chosen = dict(rooms), []
    if workers > max(rooms.values(), default=0):
        for name in sorted(rooms, key=lambda name: (-rooms[name], name)):
            if workers <= rooms[name]:
                break
            chosen.append((name, left.pop(name)))
            workers -= rooms[name]
    enough = [(room, name) for name, room in left.items() if room >= workers]
    if workers and enough:
        chosen.append((min(enough)[1], workers))
    return chosen


@given(
    free=st.fixed_dictionaries({name: st.integers(-2, 16) for name in NAMES}),
    nodes=st.frozensets(st.sampled_from(NAMES)),
    gpus=st.integers(1, 4),
    changes=st.lists(st.tuples(st.sampled_from(NAMES), st.integers(-2, 16)), max_size=12),
    workers=st.lists(st.integers(1, 20), min_size=1, max_size=4),
)
def test_after_any_changes_it_packs_as_if_it_looked_at_every_node(
    free: dict[str, int],
    nodes: frozenset[str],
    gpus: int,
    changes: list[tuple[str, int]],
    workers: list[int],
) -> None:
    rooms = NodeCapacityIndex(free, nodes, gpus)
    for name, now in [*changes, (NAMES[0], free[NAMES[0]])]:
        for wanted in workers:
            expected = {n: free[n] // gpus for n in nodes if free[n] >= gpus}
            assert rooms.total == sum(expected.values())
            assert rooms.pack(wanted) == by_looking(expected, wanted)
        free[name] = now
        rooms.change(name, now)


def test_of_equal_nodes_the_first_by_name() -> None:
    assert NodeCapacityIndex({"b": 4, "a": 4, "c": 2}, frozenset("abc"), 2).pack(2) == [("a", 2)]
    assert NodeCapacityIndex({"b": 4, "a": 4, "c": 2}, frozenset("abc"), 2).pack(1) == [("c", 1)]


def test_a_node_that_others_hold_beyond_its_capacity_has_no_room() -> None:
    rooms = NodeCapacityIndex({"a": -3}, frozenset("a"), 2)
    assert (rooms.total, rooms.pack(1)) == (0, [])
