"""What is to be done, given all that is known.

Decisions are level-triggered: `decide` looks at the whole registry afresh after every event, so
that no order of events needs a case of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership.events import (
    Announce,
    Collect,
    Command,
    Dismiss,
    Event,
    Member,
    MemberAddress,
    Stop,
    View,
    ViewId,
)
from trainyard_trainer.membership.registry import Registry, Transition
from trainyard_trainer.membership.transitions import apply_event

JOIN_SETTLE_SECONDS: Final = 0.5
"""A joiner waits so long for others, so that a batch of new pods costs one view, not one each."""
START_SETTLE_SECONDS: Final = 3.0
"""The first view waits so long for the rest of the plan's workers once the minimum is ready."""


def step(registry: Registry, event: Event, now: float) -> Transition:
    """What is known, and what is to be done, after `event` at `now` (seconds, any steady clock)."""
    registry, commands = apply_event(registry, event, now)
    registry, more = decide(registry, now)
    return registry, commands + more


def decide(registry: Registry, now: float) -> Transition:
    """The commands that the registry calls for at `now`, and the registry that has given them."""
    if registry.is_learning(now):
        return registry, []
    if registry.closed is not None:
        return _dismiss(registry, registry.members.values(), registry.closed)
    if any(m.halted for m in registry.members.values()):
        return _close(registry)
    idle = [m for m in registry.members.values() if m.leaving and m.progress < 0]
    registry, commands = _dismiss(registry, idle, Result.LEFT)
    if not registry.has_state:
        registry, more = _start(registry, now)
        return registry, commands + more
    registry = replace(registry, learning_until=None)
    registry, more = _recover(registry) if registry.is_broken else _plan(registry, now)
    return registry, commands + more


def _dismiss(registry: Registry, whom: Iterable[Member], result: Result) -> Transition:
    gone = [m.address.member_id for m in whom]
    members = {k: m for k, m in registry.members.items() if k not in gone}
    commands: list[Command] = [Dismiss(to=ident, result=result) for ident in gone]
    return replace(registry, members=members), commands


def _close(registry: Registry) -> Transition:
    """Have one of those that came to the end send in the state, then let everybody go."""
    halted = [m for m in registry.members.values() if m.halted]
    engaged = [m for m in registry.members.values() if m.is_engaged]
    running = [m for m in engaged if not m.halted and not m.stopped]
    if running:
        # A survivor may hang in the very collective that the others have completed, and a joiner
        # in a view to which nobody will switch any more.
        broken, seated = registry.is_broken, registry.view.member_ids if registry.view else ()
        return _stop(registry, [m for m in running if broken or m.address.member_id not in seated])
    result = halted[0].halted or Result.COMPLETE
    return _collect(registry, halted[0].address.member_id, result)


def _collect(registry: Registry, ident: str, result: Result) -> Transition:
    if registry.collected:
        closed = None if result is Result.LEFT else result
        whom = registry.members.values() if closed else registry.engaged
        registry, commands = _dismiss(registry, whom, result)
        fresh = replace(registry, view=None, pending=None, collecting=None, collected=False)
        return replace(fresh, closed=closed), commands
    if registry.collecting in registry.members:
        return registry, []
    return replace(registry, collecting=ident), [Collect(to=ident, result=result)]


def _stop(registry: Registry, whom: Iterable[Member]) -> Transition:
    asked = [m for m in whom if not m.asked and not m.stopped]
    for member in asked:
        registry = registry.put(replace(member, asked=True))
    return registry, [Stop(to=m.address.member_id) for m in asked]


def _may_come_back(registry: Registry) -> bool:
    """Whether workers with state may only have lost their connection, which is worth a wait."""
    pending = registry.pending
    if pending is not None and pending.initial:
        return not all(ident in registry.members for ident in pending.member_ids)
    return registry.view is not None


def _start(registry: Registry, now: float) -> Transition:
    """Form a view of workers without state: the first one, or after the loss of all that had it."""
    if registry.learning_until is None and _may_come_back(registry):
        return replace(registry, learning_until=now + registry.grace), []
    if registry.desired == 0:
        return replace(registry, closed=Result.SUSPENDED), []
    pending = registry.pending
    if pending is not None and pending.initial and registry.is_coming(pending):
        return registry, []
    registry = replace(registry, view=None, pending=None, learning_until=None)
    ready = _candidates(registry)
    quorum = min(registry.minimum, registry.desired)
    settled = _have_settled(ready, now, START_SETTLE_SECONDS)
    if not ready or len(ready) < quorum or (len(ready) < registry.desired and not settled):
        return registry, []
    seats = tuple(m.address for m in ready[: registry.desired])
    return _announce(registry, seats, source=seats[0].member_id, transfer=True, birth=True)


