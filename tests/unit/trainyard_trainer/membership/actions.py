"""What may happen next in the membership checker's model, and what must hold all the time."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.unit.trainyard_trainer.membership.collectives import (
    begin,
    can_fail,
    complete,
    enter_step,
    enter_transfer,
    have_all_entered,
    is_hopeless,
)
from tests.unit.trainyard_trainer.membership.world import (
    NEVER,
    Violation,
    Worker,
    World,
    act,
    handle,
    hello,
    is_built,
    put,
    receive,
    send,
)
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership import participant as protocol
from trainyard_trainer.membership.events import Disconnected, Tick
from trainyard_trainer.membership.messages import (
    BuildFailed,
    Exclude,
    Fence,
    Hello,
    LeaveRequest,
    Ready,
    TaskRaised,
)
from trainyard_trainer.membership.participant import ParticipantPhase
from trainyard_trainer.membership.registry import Registry

LATER = 1e9
"""A time by which every window is over; events happen at 0."""


def successors(world: World) -> Iterator[tuple[str, World]]:
    """All that may happen next: steps of the job, and faults while there are any left."""
    yield from steps(world)
    if world.faults:
        yield from faults(world)


def steps(world: World) -> Iterator[tuple[str, World]]:
    """What happens without faults."""
    for index, worker in enumerate(world.workers):
        name = worker.member_id
        if world.registry is not None and worker.outbox:
            yield f"coordinator hears {name}", _deliver(world, index)
        if worker.alive:
            yield from ((f"{name} {what}", new) for what, new in _moves(world, index, worker))
    if world.registry is None:
        waiting = Registry(
            term=world.term + 1, minimum=1, desired=3, rejoin_deadline=1.0, stuck_seconds=NEVER
        )
        yield "coordinator restarts", replace(world, registry=waiting, term=world.term + 1)
    elif _may_time_pass(world):
        now = max(LATER, (world.registry.rejoin_deadline or 0.0) + 1.0)
        later = handle(world, Tick(), now)
        if later != world:
            yield "time passes", later
        if any(w.hanging and w.alive for w in world.workers) and _are_idle(world):
            yield from _long_time(world, now)


def _are_idle(world: World) -> bool:
    """Whether all that do not hang have received and sent what there is."""
    responsive = [w for w in world.workers if w.alive and not w.hanging]
    return all(w.connected and not w.inbox and not w.outbox for w in responsive)


def _long_time(world: World, now: float) -> Iterator[tuple[str, World]]:
    """The coordinator loses its patience with workers that hang."""
    assert world.registry is not None
    impatient = replace(world.registry, stuck_seconds=0.0)
    later = handle(replace(world, registry=impatient), Tick(), now)
    assert later.registry is not None
    later = replace(later, registry=replace(later.registry, stuck_seconds=NEVER))
    if later != world:
        yield "a long time passes", later


def _may_time_pass(world: World) -> bool:
    """A coordinator waits longer for rejoining workers than living ones need to reconnect."""
    assert world.registry is not None
    back = all(w.connected and not w.outbox for w in world.workers if w.alive)
    return back or world.registry.rejoin_deadline is None


def _deliver(world: World, index: int) -> World:
    worker = world.workers[index]
    event, worker = worker.outbox[0], replace(worker, outbox=worker.outbox[1:])
    match event:
        case (_, Hello()):
            welcome = ("welcome", world.term)
            worker = replace(worker, welcomed=True, inbox=(*worker.inbox, welcome))
    return handle(put(world, index, worker), event)


def _moves(world: World, index: int, worker: Worker) -> Iterator[tuple[str, World]]:
    if not worker.connected:
        if world.registry is not None:
            back = replace(worker, connected=True, welcomed=False, inbox=())
            yield "connects", put(world, index, send(back, hello(worker)))
    elif worker.inbox and not worker.hanging:
        yield "receives", receive(world, index)
    if worker.hanging:
        yield from _ends(world, index, worker)
        return
    if worker.connected and not worker.ready:
        yield "is ready", put(world, index, send(replace(worker, ready=True), Ready()))
    if worker.raised is None:
        yield from _trains(world, index, worker)


def _ends(world: World, index: int, worker: Worker) -> Iterator[tuple[str, World]]:
    """The connection of a worker that hangs ends the process once it is left out."""
    if any(isinstance(message, Exclude | Fence) for message in worker.inbox):
        gone = replace(worker, alive=False, connected=False, welcomed=False, inbox=())
        gone = replace(gone, waiting=None)
        if worker.connected:
            gone = replace(gone, outbox=(*gone.outbox, Disconnected(member_id=worker.member_id)))
        yield "is ended by its connection", put(world, index, gone)


def _trains(world: World, index: int, worker: Worker) -> Iterator[tuple[str, World]]:
    me = worker.participant
    if worker.waiting is not None:
        if have_all_entered(world, worker.waiting):
            yield "completes", complete(world, index)
        if can_fail(world, worker):
            yield "fails", act(world, index, protocol.fail(me))
    elif me.phase is ParticipantPhase.STEPPING:
        yield "steps", enter_step(world, index)
        if (
            worker.building is not None
            and me.pending is not None
            and is_hopeless(world, me.pending)
        ):
            failed = send(
                replace(worker, building=None), BuildFailed(view=me.pending.id, reason="")
            )
            yield "cannot prepare", put(world, index, failed)
    elif me.phase is ParticipantPhase.ENTERING and me.view is not None:
        if is_built(world, me.view):
            if me.view.transfer:
                yield "transfers", enter_transfer(world, index)
            else:
                yield "begins", begin(world, index, worker)
        elif can_fail(world, worker):
            yield "cannot build", act(world, index, protocol.fail(me))


def faults(world: World) -> Iterator[tuple[str, World]]:
    """What may go wrong; each costs one fault."""
    left = replace(world, faults=world.faults - 1)
    if world.registry is not None:
        cut = tuple(
            replace(w, connected=False, welcomed=False, inbox=(), outbox=()) for w in world.workers
        )
        yield "coordinator dies", replace(left, registry=None, workers=cut)
    for index, worker in enumerate(world.workers):
        if not worker.alive:
            continue
        name = worker.member_id
        lost = (Disconnected(member_id=name),) if worker.connected else ()
        dead = replace(worker, alive=False, connected=False, welcomed=False, inbox=(), waiting=None)
        yield f"{name} dies", put(left, index, replace(dead, outbox=worker.outbox + lost))
        if worker.connected:
            cut_off = replace(worker, connected=False, welcomed=False, inbox=(), outbox=lost)
            yield f"{name} is cut off", put(left, index, cut_off)
        me = worker.participant
        if me.phase is ParticipantPhase.STEPPING and worker.waiting is None and not worker.hanging:
            raised = TaskRaised(iteration=me.progress, first=0, end=1)
            ended = send(replace(worker, raised=raised), raised)
            yield f"the task raises on {name}", put(left, index, ended)
        if not worker.hanging:
            yield f"{name} hangs", put(left, index, replace(worker, hanging=True, waiting=None))
        if not worker.unreachable and all(member_id != name for _, member_id in world.built):
            yield f"{name} is unreachable", put(left, index, replace(worker, unreachable=True))
        if worker.connected and not worker.leaving:
            leaving = send(replace(worker, leaving=True), LeaveRequest())
            yield f"{name} leaves", put(left, index, leaving)


# --- what must hold -------------------------------------------------------------------------------


def check(world: World) -> None:
    """Raise Violation when the world is one that must not be."""
    phase = ParticipantPhase.STEPPING
    stepping = [w for w in world.workers if w.alive and w.participant.phase is phase]
    if world.registry is not None and world.registry.result is Result.FAILED and not world.stored:
        raise Violation("the job has failed, and its state is not stored")
    states: dict[tuple[Any, int], tuple[Any, ...]] = {}
    for worker in stepping:
        me = worker.participant
        assert me.view is not None
        if not me.is_member:
            raise Violation(f"{me.member_id} steps in {me.view.id}, which is not its own")
        if me.view not in world.views:
            raise Violation(f"{me.member_id} steps in another {me.view.id} than was announced")
        commits = [entry for entry in worker.lineage if entry[0] != "initial"]
        if [view for _, view in commits] != sorted(view for _, view in commits):
            raise Violation(f"{me.member_id} has committed in a lower view after a higher one")
        if [progress for progress, _ in commits] != list(range(1, me.progress + 1)):
            raise Violation(f"{me.member_id} is at {me.progress} by {worker.lineage}")
        other = states.setdefault((me.view.id, me.progress), worker.lineage)
        if other != worker.lineage:
            raise Violation(f"two states in {me.view.id} at {me.progress}")


def is_over(world: World) -> bool:
    """Whether the job has ended as it should: complete, failed, or with nobody left to work.

    A worker that hangs with the only state, or alone in the first view, is left there: it may be
    in a long iteration.
    """
    alive = [w for w in world.workers if w.alive]
    pending = world.registry.pending if world.registry is not None else None
    called = pending.member_ids if pending is not None and pending.initial else ()
    with_state = [w for w in alive if w.participant.progress >= 0]
    starting = [w for w in alive if w.member_id in called]
    if all(w.hanging for w in with_state or starting or alive):
        return True
    return world.registry is not None and world.registry.is_final
