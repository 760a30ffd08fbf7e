"""A model of a job for the membership checker: the real protocol, simulated wires and collectives.

Both halves of the protocol are the shipped code; what is modelled is what lies between them:
connections that deliver in order or break, processes that die, and collectives that complete on a
member only after all members have entered, and may fail on some members and not on others when one
has died (`collectives`). A world is a value; `actions.successors` are all worlds that one action
leads to.
"""

from dataclasses import dataclass, replace
from typing import Any

from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership import decisions
from trainyard_trainer.membership import participant as protocol
from trainyard_trainer.membership.events import Command, Disconnected, Event, StateStored
from trainyard_trainer.membership.messages import (
    CollectState,
    Dismiss,
    Exclude,
    Fence,
    Goodbye,
    Hello,
    MembershipMessage,
    Stopped,
    StopRequest,
    TaskRaised,
    ViewAnnouncement,
)
from trainyard_trainer.membership.participant import Participant, ParticipantPhase, Step, ViewAction
from trainyard_trainer.membership.registry import Registry
from trainyard_trainer.membership.views import MemberAddress, View, ViewId


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One worker's process."""

    participant: Participant
    alive: bool = True
    connected: bool = False
    welcomed: bool = False
    """The coordinator has received this connection's Hello; what it sent before is lost."""
    ready: bool = False
    leaving: bool = False
    building: ViewId | None = None
    """The view whose group it takes part in building."""
    waiting: tuple[Any, ...] | None = None
    """The collective it has entered and not completed: ("step" | "transfer", view, progress)."""
    lineage: tuple[Any, ...] = ()
    """What its state was made of: the initial view, then (progress, view) for each commit."""
    inbox: tuple[Any, ...] = ()
    """Messages to it; a Welcome is no value, so that ("welcome", term) stands for it."""
    outbox: tuple[Event, ...] = ()
    """What the coordinator has yet to take from it, the end of its connection included."""
    dismissed: Result | None = None
    unreachable: bool = False
    """Nobody but the coordinator can connect to it."""
    raised: TaskRaised | None = None
    """Its task has raised: it only waits to be dismissed."""
    hanging: bool = False
    """Its training thread does nothing any more; its connection goes on."""

    @property
    def member_id(self) -> str:
        return self.participant.member_id


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything, at one moment."""

    registry: Registry | None
    term: int
    workers: tuple[Worker, ...]
    faults: int
    """How many faults may still happen."""
    entered: frozenset[tuple[Any, ...]] = frozenset()
    """(collective, member id, vote): who has entered what."""
    built: frozenset[tuple[ViewId, str]] = frozenset()
    sources: frozenset[tuple[ViewId, int, tuple[Any, ...]]] = frozenset()
    """The states that the sources of transfers hold: (view, progress, lineage)."""
    views: tuple[View, ...] = ()
    """All views ever announced."""
    stored: tuple[int, tuple[Any, ...]] | None = None
    """The state that the coordinator stores: progress and lineage."""


NEVER = 1e18
"""No worker stands still for so long, but where an action says so."""


class Violation(AssertionError):
    """An invariant does not hold."""


def start(count: int, faults: int) -> World:
    """A coordinator and `count` processes that have not yet connected."""
    workers = tuple(Worker(participant=Participant(member_id=f"{n}/0")) for n in "abcd"[:count])
    first = Registry(term=1, minimum=1, desired=count, stuck_seconds=NEVER)
    return World(registry=first, term=1, workers=workers, faults=faults)


def key(world: World) -> Any:
    """What makes two worlds the same."""
    known = world.registry
    members = None if known is None else tuple(known.members.values())
    views = None if known is None else (known.desired, known.view, known.pending, known.last_number)
    more = None if known is None else (known.rejoin_deadline, known.collecting_from, known.raised)
    end = None if known is None else (known.collected, known.result)
    live = frozenset(e for e in world.entered if _is_awaited(world, e[0]))
    return (
        members,
        views,
        more,
        end,
        world.workers,
        world.faults,
        live,
        world.built,
        world.stored,
    )


def _is_awaited(world: World, collective: tuple[Any, ...]) -> bool:
    return any(w.alive and (w.waiting == collective or w.waiting is None) for w in world.workers)


# --- the coordinator's side -----------------------------------------------------------------------


def handle(world: World, event: Event, now: float = 0.0) -> World:
    """The coordinator handles an event, and sends what it commands."""
    assert world.registry is not None
    registry, commands = decisions.step(world.registry, event, now)
    world = replace(world, registry=registry)
    for command in commands:
        world = _send_command(world, command)
    return world


def _send_command(world: World, command: Command) -> World:
    to, message = command
    if isinstance(message, ViewAnnouncement):
        for view in world.views:
            if view.id == message.view.id and view != message.view:
                raise Violation(f"two views are called {view.id}")
        if message.view not in world.views:
            world = replace(world, views=(*world.views, message.view))
    index = _index(world, to)
    if index is None or not world.workers[index].welcomed:
        return world
    worker = world.workers[index]
    return put(world, index, replace(worker, inbox=(*worker.inbox, message)))


def _index(world: World, member_id: str) -> int | None:
    for index, worker in enumerate(world.workers):
        if worker.member_id == member_id:
            return index
    return None


def put(world: World, index: int, worker: Worker) -> World:
    workers = (*world.workers[:index], worker, *world.workers[index + 1 :])
    return replace(world, workers=workers)


# --- a worker's side ------------------------------------------------------------------------------


def _disconnected(worker: Worker) -> Worker:
    return replace(worker, connected=False, welcomed=False, inbox=())


def queue(worker: Worker, event: Event) -> Worker:
    """Have the coordinator take an event after all that this worker has sent before."""
    return replace(worker, outbox=(*worker.outbox, event)) if worker.connected else worker


def send(worker: Worker, message: MembershipMessage) -> Worker:
    return queue(worker, (worker.member_id, message))


def digest(worker: Worker) -> str:
    return str(hash(worker.lineage))


def _send_stopped(worker: Worker) -> Worker:
    me = worker.participant
    worker = replace(worker, waiting=None, building=None)
    return send(
        worker,
        Stopped(
            announced=me.announced,
            state_view=me.state_view.id if me.state_view else None,
            progress=me.progress,
            digest=digest(worker),
        ),
    )


def act(world: World, index: int, step: Step) -> World:
    """A worker takes the action that its half of the protocol calls for."""
    me, action = step
    worker = replace(world.workers[index], participant=me)
    if action is ViewAction.STOP:
        return put(world, index, _send_stopped(worker))
    if action is ViewAction.PREPARE:
        assert me.pending is not None
        if me.member_id in me.pending.member_ids:
            worker = replace(worker, building=me.pending.id)
            built = world.built | {(me.pending.id, me.member_id)}
            return put(replace(world, built=built), index, worker)
    if action is ViewAction.ENTER:
        return _enter(world, index, worker)
    return put(world, index, worker)


def _enter(world: World, index: int, worker: Worker) -> World:
    view = worker.participant.view
    assert view is not None
    worker = replace(worker, waiting=None, building=view.id)
    if not worker.participant.is_member:
        worker = send(worker, Goodbye(left_for=view.id))
        worker = queue(worker, Disconnected(member_id=worker.member_id))
        gone = replace(_disconnected(worker), alive=False, dismissed=Result.LEFT)
        return put(world, index, gone)
    return put(replace(world, built=world.built | {(view.id, worker.member_id)}), index, worker)


def is_built(world: World, view: View) -> bool:
    built = all((view.id, member_id) in world.built for member_id in view.member_ids)
    return built and not is_blocked(world, view)


def is_blocked(world: World, view: View) -> bool:
    """Whether members of a view cannot connect to each other."""
    members = [w for w in world.workers if w.member_id in view.member_ids]
    return len(view.member_ids) > 1 and any(w.unreachable for w in members)


def hello(worker: Worker) -> Hello:
    me = worker.participant
    finished = Result.COMPLETE if me.phase is ParticipantPhase.FINISHED else None
    return Hello(
        address=MemberAddress(member_id=me.member_id),
        ready=worker.ready,
        announced=me.announced,
        state_view=me.state_view,
        progress=me.progress,
        digest=digest(worker) if me.is_stopped or finished else "",
        stopped=me.is_stopped,
        leaving=worker.leaving,
        finished=finished,
        raised=worker.raised,
    )


def receive(world: World, index: int) -> World:
    """A worker receives the next message of its inbox."""
    worker = world.workers[index]
    message, worker = worker.inbox[0], replace(worker, inbox=worker.inbox[1:])
    world = put(world, index, worker)
    match message:
        case ("welcome", term):
            me = protocol.receive_term(worker.participant, term)
            return put(world, index, replace(worker, participant=me))
        case ViewAnnouncement():
            return act(world, index, protocol.receive_view(worker.participant, message.view))
        case StopRequest():
            return act(world, index, protocol.receive_stop(worker.participant))
        case Fence() if worker.raised is None:
            name, _, number = worker.member_id.partition("/")
            me = protocol.reset(worker.participant, f"{name}/{int(number) + 1}")
            again = Worker(
                participant=me,
                ready=True,
                leaving=worker.leaving,
                unreachable=worker.unreachable,
            )
            return put(world, index, again)
        case Exclude() | Fence():
            gone = replace(_disconnected(worker), alive=False)
            return put(world, index, replace(gone, waiting=None))
        case CollectState():
            stored = (worker.participant.progress, worker.lineage)
            worker = queue(worker, StateStored(member_id=worker.member_id))
            return put(replace(world, stored=stored), index, worker)
        case Dismiss():
            gone = replace(_disconnected(worker), alive=False, dismissed=message.result)
            return put(world, index, replace(gone, waiting=None))
        case _:
            raise AssertionError(message)
