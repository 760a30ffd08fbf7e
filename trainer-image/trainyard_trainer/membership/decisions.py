"""What the coordinator decides, given all that it knows.

Decisions are level-triggered: `decide` evaluates the whole registry after every event, so that no
order of events needs a case of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership.events import Command, Event
from trainyard_trainer.membership.exclusion import (
    MAX_FAILED_BUILDS,
    different_from_most,
    different_from_state,
    exclude,
    unreachable,
)
from trainyard_trainer.membership.messages import (
    CollectState,
    Dismiss,
    Fence,
    StopRequest,
    ViewAnnouncement,
)
from trainyard_trainer.membership.registry import Member, Registry, Transition
from trainyard_trainer.membership.stuck import standing_still
from trainyard_trainer.membership.transitions import apply_event
from trainyard_trainer.membership.views import MemberAddress, View, ViewId

JOIN_WINDOW_SECONDS: Final = 0.5
"""How long a joiner waits for others, so that a batch of new pods costs one view, not one each."""
START_WINDOW_SECONDS: Final = 3.0
"""How long the first view waits for the rest of the plan's workers once the minimum is ready."""


def step(registry: Registry, event: Event, now: float) -> Transition:
    """Apply `event` at `now` (seconds, any steady clock) and decide what follows from it."""
    registry, commands = apply_event(registry, event, now)
    registry, more = decide(registry, now)
    return registry, commands + more


def decide(registry: Registry, now: float) -> Transition:
    """The commands that the registry calls for at `now`, and the registry that has given them."""
    if registry.awaits_rejoin(now):
        return registry, []
    if registry.result is not None:
        return _dismiss(registry, registry.members.values(), registry.result)
    registry, commands = exclude(registry, standing_still(registry, now))
    registry, more = _advance(registry, now)
    return registry, commands + more


def _advance(registry: Registry, now: float) -> Transition:
    """Finish, start, recover or rescale, with workers that all respond."""
    registry, commands = _release(registry)
    raised = next((m for m in registry.members.values() if m.raised is not None), None)
    if raised is not None:
        result = Result.FAILED if raised.is_repeated else Result.LEFT
        registry, more = _collect(registry, raised.member_id, result)
    else:
        registry, more = _continue(registry, now)
    return registry, commands + more


def _release(registry: Registry) -> Transition:
    """Dismiss workers on which the task raised, where others go on with the same state."""
    commands: list[Command] = []
    for member in list(registry.members.values()):
        others = [
            m
            for m in registry.members.values()
            if m is not member and m.progress >= 0 and m.raised is None
        ]
        if member.raised is not None and not member.is_repeated and others:
            registry, more = _dismiss(registry, [member], Result.LEFT)
            commands += more
    return registry, commands


def _continue(registry: Registry, now: float) -> Transition:
    """Finish, start, recover or rescale, with workers that can all go on."""
    if any(m.finished for m in registry.members.values()):
        return _finish(registry)
    idle = [m for m in registry.members.values() if m.leaving and m.progress < 0]
    registry, commands = _dismiss(registry, idle, Result.LEFT)
    registry, more = exclude(registry, different_from_state(registry) | unreachable(registry))
    commands += more
    if not registry.has_state:
        registry, more = _start(registry, now)
        return registry, commands + more
    registry = replace(registry, rejoin_deadline=None)
    registry, more = _recover(registry) if registry.is_broken else _rescale(registry, now)
    return registry, commands + more


def _dismiss(registry: Registry, dismissed: Iterable[Member], result: Result) -> Transition:
    ids = [m.member_id for m in dismissed]
    members = {k: m for k, m in registry.members.items() if k not in ids}
    reason = registry.failure if result is Result.FAILED else ""
    dismiss = Dismiss(result=result, reason=reason)
    return replace(registry, members=members), [(member_id, dismiss) for member_id in ids]


def _finish(registry: Registry) -> Transition:
    """Collect the final state from one of the finished members, then dismiss everybody."""
    finished = [m for m in registry.members.values() if m.finished]
    running = [m for m in registry.engaged if not m.finished and not m.stopped]
    if running:
        # A survivor may hang in the very collective that the others have completed, and a joiner
        # in a view to which nobody will switch any more.
        broken, current = registry.is_broken, registry.view.member_ids if registry.view else ()
        return _request_stop(registry, [m for m in running if broken or m.member_id not in current])
    result = finished[0].finished or Result.COMPLETE
    return _collect(registry, finished[0].member_id, result)


