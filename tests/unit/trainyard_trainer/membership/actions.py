"""What may happen next in the membership checker's model, and what must hold all the time."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.unit.trainyard_trainer.elastic.collectives import (
    begun,
    can_fail,
    completed,
    has_all,
    transfer_entered,
    turn_entered,
)
from tests.unit.trainyard_trainer.membership.world import (
    Violation,
    Worker,
    World,
    feed,
    hello,
    is_built,
    put,
    react,
    take,
    tell,
)
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership import events as nouns
from trainyard_trainer.membership import participant
from trainyard_trainer.membership.events import Joined
from trainyard_trainer.membership.participant import Mode
from trainyard_trainer.membership.registry import Registry

LATER = 1e9
"""A time by which everything has settled; events happen at 0."""


def successors(world: World) -> Iterator[tuple[str, World]]:
    """All that may happen next: steps of the job, and faults while there are any left."""
    yield from steps(world)
    if world.faults:
        yield from faults(world)


def steps(world: World) -> Iterator[tuple[str, World]]:
    """What happens without faults."""
    for index, worker in enumerate(world.workers):
        name = worker.me.member_id
        if world.registry is not None and worker.outbox:
            yield f"coordinator hears {name}", _hear(world, index)
        if worker.alive:
            yield from ((f"{name} {what}", new) for what, new in _moves(world, index, worker))
    if world.registry is None:
        learning = Registry(term=world.term + 1, minimum=1, desired=3, learning_until=1.0)
        yield "coordinator restarts", replace(world, registry=learning, term=world.term + 1)
    elif _may_settle(world):
        now = max(LATER, (world.registry.learning_until or 0.0) + 1.0)
        later = feed(world, nouns.Tick(), now)
        if later != world:
            yield "time passes", later


def _may_settle(world: World) -> bool:
    """The grace of a new coordinator is longer than living workers need to come back."""
    assert world.registry is not None
    back = all(w.connected and not w.outbox for w in world.workers if w.alive)
    return back or world.registry.learning_until is None


def _hear(world: World, index: int) -> World:
    worker = world.workers[index]
    message, worker = worker.outbox[0], replace(worker, outbox=worker.outbox[1:])
    world = put(world, index, worker)
    if isinstance(message, Joined):
        greeting = ("term", world.term)
        world = put(world, index, replace(worker, greeted=True, inbox=(*worker.inbox, greeting)))
    return feed(world, message)


def _moves(world: World, index: int, worker: Worker) -> Iterator[tuple[str, World]]:
    if not worker.connected:
        if world.registry is not None:
            back = replace(worker, connected=True, greeted=False, inbox=())
            greeting = (*worker.outbox, hello(worker))
            yield "connects", put(world, index, replace(back, outbox=greeting))
    elif worker.inbox:
        yield "listens", take(world, index)
    if worker.connected and not worker.warm:
        warm = tell(replace(worker, warm=True), nouns.Warm(ident=worker.me.member_id))
        yield "is warm", put(world, index, warm)
    yield from _trains(world, index, worker)


def _trains(world: World, index: int, worker: Worker) -> Iterator[tuple[str, World]]:
    me = worker.me
    if worker.waiting is not None:
        if has_all(world, worker.waiting):
            yield "completes", completed(world, index)
        if can_fail(world, worker):
            yield "fails", react(world, index, participant.fail(me))
    elif me.mode is Mode.STEPPING:
        yield "steps", turn_entered(world, index)
    elif me.mode is Mode.ENTERING and me.view is not None:
        if is_built(world, me.view):
            if me.view.transfer:
                yield "transfers", transfer_entered(world, index)
            else:
                yield "begins", begun(world, index, worker)
        elif can_fail(world, worker):
            yield "cannot build", react(world, index, participant.fail(me))


def faults(world: World) -> Iterator[tuple[str, World]]:
    """What may go wrong; each costs one fault."""
    left = replace(world, faults=world.faults - 1)
    if world.registry is not None:
        cut = tuple(
            replace(w, connected=False, greeted=False, inbox=(), outbox=()) for w in world.workers
        )
        yield "coordinator dies", replace(left, registry=None, workers=cut)
    for index, worker in enumerate(world.workers):
        if not worker.alive:
            continue
        lost = (nouns.Lost(ident=worker.me.member_id),) if worker.connected else ()
        dead = replace(worker, alive=False, connected=False, greeted=False, inbox=(), waiting=None)
        yield (
            f"{worker.me.member_id} dies",
            put(left, index, replace(dead, outbox=worker.outbox + lost)),
        )
        if worker.connected:
            cut_off = replace(worker, connected=False, greeted=False, inbox=(), outbox=lost)
            yield f"{worker.me.member_id} is cut off", put(left, index, cut_off)
        if worker.connected and not worker.leaving:
            leaving = tell(replace(worker, leaving=True), nouns.Leaving(ident=worker.me.member_id))
            yield f"{worker.me.member_id} leaves", put(left, index, leaving)


# --- what must hold -------------------------------------------------------------------------------


def check(world: World) -> None:
    """Raise Violation when the world is one that must not be."""
    stepping = [w for w in world.workers if w.alive and w.me.mode is Mode.STEPPING]
    states: dict[tuple[Any, int], tuple[Any, ...]] = {}
    for worker in stepping:
        me = worker.me
        assert me.view is not None
        if not me.is_member:
            raise Violation(f"{me.member_id} steps in {me.view.id}, which is not its own")
        if me.view not in world.views:
            raise Violation(f"{me.member_id} steps in another {me.view.id} than was announced")
        turns = [entry for entry in worker.lineage if entry[0] != "birth"]
        if [view for _, view in turns] != sorted(view for _, view in turns):
            raise Violation(f"{me.member_id} has committed in a lower view after a higher one")
        if [turn for turn, _ in turns] != list(range(1, me.progress + 1)):
            raise Violation(f"{me.member_id} is at {me.progress} by {worker.lineage}")
        other = states.setdefault((me.view.id, me.progress), worker.lineage)
        if other != worker.lineage:
            raise Violation(f"two states in {me.view.id} at {me.progress}")


def is_over(world: World) -> bool:
    """Whether the job has ended as it should: complete, or with nobody left to work."""
    if not any(w.alive for w in world.workers):
        return True
    return world.registry is not None and world.registry.closed is Result.COMPLETE
