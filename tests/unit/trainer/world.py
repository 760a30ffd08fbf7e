"""A model of a job for the membership checker: the real protocol, pretended wires and collectives.

Both halves of the protocol are the shipped code; what is modelled is what lies between them:
connections that deliver in order or break, processes that die, and collectives that complete on a
member only after all members have entered, and may fail on some members and not on others when one
has died. A world is a value; `successors` are all worlds that one action leads to.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from trainyard_trainer.contract import Result
from trainyard_trainer.membership import nouns, participant, protocol
from trainyard_trainer.membership.nouns import Joined, Member, Seat, View, ViewId
from trainyard_trainer.membership.participant import Mode, Participant, Reaction, Votes
from trainyard_trainer.membership.registry import Registry

LAST_TURN = 3
"""Training ends after so many turns, which keeps the worlds finite."""
LATER = 1e9
"""A time by which everything has settled; events happen at 0."""


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
    workers = tuple(Worker(me=Participant(ident=f"{n}/0")) for n in "abcd"[:count])
    first = Registry(term=1, minimum=1, wanted=count)
    return World(registry=first, term=1, workers=workers, faults=faults)


def key(world: World) -> Any:
    """What makes two worlds the same."""
    known = world.registry
    members = None if known is None else tuple(known.members.values())
    rest = None if known is None else replace(known, members={})
    flat = None if rest is None else (rest.wanted, rest.view, rest.pending, rest.number)
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
    known, commands = protocol.step(world.registry, event, now)
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
    return _put(world, index, replace(worker, inbox=(*worker.inbox, command)))


def _index(world: World, ident: str) -> int | None:
    for index, worker in enumerate(world.workers):
        if worker.me.ident == ident:
            return index
    return None


def _put(world: World, index: int, worker: Worker) -> World:
    workers = (*world.workers[:index], worker, *world.workers[index + 1 :])
    return replace(world, workers=workers)


# --- a worker's side ------------------------------------------------------------------------------


def _cut_off(worker: Worker) -> Worker:
    return replace(worker, connected=False, greeted=False, inbox=())


def _tell(worker: Worker, message: Any) -> Worker:
    return replace(worker, outbox=(*worker.outbox, message)) if worker.connected else worker


def _digest(worker: Worker) -> str:
    return str(hash(worker.lineage))


def _report(worker: Worker) -> Worker:
    me = worker.me
    worker = replace(worker, waiting=None, building=None)
    return _tell(
        worker,
        nouns.Stopped(
            ident=me.ident,
            heard=me.heard,
            view=me.based.id if me.based else None,
            progress=me.progress,
            digest=_digest(worker),
        ),
    )


def _react(world: World, index: int, step: tuple[Participant, Reaction]) -> World:
    me, reaction = step
    worker = replace(world.workers[index], me=me)
    if reaction is Reaction.REPORT:
        return _put(world, index, _report(worker))
    if reaction is Reaction.PREPARE:
        assert me.pending is not None
        if me.ident in me.pending.idents:
            worker = replace(worker, building=me.pending.id)
            built = world.built | {(me.pending.id, me.ident)}
            return _put(replace(world, built=built), index, worker)
    if reaction is Reaction.ENTER:
        return _enter(world, index, worker)
    return _put(world, index, worker)


def _enter(world: World, index: int, worker: Worker) -> World:
    view = worker.me.view
    assert view is not None
    worker = replace(worker, waiting=None, building=view.id)
    if not worker.me.is_member:
        worker = _tell(worker, nouns.Lost(ident=worker.me.ident, left_for=view.id))
        gone = replace(_cut_off(worker), alive=False, dismissed=Result.LEFT)
        return _put(world, index, gone)
    return _put(replace(world, built=world.built | {(view.id, worker.me.ident)}), index, worker)


def _is_built(world: World, view: View) -> bool:
    return all((view.id, ident) in world.built for ident in view.idents)


def _hello(worker: Worker) -> Joined:
    me = worker.me
    halted = Result.COMPLETE if me.mode is Mode.HALTED else None
    member = Member(
        seat=Seat(ident=me.ident),
        ready_at=0.0 if worker.warm else None,
        view=me.based.id if me.based else None,
        heard=me.heard,
        progress=me.progress,
        digest=_digest(worker) if me.is_stopped or halted else "",
        stopped=me.is_stopped,
        leaving=worker.leaving,
        halted=halted,
    )
    return Joined(member=member, view=me.based)


def _take(world: World, index: int) -> World:
    """A worker takes the next message of its inbox."""
    worker = world.workers[index]
    command, worker = worker.inbox[0], replace(worker, inbox=worker.inbox[1:])
    world = _put(world, index, worker)
    match command:
        case ("term", term):
            me = participant.hear_term(worker.me, term)
            return _put(world, index, replace(worker, me=me))
        case nouns.Announce():
            return _react(world, index, participant.hear_view(worker.me, command.view))
        case nouns.Stop():
            return _react(world, index, participant.hear_stop(worker.me))
        case nouns.Fence():
            name, _, number = worker.me.ident.partition("/")
            me = participant.reset(worker.me, f"{name}/{int(number) + 1}")
            fresh = Worker(me=me, warm=True, leaving=worker.leaving)
            return _put(world, index, fresh)
        case nouns.Collect():
            stored = (worker.me.progress, worker.lineage)
            worker = _tell(worker, nouns.Collected(ident=worker.me.ident))
            return _put(replace(world, stored=stored), index, worker)
        case nouns.Dismiss():
            gone = replace(
                worker, alive=False, connected=False, greeted=False, dismissed=command.result
            )
            return _put(world, index, replace(gone, inbox=(), waiting=None))
        case _:
            raise AssertionError(command)


# --- collectives ----------------------------------------------------------------------------------


def _turn_entered(world: World, index: int) -> World:
    worker = world.workers[index]
    me = worker.me
    assert me.view is not None
    is_prepared = me.pending is not None and (
        me.ident not in me.pending.idents or _is_built(world, me.pending)
    )
    me = participant.vote(me, is_prepared=is_prepared)
    worker = replace(worker, me=me)
    vote = me.ballot.id if me.ballot is not None else None
    assert me.view is not None
    collective = ("turn", me.view.id, me.progress)
    entered = world.entered | {(collective, me.ident, vote)}
    return _put(replace(world, entered=entered), index, replace(worker, waiting=collective))


def _transfer_entered(world: World, index: int) -> World:
    worker = world.workers[index]
    view = worker.me.view
    assert view is not None
    collective = ("transfer", view.id)
    world = replace(world, entered=world.entered | {(collective, worker.me.ident, None)})
    if view.source == worker.me.ident:
        progress, lineage = worker.me.progress, worker.lineage
        if view.birth:
            progress, lineage = world.stored or (0, (("birth", view.id),))
            worker = replace(worker, lineage=lineage)
        world = replace(world, sources=world.sources | {(view.id, progress, lineage)})
    return _put(world, index, replace(worker, waiting=collective))


def _has_all(world: World, collective: tuple[Any, ...]) -> bool:
    view = next(v for v in world.views if v.id == collective[1])
    inside = {ident for c, ident, _ in world.entered if c == collective}
    return inside >= set(view.idents)


def _completed(world: World, index: int) -> World:
    worker = world.workers[index]
    collective = worker.waiting
    assert collective is not None
    worker = replace(worker, waiting=None)
    if collective[0] == "transfer":
        return _begun(world, index, _adopt(world, worker))
    view = worker.me.view
    assert view is not None
    me = participant.commit(worker.me)
    worker = replace(worker, me=me, lineage=(*worker.lineage, (me.progress, view.id)))
    if me.progress == LAST_TURN:
        return _put(world, index, _halted(worker))
    cast = [Votes.of(vote, 0) for c, _, vote in world.entered if c == collective]
    summed = Votes(**{n: sum(getattr(v, n) for v in cast) for n in Votes.__dataclass_fields__})
    step = participant.switch(me, summed.agreed_view(len(view.seats)))
    return _react(_put(world, index, worker), index, step)


def _adopt(world: World, worker: Worker) -> Worker:
    view = worker.me.view
    assert view is not None
    (progress, lineage), *others = [(p, n) for v, p, n in world.sources if v == view.id]
    if others:
        raise Violation(f"{view} has had two different sources")
    is_source = view.source == worker.me.ident
    if is_source or worker.me.progress < 0 or view.after is None:
        if worker.me.progress > progress:
            raise Violation(
                f"{worker.me.ident} was at {worker.me.progress}, set back to {progress}"
            )
        return replace(worker, lineage=lineage, me=replace(worker.me, progress=progress))
    return worker


def _begun(world: World, index: int, worker: Worker) -> World:
    me = participant.begin(worker.me, worker.me.progress)
    assert me.view is not None
    worker = replace(worker, me=me, building=None)
    began = nouns.Began(ident=me.ident, view=me.view, progress=me.progress)
    worker = _tell(worker, began)
    return _put(world, index, _halted(worker) if me.progress == LAST_TURN else worker)


def _halted(worker: Worker) -> Worker:
    me = participant.halt(worker.me)
    worker = replace(worker, me=me, building=None)
    finished = nouns.Halted(
        ident=me.ident, result=Result.COMPLETE, progress=me.progress, digest=_digest(worker)
    )
    return _tell(worker, finished)


def _can_fail(world: World, worker: Worker) -> bool:
    """Whether a wait may raise: a member's process is gone, so its connections are closed."""
    view = worker.me.view
    assert view is not None
    alive = {w.me.ident for w in world.workers if w.alive}
    return not alive >= set(view.idents)