def _recover(registry: Registry) -> Transition:
    """Stop everybody, then go on with those that answered, from the state of the furthest."""
    engaged = registry.engaged
    registry, commands = _stop(replace(registry, pending=None), engaged)
    engaged = registry.engaged
    if not all(m.stopped for m in engaged):
        return registry, commands
    seats, furthest = _survivors(engaged)
    if not seats:
        return _collect(registry, furthest.address.member_id, Result.LEFT)
    registry, commands = _dismiss(
        registry, [m for m in engaged if m.address not in seats], Result.LEFT
    )
    states = {(m.progress, m.digest) for m in engaged if m.address in seats}
    source = furthest.address.member_id
    registry, more = _announce(registry, seats, source=source, transfer=len(states) > 1)
    return registry, commands + more


def _survivors(engaged: list[Member]) -> tuple[tuple[MemberAddress, ...], Member]:
    """The next view's seats, empty when all are leaving, and the member with the newest state.

    A worker on its way out is taken along only where nobody else has state to hand on.
    """
    staying = [m for m in engaged if not m.leaving]
    if staying and not any(m.progress >= 0 for m in staying):
        staying = engaged
    with_state = [m for m in (staying or engaged) if m.progress >= 0]
    furthest = max(with_state, key=lambda m: (m.view or ViewId(term=0, number=0), m.progress))
    return tuple(m.address for m in staying), furthest


def _plan(registry: Registry, now: float) -> Transition:
    """Let joiners in and leavers go, by a view that the one in force prepares while it trains."""
    view, pending = registry.view, registry.pending
    if view is None:
        return registry, []
    staying = [
        i for i in view.member_ids if i in registry.members and not registry.members[i].leaving
    ]
    # With nobody staying, the leavers first hand their state on, and leave by the view after.
    old = staying or list(view.member_ids)
    if pending is not None and registry.is_coming(pending):
        gone = [i for i in pending.member_ids if registry.members[i].leaving and i not in old]
        if pending.after is None or pending.id == view.id:
            return registry, []  # Being begun.
        if pending.after == view.id and not gone:
            return registry, []  # Being prepared.
    if any(registry.members[i].progress < 0 for i in view.member_ids):
        return registry, []  # A member is still receiving its state.
    joiners = _joiners(registry, view, len(staying), now)
    if not staying and not joiners:
        return _stop(registry, [registry.members[i] for i in view.member_ids])
    seats = tuple(registry.members[i].address for i in [*old, *joiners])
    if tuple(s.member_id for s in seats) == view.member_ids and pending is None:
        return registry, []
    return _announce(registry, seats, source=old[0], transfer=bool(joiners), after=view)


def _candidates(registry: Registry) -> list[Member]:
    ready = [m for m in registry.members.values() if m.ready_at is not None and not m.leaving]
    return sorted(ready, key=lambda m: (m.ready_at or 0.0, m.address.member_id))


def _have_settled(ready: list[Member], now: float, seconds: float) -> bool:
    return all(now - (m.ready_at or 0.0) >= seconds for m in ready)


def _joiners(registry: Registry, view: View, staying: int, now: float) -> list[str]:
    ready = [m for m in _candidates(registry) if m.address.member_id not in view.member_ids]
    room = max(0, registry.desired - staying)
    if len(ready) < room and not _have_settled(ready, now, JOIN_SETTLE_SECONDS):
        return []
    return [m.address.member_id for m in ready[:room]]


def _announce(
    registry: Registry,
    seats: tuple[MemberAddress, ...],
    *,
    source: str,
    transfer: bool,
    after: View | None = None,
    birth: bool = False,
) -> Transition:
    """Tell the members of the new view, and those of the one it follows, who must agree too."""
    identity = ViewId(term=registry.term, number=registry.number + 1)
    view = View(
        id=identity,
        members=seats,
        source=source,
        transfer=transfer,
        after=after.id if after is not None else None,
        initial=birth,
    )
    told = dict.fromkeys([*view.member_ids, *(after.member_ids if after is not None else ())])
    registry = replace(registry, pending=view, number=identity.number)
    for ident in told:
        member = replace(registry.members[ident], announced=identity, stopped=False, asked=False)
        registry = registry.put(member)
    return registry, [Announce(to=ident, view=view) for ident in told]
