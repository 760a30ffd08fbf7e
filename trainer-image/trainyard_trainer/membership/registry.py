"""The coordinator's half of the membership protocol.

`step` is the whole of it: a registry and an event in, a registry and commands out. Decisions are
level-triggered: each event first only changes what is known, and `_decide` then looks at all of it
afresh, so that no order of events needs a case of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

from trainyard_trainer.contract import Result
from trainyard_trainer.membership.nouns import (
    Announce,
    Began,
    Collect,
    Collected,
    Command,
    Dismiss,
    Event,
    Fence,
    Halted,
    Joined,
    Leaving,
    Lost,
    Member,
    Phase,
    Seat,
    Stop,
    Stopped,
    Tick,
    View,
    ViewId,
    Wanted,
    Warm,
)

JOIN_SETTLE_SECONDS: Final = 0.5
"""A joiner waits so long for others, so that a batch of new pods costs one view, not one each."""
START_SETTLE_SECONDS: Final = 3.0
"""The first view waits so long for the rest of the plan's workers once the minimum is ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """All that the coordinator knows of its workers."""

    term: int
    minimum: int = 1
    """Workers without which the first view is not formed."""
    wanted: int = 1
    """Workers that should step together; 0 while suspended."""
    members: dict[str, Member] = field(default_factory=dict)
    """The connected workers by ident, in the order in which they came."""
    view: View | None = None
    """The view in force: the highest that a worker with state has begun."""
    pending: View | None = None
    """Announced, and not yet begun by all its members."""
    number: int = 0
    """The highest view number heard of."""
    grace: float = 10.0
    """Seconds in which workers with state may come back before training starts without them."""
    learning_until: float | None = None
    """A coordinator after the first one begins by waiting for them."""
    collecting: str | None = None
    collected: bool = False
    closed: Result | None = None
    """Training has ended so; whoever connects now is dismissed."""

    def phase(self, ident: str) -> Phase:
        """Where a worker stands, for people and metrics."""
        member = self.members.get(ident)
        if member is None:
            return Phase.DEAD
        if member.leaving:
            return Phase.LEAVING
        if member.progress >= 0:
            return Phase.ACTIVE
        return Phase.WARMING if member.heard is None else Phase.REPLAYING


Decision = tuple[Registry, list[Command]]


def step(registry: Registry, event: Event, now: float) -> Decision:
    """What is known, and what is to be done, after `event` at `now` (seconds, any steady clock)."""
    registry, commands = _hear(registry, event, now)
    registry, more = _decide(registry, now)
    return registry, commands + more


def _hear(registry: Registry, event: Event, now: float) -> Decision:
    match event:
        case Joined():
            return _join(registry, event)
        case Lost():
            return _lose(registry, event), []
        case Wanted():
            closed = None if event.workers else registry.closed
            return replace(registry, wanted=event.workers, closed=closed), []
        case Tick():
            return registry, []
        case Collected():
            return replace(registry, collected=registry.collecting == event.ident), []
        case Warm() | Began() | Stopped() | Halted() | Leaving():
            member = registry.members.get(event.ident)
            return (registry if member is None else _report(registry, member, event, now)), []
        case _:
            assert_never(event)


def _join(registry: Registry, event: Joined) -> Decision:
    member = event.member
    known = [v for v in (registry.view, registry.pending) if v is not None]
    given_up = registry.view is not None and registry.learning_until is None
    if member.progress >= 0 and given_up and not any(member.seat.ident in v.idents for v in known):
        return registry, [Fence(to=member.seat.ident)]
    numbers = [v.number for v in (member.view, member.heard) if v is not None]
    registry = replace(registry, number=max([registry.number, *numbers]))
    registry = _put(registry, member)
    if event.view is not None and member.progress >= 0:
        registry = _in_force(registry, event.view)
    return registry, []