# --- actions --------------------------------------------------------------------------------------


def successors(world: World) -> Iterator[tuple[str, World]]:
    """All that may happen next: steps of the job, and faults while there are any left."""
    yield from steps(world)
    if world.faults:
        yield from faults(world)


def steps(world: World) -> Iterator[tuple[str, World]]:
    """What happens without faults."""
    for index, worker in enumerate(world.workers):
        name = worker.me.ident
        if world.registry is not None and worker.outbox:
            yield f"coordinator hears {name}", _hear(world, index)
        if worker.alive:
            yield from ((f"{name} {what}", new) for what, new in _moves(world, index, worker))
    if world.registry is None:
        learning = Registry(term=world.term + 1, minimum=1, wanted=3, learning_until=1.0)
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
    world = _put(world, index, worker)
    if isinstance(message, Joined):
        greeting = ("term", world.term)
        world = _put(world, index, replace(worker, greeted=True, inbox=(*worker.inbox, greeting)))
    return feed(world, message)


def _moves(world: World, index: int, worker: Worker) -> Iterator[tuple[str, World]]:
    if not worker.connected:
        if world.registry is not None:
            back = replace(worker, connected=True, greeted=False, inbox=())
            hello = (*worker.outbox, _hello(worker))
            yield "connects", _put(world, index, replace(back, outbox=hello))
    elif worker.inbox:
        yield "listens", _take(world, index)
    if worker.connected and not worker.warm:
        warm = _tell(replace(worker, warm=True), nouns.Warm(ident=worker.me.ident))
        yield "is warm", _put(world, index, warm)
    yield from _trains(world, index, worker)