def _collect(registry: Registry, member_id: str, result: Result) -> Transition:
    """Collect the state from `member_id`; once it is stored, dismiss those that are done."""
    if registry.collected:
        final = None if result is Result.LEFT else result
        done = registry.members.values() if final else registry.engaged
        registry, commands = _dismiss(registry, done, result)
        fresh = replace(
            registry,
            view=None,
            pending=None,
            failed_starts=0,
            collecting_from=None,
            collected=False,
        )
        return replace(fresh, result=final), commands
    if registry.collecting_from in registry.members:
        return registry, []
    registry = replace(registry, collecting_from=member_id)
    return registry, [(member_id, CollectState(result=result))]


def _request_stop(registry: Registry, members: Iterable[Member]) -> Transition:
    running = [m for m in members if not m.stop_requested and not m.stopped]
    registry = registry.put(*(replace(member, stop_requested=True) for member in running))
    return registry, [(m.member_id, StopRequest()) for m in running]


def _may_rejoin(registry: Registry) -> bool:
    """Whether workers with state may only have lost their connection, which is worth a wait."""
    pending = registry.pending
    if pending is not None and pending.initial:
        return not all(member_id in registry.members for member_id in pending.member_ids)
    return registry.view is not None


def _start(registry: Registry, now: float) -> Transition:
    """Form a view of workers without state: the first one, or after the loss of all that had it."""
    if registry.rejoin_deadline is None and _may_rejoin(registry):
        return replace(registry, rejoin_deadline=now + registry.rejoin_seconds), []
    if registry.desired == 0:
        return replace(registry, result=Result.SUSPENDED), []
    pending = registry.pending
    if pending is not None and pending.initial and registry.can_begin(pending):
        return registry, []
    registry = replace(registry, view=None, pending=None, rejoin_deadline=None)
    ready = sorted(_candidates(registry), key=lambda m: not m.stopped)  # Who answered goes first.
    quorum = min(registry.minimum, registry.desired)
    is_over = _is_window_over(ready, now, START_WINDOW_SECONDS)
    if not ready or len(ready) < quorum or (len(ready) < registry.desired and not is_over):
        return registry, []
    registry, excluded = exclude(registry, different_from_most(ready))
    if excluded:
        return registry, excluded
    # Workers that cannot connect to each other join one that can train.
    count = 1 if registry.failed_starts >= MAX_FAILED_BUILDS else registry.desired
    members = tuple(m.address for m in ready[:count])
    return _announce(registry, members, source=members[0].member_id, transfer=True, initial=True)


def _recover(registry: Registry) -> Transition:
    """Stop everybody, then go on with those that answered, from the state of the furthest."""
    registry, commands = _request_stop(replace(registry, pending=None), registry.engaged)
    engaged = registry.engaged
    if not all(m.stopped for m in engaged):
        return registry, commands
    members, furthest = _survivors(registry)
    if not members:
        return _collect(registry, furthest.member_id, Result.LEFT)
    # Who has no state joins later, by a view that is prepared beside this one.
    registry = registry.put(
        *(
            replace(m, announced=None, stopped=False, halted_at=None)
            for m in engaged
            if m.progress < 0
        )
    )
    engaged = registry.engaged
    if registry.failed_starts >= MAX_FAILED_BUILDS:
        members = (furthest.address,)
        registry, commands = _fence(registry, [m for m in engaged if m is not furthest])
    else:
        registry, commands = _dismiss(
            registry, [m for m in engaged if m.address not in members], Result.LEFT
        )
    states = {(m.progress, m.digest) for m in engaged if m.address in members}
    source = furthest.member_id
    registry, more = _announce(registry, members, source=source, transfer=len(states) > 1)
    return registry, commands + more


def _fence(registry: Registry, fenced: Iterable[Member]) -> Transition:
    """Give members up: their state is void, and they come back as joiners."""
    ids = [m.member_id for m in fenced]
    members = {k: m for k, m in registry.members.items() if k not in ids}
    commands: list[Command] = [(member_id, Fence()) for member_id in ids]
    return replace(registry, members=members), commands