def _lose(registry: Registry, event: Lost) -> Registry:
    members = {k: m for k, m in registry.members.items() if k != event.ident}
    pending = registry.pending
    if pending is not None and pending.id == event.left_for:
        # It left by the switch, so the switch was decided: the old view is not broken by this.
        registry = _in_force(registry, pending)
    # What was to be collected from it is to be asked for again, of it or of another.
    collecting = None if registry.collecting == event.ident else registry.collecting
    return replace(registry, members=members, collecting=collecting)


def _report(
    registry: Registry, member: Member, event: Warm | Began | Stopped | Halted | Leaving, now: float
) -> Registry:
    match event:
        case Warm():
            return _put(registry, replace(member, ready_at=now))
        case Leaving():
            return _put(registry, replace(member, leaving=True))
        case Began():
            begun = replace(
                member, view=event.view.id, progress=event.progress, stopped=False, digest=""
            )
            return _settle_pending(_in_force(_put(registry, begun), event.view))
        case Stopped():
            if event.heard != member.heard:
                return registry  # Sent before it heard of the newest view: it will say so again.
            stopped = replace(member, stopped=True, asked=False, digest=event.digest)
            return _put(registry, replace(stopped, view=event.view, progress=event.progress))
        case Halted():
            halted = replace(member, halted=event.result, asked=False, digest=event.digest)
            return _put(registry, replace(halted, progress=event.progress))
        case _:
            assert_never(event)


def _put(registry: Registry, member: Member) -> Registry:
    return replace(registry, members={**registry.members, member.seat.ident: member})


def _in_force(registry: Registry, view: View) -> Registry:
    if registry.view is not None and view.id <= registry.view.id:
        return registry
    number = max(registry.number, view.id.number)
    return replace(registry, view=view, number=number)


def _settle_pending(registry: Registry) -> Registry:
    pending = registry.pending
    if pending is None:
        return registry
    seated = [registry.members.get(ident) for ident in pending.idents]
    done = all(m is not None and m.view == pending.id and m.progress >= 0 for m in seated)
    return replace(registry, pending=None) if done else registry


# --- decisions -------------------------------------------------------------------------------


def _decide(registry: Registry, now: float) -> Decision:
    if _is_learning(registry, now):
        return registry, []
    if registry.closed is not None:
        return _dismiss(registry, registry.members.values(), registry.closed)
    if any(m.halted for m in registry.members.values()):
        return _close(registry)
    idle = [m for m in registry.members.values() if m.leaving and m.progress < 0]
    registry, commands = _dismiss(registry, idle, Result.LEFT)
    if not any(m.progress >= 0 for m in registry.members.values()):
        registry, more = _start(registry, now)
        return registry, commands + more
    registry = replace(registry, learning_until=None)
    registry, more = _recover(registry) if _is_broken(registry) else _plan(registry, now)
    return registry, commands + more


def _is_learning(registry: Registry, now: float) -> bool:
    if registry.learning_until is None or now >= registry.learning_until:
        return False
    view = registry.view
    return view is None or not all(ident in registry.members for ident in view.idents)


def _is_intact(registry: Registry, view: View) -> bool:
    seated = [registry.members.get(ident) for ident in view.idents]
    return all(m is not None and not m.stopped and not m.asked for m in seated)


def _is_coming(registry: Registry, pending: View) -> bool:
    """Whether a pending view may still be begun: all its members are there and know of it."""
    knows = all(registry.members[i].heard == pending.id for i in pending.idents if i in registry.members)
    return knows and _is_intact(registry, pending)


def _is_broken(registry: Registry) -> bool:
    """Whether somebody must stop who may be stepping; while the mending view comes, nobody must."""
    view, pending = registry.view, registry.pending
    if pending is not None and pending.birth:
        # A worker with state has come back while others were to start afresh.
        return not _is_coming(registry, pending) or view is None or view.id < pending.id
    if pending is not None and pending.after is None and _is_coming(registry, pending):
        return False
    stopped = any(m.stopped or m.asked for m in registry.members.values())
    return stopped or view is None or not _is_intact(registry, view) or _has_absent(registry, view)