def _trains(world: World, index: int, worker: Worker) -> Iterator[tuple[str, World]]:
    me = worker.me
    if worker.waiting is not None:
        if _has_all(world, worker.waiting):
            yield "completes", _completed(world, index)
        if _can_fail(world, worker):
            yield "fails", _react(world, index, participant.fail(me))
    elif me.mode is Mode.STEPPING:
        yield "steps", _turn_entered(world, index)
    elif me.mode is Mode.ENTERING and me.view is not None:
        if _is_built(world, me.view):
            if me.view.transfer:
                yield "transfers", _transfer_entered(world, index)
            else:
                yield "begins", _begun(world, index, worker)
        elif _can_fail(world, worker):
            yield "cannot build", _react(world, index, participant.fail(me))


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
        lost = (nouns.Lost(ident=worker.me.ident),) if worker.connected else ()
        dead = replace(worker, alive=False, connected=False, greeted=False, inbox=(), waiting=None)
        yield (
            f"{worker.me.ident} dies",
            _put(left, index, replace(dead, outbox=worker.outbox + lost)),
        )
        if worker.connected:
            cut_off = replace(worker, connected=False, greeted=False, inbox=(), outbox=lost)
            yield f"{worker.me.ident} is cut off", _put(left, index, cut_off)
        if worker.connected and not worker.leaving:
            leaving = _tell(replace(worker, leaving=True), nouns.Leaving(ident=worker.me.ident))
            yield f"{worker.me.ident} leaves", _put(left, index, leaving)


# --- what must hold -------------------------------------------------------------------------------


def check(world: World) -> None:
    """Raise Violation when the world is one that must not be."""
    stepping = [w for w in world.workers if w.alive and w.me.mode is Mode.STEPPING]
    states: dict[tuple[Any, int], tuple[Any, ...]] = {}
    for worker in stepping:
        me = worker.me
        assert me.view is not None
        if not me.is_member:
            raise Violation(f"{me.ident} steps in {me.view.id}, which is not its own")
        if me.view not in world.views:
            raise Violation(f"{me.ident} steps in another {me.view.id} than was announced")
        turns = [entry for entry in worker.lineage if entry[0] != "birth"]
        if [view for _, view in turns] != sorted(view for _, view in turns):
            raise Violation(f"{me.ident} has committed in a lower view after a higher one")
        if [turn for turn, _ in turns] != list(range(1, me.progress + 1)):
            raise Violation(f"{me.ident} is at {me.progress} by {worker.lineage}")
        other = states.setdefault((me.view.id, me.progress), worker.lineage)
        if other != worker.lineage:
            raise Violation(f"two states in {me.view.id} at {me.progress}")


def is_over(world: World) -> bool:
    """Whether the job has ended as it should: complete, or with nobody left to work."""
    if not any(w.alive for w in world.workers):
        return True
    return world.registry is not None and world.registry.closed is Result.COMPLETE