def _survivors(registry: Registry) -> tuple[tuple[MemberAddress, ...], Member]:
    """The next view's members, empty when all are leaving, and the one with the newest state.

    A leaving worker is kept only where nobody else has state, but somebody can take it over.
    """
    with_state = [m for m in registry.engaged if m.progress >= 0]
    staying = [m for m in with_state if not m.leaving]
    has_heir = registry.desired > 0 and bool(_trusted_candidates(registry))
    members = staying or (with_state if has_heir else [])
    key = lambda m: (m.state_view or ViewId(term=0, number=0), m.progress)  # noqa: E731
    return tuple(m.address for m in members), max(members or with_state, key=key)


def _rescale(registry: Registry, now: float) -> Transition:
    """Admit joiners and release leavers by a view that is prepared while the current one trains."""
    view, pending = registry.view, registry.pending
    if view is None:
        return registry, []
    staying = [
        i for i in view.member_ids if i in registry.members and not registry.members[i].leaving
    ]
    # With nobody staying, the leavers first hand over their state, and leave by the view after.
    kept = staying or list(view.member_ids)
    if pending is not None and registry.can_begin(pending):
        leavers = [i for i in pending.member_ids if registry.members[i].leaving and i not in kept]
        if pending.after is None or pending.id == view.id:
            return registry, []  # Being entered.
        if pending.after == view.id and not leavers:
            return registry, []  # Being prepared.
    if any(registry.members[i].progress < 0 for i in view.member_ids):
        return registry, []  # A member is still receiving its state.
    if registry.failed_starts:
        # A switch without joiners could not be prepared: those who stay begin again at once.
        return _request_stop(registry, [registry.members[i] for i in view.member_ids])
    joiners = _joiners(registry, view, len(staying), now)
    if not staying and not joiners:
        return _request_stop(registry, [registry.members[i] for i in view.member_ids])
    members = tuple(registry.members[i].address for i in [*kept, *joiners])
    if tuple(m.member_id for m in members) == view.member_ids and pending is None:
        return registry, []
    return _announce(registry, members, source=kept[0], transfer=bool(joiners), after=view)


def _candidates(registry: Registry) -> list[Member]:
    ready = [m for m in registry.members.values() if m.ready_at is not None and not m.leaving]
    return sorted(ready, key=lambda m: (m.ready_at or 0.0, m.member_id))


def _trusted_candidates(registry: Registry) -> list[Member]:
    """The candidates that have not failed to join; the others are tried alone."""
    return [m for m in _candidates(registry) if m.pod not in registry.failed_joins]


def _is_window_over(ready: list[Member], now: float, seconds: float) -> bool:
    return all(now - (m.ready_at or 0.0) >= seconds for m in ready)


def _joiners(registry: Registry, view: View, staying: int, now: float) -> list[str]:
    ready = [m for m in _trusted_candidates(registry) if m.member_id not in view.member_ids]
    vacancies = max(0, registry.desired - staying)
    if not staying:
        return [m.member_id for m in ready[:vacancies]]  # Nobody leaves before it has an heir.
    if not ready:
        others = [m for m in _candidates(registry) if m.member_id not in view.member_ids]
        return [m.member_id for m in others[: min(1, vacancies)]]
    if len(ready) < vacancies and not _is_window_over(ready, now, JOIN_WINDOW_SECONDS):
        return []
    return [m.member_id for m in ready[:vacancies]]


def _announce(
    registry: Registry,
    members: tuple[MemberAddress, ...],
    *,
    source: str,
    transfer: bool,
    after: View | None = None,
    initial: bool = False,
) -> Transition:
    """Announce a view to its members, and to those of the one it follows, who must agree too."""
    view_id = ViewId(term=registry.term, number=registry.last_number + 1)
    view = View(
        id=view_id,
        members=members,
        source=source,
        transfer=transfer,
        after=after.id if after is not None else None,
        initial=initial,
    )
    recipients = dict.fromkeys([*view.member_ids, *(after.member_ids if after else ())])
    registry = replace(registry, pending=view, last_number=view_id.number).put(
        *(
            replace(
                registry.members[i],
                announced=view_id,
                stopped=False,
                stop_requested=False,
                halted_at=None,
            )
            for i in recipients
        )
    )
    return registry, [(member_id, ViewAnnouncement(view=view)) for member_id in recipients]