def _has_absent(registry: Registry, view: View) -> bool:
    """Whether a member that is to receive the view's state was called to another view since."""
    seated = [registry.members[ident] for ident in view.idents]
    return any(m.progress < 0 and m.heard != view.id for m in seated)


def _dismiss(registry: Registry, whom: Iterable[Member], result: Result) -> Decision:
    gone = [m.seat.ident for m in whom]
    members = {k: m for k, m in registry.members.items() if k not in gone}
    commands: list[Command] = [Dismiss(to=ident, result=result) for ident in gone]
    return replace(registry, members=members), commands


def _close(registry: Registry) -> Decision:
    """Have one of those that came to the end send in the state, then let everybody go."""
    halted = [m for m in registry.members.values() if m.halted]
    engaged = [m for m in registry.members.values() if m.is_engaged]
    running = [m for m in engaged if not m.halted and not m.stopped]
    if running:
        # A survivor may hang in the very collective that the others have completed, and a joiner
        # in a view to which nobody will switch any more.
        broken, seated = _is_broken(registry), registry.view.idents if registry.view else ()
        return _stop(registry, [m for m in running if broken or m.seat.ident not in seated])
    result = halted[0].halted or Result.COMPLETE
    return _collect(registry, halted[0].seat.ident, result)


def _collect(registry: Registry, ident: str, result: Result) -> Decision:
    if registry.collected:
        closed = None if result is Result.LEFT else result
        whom = registry.members.values() if closed else _engaged(registry)
        registry, commands = _dismiss(registry, whom, result)
        fresh = replace(registry, view=None, pending=None, collecting=None, collected=False)
        return replace(fresh, closed=closed), commands
    if registry.collecting in registry.members:
        return registry, []
    return replace(registry, collecting=ident), [Collect(to=ident, result=result)]


def _engaged(registry: Registry) -> list[Member]:
    return [m for m in registry.members.values() if m.is_engaged]


def _stop(registry: Registry, whom: Iterable[Member]) -> Decision:
    asked = [m for m in whom if not m.asked and not m.stopped]
    for member in asked:
        registry = _put(registry, replace(member, asked=True))
    return registry, [Stop(to=m.seat.ident) for m in asked]


def _may_come_back(registry: Registry) -> bool:
    """Whether workers with state may only have lost their connection, which is worth a wait."""
    pending = registry.pending
    if pending is not None and pending.birth:
        return not any(ident in registry.members for ident in pending.idents)
    return registry.view is not None


def _start(registry: Registry, now: float) -> Decision:
    """Form a view of workers without state: the first one, or after the loss of all that had it."""
    if registry.learning_until is None and _may_come_back(registry):
        return replace(registry, learning_until=now + registry.grace), []
    if registry.wanted == 0:
        return replace(registry, closed=Result.SUSPENDED), []
    registry = replace(registry, view=None, learning_until=None)
    pending = registry.pending
    if pending is not None and pending.birth and _is_coming(registry, pending):
        return registry, []
    ready = _candidates(registry)
    quorum = min(registry.minimum, registry.wanted)
    settled = _have_settled(ready, now, START_SETTLE_SECONDS)
    if not ready or len(ready) < quorum or (len(ready) < registry.wanted and not settled):
        return registry, []
    seats = tuple(m.seat for m in ready[: registry.wanted])
    return _announce(registry, seats, source=seats[0].ident, transfer=True, birth=True)


def _recover(registry: Registry) -> Decision:
    """Stop everybody, then go on with those that answered, from the state of the furthest."""
    engaged = _engaged(registry)
    registry, commands = _stop(replace(registry, pending=None), engaged)
    engaged = _engaged(registry)
    if not all(m.stopped for m in engaged):
        return registry, commands
    seats, furthest = _survivors(engaged)
    if not seats:
        return _collect(registry, furthest.seat.ident, Result.LEFT)
    registry, commands = _dismiss(
        registry, [m for m in engaged if m.seat not in seats], Result.LEFT
    )
    states = {(m.progress, m.digest) for m in engaged if m.seat in seats}
    source = furthest.seat.ident
    registry, more = _announce(registry, seats, source=source, transfer=len(states) > 1)
    return registry, commands + more


