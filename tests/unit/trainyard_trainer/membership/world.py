"""A model of a job for the membership checker: the real protocol, pretended wires and collectives.

Both halves of the protocol are the shipped code; what is modelled is what lies between them:
connections that deliver in order or break, processes that die, and collectives that complete on a
member only after all members have entered, and may fail on some members and not on others when one
has died (`collectives`). A world is a value; `actions.successors` are all worlds that one action
leads to.
"""

from dataclasses import dataclass, replace
from typing import Any

from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership import decisions, participant
from trainyard_trainer.membership import events as nouns
from trainyard_trainer.membership.events import Joined, Member, MemberAddress, View, ViewId
from trainyard_trainer.membership.participant import Mode, Participant, Reaction
from trainyard_trainer.membership.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One worker's process."""

    me: Participant
    alive: bool = True
    connected: bool = False
    greeted: bool = False
    """The coordinator has heard the Hello of this connection; what it sent before is lost."""
    warm: bool = False
    leaving: bool = False
    building: ViewId | None = None
    """The view whose group it takes part in making."""
    waiting: tuple[Any, ...] | None = None
    """The collective it has entered and not completed: ("turn" | "transfer", view, turn)."""
    lineage: tuple[Any, ...] = ()
    """What its state was made of: the birth, then (turn, view) for each commit."""
    inbox: tuple[Any, ...] = ()
    outbox: tuple[Any, ...] = ()
    dismissed: Result | None = None


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything, at one moment."""

    registry: Registry | None
    term: int
    workers: tuple[Worker, ...]
    faults: int
    """How many faults may still happen."""
    entered: frozenset[tuple[Any, ...]] = frozenset()
    """(collective, ident, vote): who has entered what."""
    built: frozenset[tuple[ViewId, str]] = frozenset()
    sources: frozenset[tuple[ViewId, int, tuple[Any, ...]]] = frozenset()
    """What the sources of transfers hold: (view, progress, lineage)."""
    views: tuple[View, ...] = ()
    """All views ever announced."""
    stored: tuple[int, tuple[Any, ...]] | None = None
    """The state in the coordinator's keeping: progress and lineage."""


class Violation(AssertionError):
    """An invariant does not hold."""


def start(count: int, faults: int) -> World:
    """A coordinator and `count` processes that have not yet connected."""
    workers = tuple(Worker(me=Participant(member_id=f"{n}/0")) for n in "abcd"[:count])
    first = Registry(term=1, minimum=1, desired=count)
    return World(registry=first, term=1, workers=workers, faults=faults)


def key(world: World) -> Any:
    """What makes two worlds the same."""
    known = world.registry
    members = None if known is None else tuple(known.members.values())
    rest = None if known is None else replace(known, members={})
    flat = None if rest is None else (rest.desired, rest.view, rest.pending, rest.number)
    more = None if rest is None else (rest.learning_until, rest.collecting, rest.collected)
    closed = None if rest is None else rest.closed
    live = frozenset(e for e in world.entered if _is_awaited(world, e[0]))
    return (
        members,
        flat,
        more,
        closed,
        world.workers,
        world.faults,
        live,
        world.built,
        world.stored,
    )


def _is_awaited(world: World, collective: tuple[Any, ...]) -> bool:
    return any(w.alive and (w.waiting == collective or w.waiting is None) for w in world.workers)


# --- the coordinator's side -----------------------------------------------------------------------


def feed(world: World, event: nouns.Event, now: float = 0.0) -> World:
    """The coordinator takes an event, and its commands go out."""
    assert world.registry is not None
    known, commands = decisions.step(world.registry, event, now)
    world = replace(world, registry=known)
    for command in commands:
        world = _send(world, command)
    return world


def _send(world: World, command: nouns.Command) -> World:
    if isinstance(command, nouns.Announce):
        for view in world.views:
            if view.id == command.view.id and view != command.view:
                raise Violation(f"two views are called {view.id}")
        if command.view not in world.views:
            world = replace(world, views=(*world.views, command.view))
    index = _index(world, command.to)
    if index is None or not world.workers[index].greeted:
        return world
    worker = world.workers[index]
    return put(world, index, replace(worker, inbox=(*worker.inbox, command)))


