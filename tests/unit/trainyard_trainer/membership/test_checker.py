"""The membership protocol under thousands of interleavings, with up to two faults."""

import random
from collections import deque
from typing import Any

import pytest

from tests.unit.trainyard_trainer.membership import actions
from tests.unit.trainyard_trainer.membership import world as model
from tests.unit.trainyard_trainer.membership.world import Violation, World
from trainyard_trainer.contract.exits import Result

EXPLORED = 13_000
"""Worlds from which all successors are checked."""
WALKS = 400
MAX_STEPS = 600
"""Steps within which a job without further faults must end."""


def explore(first: World, count: int) -> int:
    """Visit `count` worlds breadth first and check their successors; how many were seen."""
    seen = {model.key(first)}
    queue: deque[tuple[World, tuple[str, ...]]] = deque([(first, ())])
    for _ in range(count):
        world, path = queue.popleft()
        for what, after in actions.successors(world):
            try:
                actions.check(after)
            except Violation as error:
                raise AssertionError(f"{error} after {[*path, what]}") from error
            if (mark := model.key(after)) not in seen:
                seen.add(mark)
                queue.append((after, (*path, what)))
    return len(seen)


def run_fairly(world: World, rng: random.Random, path: list[str]) -> World:
    """Without further faults, the job must come to its end."""
    for _ in range(MAX_STEPS):
        if actions.is_over(world):
            return world
        moves = list(actions.steps(world))
        assert moves, f"nothing can happen after {path}"
        what, world = rng.choice(moves)
        path.append(what)
        actions.check(world)
    raise AssertionError(f"no end after {path}")


def walk(seed: int, count: int, faults: int, kind: str = "", rate: float = 0.1) -> World:
    """A random history with faults of a kind at random moments, then a fair end."""
    rng = random.Random(seed)
    world, path = model.start(count, faults), []
    for _ in range(rng.randrange(120)):
        moves: list[tuple[str, Any]] = list(actions.steps(world))
        if world.faults and rng.random() < rate:
            moves = [fault for fault in actions.faults(world) if kind in fault[0]] or moves
        if not moves:
            break
        what, world = rng.choice(moves)
        path.append(what)
        try:
            actions.check(world)
        except Violation as error:
            raise AssertionError(f"seed {seed}: {error} after {path}") from error
    return run_fairly(world, rng, path)


@pytest.mark.parametrize("faults", [0, 1, 2])
def test_no_interleaving_breaks_an_invariant(faults: int) -> None:
    assert explore(model.start(3, faults), EXPLORED) > EXPLORED


@pytest.mark.parametrize("faults", [0, 1, 2])
def test_every_history_completes_once_faults_stop(faults: int) -> None:
    for seed in range(WALKS):
        walk(seed, 3, faults)


def test_every_history_with_two_errors_of_the_task_ends_and_some_fail_the_job() -> None:
    ends = [walk(seed, 3, 2, kind="the task raises", rate=0.5) for seed in range(WALKS)]
    results = {end.registry.result for end in ends if end.registry is not None}
    assert {Result.COMPLETE, Result.FAILED} <= results
