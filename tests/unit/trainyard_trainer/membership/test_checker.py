"""The membership protocol under thousands of interleavings, with up to two faults."""

import random
from collections import deque
from typing import Any

import pytest

from tests.unit.trainyard_trainer.membership import actions
from tests.unit.trainyard_trainer.membership import world as model
from tests.unit.trainyard_trainer.membership.world import Violation, World

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


def run_fairly(world: World, rng: random.Random, path: list[str]) -> None:
    """Without further faults, the job must come to its end."""
    for _ in range(MAX_STEPS):
        if actions.is_over(world):
            return
        moves = list(actions.steps(world))
        assert moves, f"nothing can happen after {path}"
        what, world = rng.choice(moves)
        path.append(what)
        actions.check(world)
    raise AssertionError(f"no end after {path}")


def walk(seed: int, count: int, faults: int) -> None:
    """A random history with faults at random moments, then a fair end."""
    rng = random.Random(seed)
    world, path = model.start(count, faults), []
    for _ in range(rng.randrange(120)):
        moves: list[tuple[str, Any]] = list(actions.steps(world))
        if world.faults and rng.random() < 0.1:
            moves = list(actions.faults(world)) or moves
        if not moves:
            break
        what, world = rng.choice(moves)
        path.append(what)
        try:
            actions.check(world)
        except Violation as error:
            raise AssertionError(f"seed {seed}: {error} after {path}") from error
    run_fairly(world, rng, path)


@pytest.mark.parametrize("faults", [0, 1, 2])
def test_no_interleaving_breaks_an_invariant(faults: int) -> None:
    assert explore(model.start(3, faults), EXPLORED) > EXPLORED


@pytest.mark.parametrize("faults", [0, 1, 2])
def test_every_history_completes_once_faults_stop(faults: int) -> None:
    for seed in range(WALKS):
        walk(seed, 3, faults)