def _index(world: World, ident: str) -> int | None:
    for index, worker in enumerate(world.workers):
        if worker.me.member_id == ident:
            return index
    return None


def put(world: World, index: int, worker: Worker) -> World:
    workers = (*world.workers[:index], worker, *world.workers[index + 1 :])
    return replace(world, workers=workers)


# --- a worker's side ------------------------------------------------------------------------------


def _cut_off(worker: Worker) -> Worker:
    return replace(worker, connected=False, greeted=False, inbox=())


def tell(worker: Worker, message: Any) -> Worker:
    return replace(worker, outbox=(*worker.outbox, message)) if worker.connected else worker


def digest(worker: Worker) -> str:
    return str(hash(worker.lineage))


def _report(worker: Worker) -> Worker:
    me = worker.me
    worker = replace(worker, waiting=None, building=None)
    return tell(
        worker,
        nouns.Stopped(
            ident=me.member_id,
            heard=me.announced,
            view=me.state_view.id if me.state_view else None,
            progress=me.progress,
            digest=digest(worker),
        ),
    )


def react(world: World, index: int, step: tuple[Participant, Reaction]) -> World:
    me, reaction = step
    worker = replace(world.workers[index], me=me)
    if reaction is Reaction.REPORT:
        return put(world, index, _report(worker))
    if reaction is Reaction.PREPARE:
        assert me.pending is not None
        if me.member_id in me.pending.member_ids:
            worker = replace(worker, building=me.pending.id)
            built = world.built | {(me.pending.id, me.member_id)}
            return put(replace(world, built=built), index, worker)
    if reaction is Reaction.ENTER:
        return _enter(world, index, worker)
    return put(world, index, worker)


def _enter(world: World, index: int, worker: Worker) -> World:
    view = worker.me.view
    assert view is not None
    worker = replace(worker, waiting=None, building=view.id)
    if not worker.me.is_member:
        worker = tell(worker, nouns.Lost(ident=worker.me.member_id, left_for=view.id))
        gone = replace(_cut_off(worker), alive=False, dismissed=Result.LEFT)
        return put(world, index, gone)
    return put(replace(world, built=world.built | {(view.id, worker.me.member_id)}), index, worker)


def is_built(world: World, view: View) -> bool:
    return all((view.id, ident) in world.built for ident in view.member_ids)


def hello(worker: Worker) -> Joined:
    me = worker.me
    halted = Result.COMPLETE if me.mode is Mode.HALTED else None
    member = Member(
        address=MemberAddress(member_id=me.member_id),
        ready_at=0.0 if worker.warm else None,
        view=me.state_view.id if me.state_view else None,
        announced=me.announced,
        progress=me.progress,
        digest=digest(worker) if me.is_stopped or halted else "",
        stopped=me.is_stopped,
        leaving=worker.leaving,
        halted=halted,
    )
    return Joined(member=member, view=me.state_view)


def take(world: World, index: int) -> World:
    """A worker takes the next message of its inbox."""
    worker = world.workers[index]
    command, worker = worker.inbox[0], replace(worker, inbox=worker.inbox[1:])
    world = put(world, index, worker)
    match command:
        case ("term", term):
            me = participant.receive_term(worker.me, term)
            return put(world, index, replace(worker, me=me))
        case nouns.Announce():
            return react(world, index, participant.receive_view(worker.me, command.view))
        case nouns.Stop():
            return react(world, index, participant.receive_stop(worker.me))
        case nouns.Fence():
            name, _, number = worker.me.member_id.partition("/")
            me = participant.reset(worker.me, f"{name}/{int(number) + 1}")
            fresh = Worker(me=me, warm=True, leaving=worker.leaving)
            return put(world, index, fresh)
        case nouns.Collect():
            stored = (worker.me.progress, worker.lineage)
            worker = tell(worker, nouns.Collected(ident=worker.me.member_id))
            return put(replace(world, stored=stored), index, worker)
        case nouns.Dismiss():
            gone = replace(
                worker, alive=False, connected=False, greeted=False, dismissed=command.result
            )
            return put(world, index, replace(gone, inbox=(), waiting=None))
        case _:
            raise AssertionError(command)