def _survivors(engaged: list[Member]) -> tuple[tuple[Seat, ...], Member]:
    """The next view's seats, empty when all are leaving, and the member with the newest state.

    A worker on its way out is taken along only where nobody else has state to hand on.
    """
    staying = [m for m in engaged if not m.leaving]
    if staying and not any(m.progress >= 0 for m in staying):
        staying = engaged
    with_state = [m for m in (staying or engaged) if m.progress >= 0]
    furthest = max(with_state, key=lambda m: (m.view or ViewId(term=0, number=0), m.progress))
    return tuple(m.seat for m in staying), furthest


def _plan(registry: Registry, now: float) -> Decision:
    """Let joiners in and leavers go, by a view that the one in force prepares while it trains."""
    view, pending = registry.view, registry.pending
    if view is None or (
        pending is None and any(registry.members[i].progress < 0 for i in view.idents)
    ):
        return registry, []  # A member is still receiving its state.
    if pending is not None and _is_coming(registry, pending):
        leaving = any(registry.members[ident].leaving for ident in pending.idents)
        if pending.after is None or pending.id == view.id:
            return registry, []  # Being begun.
        if pending.after == view.id and not leaving:
            return registry, []  # Being prepared.
    if any(registry.members[i].progress < 0 for i in view.idents):
        return registry, []  # A member is still receiving its state.
    staying = [i for i in view.idents if not registry.members[i].leaving]
    joiners = _joiners(registry, view, len(staying), now)
    if not staying and not joiners:
        return _stop(registry, [registry.members[i] for i in view.idents])
    # With nobody staying, the leavers first hand their state on, and leave by the view after.
    old = staying or list(view.idents)
    seats = tuple(registry.members[i].seat for i in [*old, *joiners])
    if tuple(s.ident for s in seats) == view.idents and pending is None:
        return registry, []
    return _announce(registry, seats, source=old[0], transfer=bool(joiners), after=view)


def _candidates(registry: Registry) -> list[Member]:
    ready = [m for m in registry.members.values() if m.ready_at is not None and not m.leaving]
    return sorted(ready, key=lambda m: (m.ready_at or 0.0, m.seat.ident))


def _have_settled(ready: list[Member], now: float, seconds: float) -> bool:
    return all(now - (m.ready_at or 0.0) >= seconds for m in ready)


def _joiners(registry: Registry, view: View, staying: int, now: float) -> list[str]:
    ready = [m for m in _candidates(registry) if m.seat.ident not in view.idents]
    room = max(0, registry.wanted - staying)
    if len(ready) < room and not _have_settled(ready, now, JOIN_SETTLE_SECONDS):
        return []
    return [m.seat.ident for m in ready[:room]]


def _announce(
    registry: Registry,
    seats: tuple[Seat, ...],
    *,
    source: str,
    transfer: bool,
    after: View | None = None,
    birth: bool = False,
) -> Decision:
    """Tell the members of the new view, and those of the one it follows, who must agree too."""
    identity = ViewId(term=registry.term, number=registry.number + 1)
    view = View(
        id=identity,
        seats=seats,
        source=source,
        transfer=transfer,
        after=after.id if after is not None else None,
        birth=birth,
    )
    told = dict.fromkeys([*view.idents, *(after.idents if after is not None else ())])
    registry = replace(registry, pending=view, number=identity.number)
    for ident in told:
        member = replace(registry.members[ident], heard=identity, stopped=False, asked=False)
        registry = _put(registry, member)
    return registry, [Announce(to=ident, view=view) for ident in told]
