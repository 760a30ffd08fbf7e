"""What the coordinator hears changes what it knows, and decides nothing yet."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership.events import (
    Began,
    Collected,
    Event,
    Fence,
    Halted,
    Joined,
    Leaving,
    Lost,
    Member,
    Stopped,
    Tick,
    View,
    Wanted,
    Warm,
)
from trainyard_trainer.membership.registry import Registry, Transition


def apply_event(registry: Registry, event: Event, now: float) -> Transition:
    """The registry after `event` at `now`; the one command it may give is to fence a worker."""
    match event:
        case Joined():
            return _join(registry, event)
        case Lost():
            return _lose(registry, event), []
        case Wanted():
            # A suspension ends with the next plan; what is complete stays complete.
            reopens = event.workers and registry.closed is not Result.COMPLETE
            closed = None if reopens else registry.closed
            return replace(registry, desired=event.workers, closed=closed), []
        case Tick():
            return registry, []
        case Collected():
            return replace(registry, collected=registry.collecting == event.ident), []
        case Warm() | Began() | Stopped() | Halted() | Leaving():
            member = registry.members.get(event.ident)
            return (registry if member is None else _report(registry, member, event, now)), []
        case _:
            assert_never(event)


def _join(registry: Registry, event: Joined) -> Transition:
    member = event.member
    if member.progress >= 0 and _is_given_up(registry, member.address.member_id):
        return registry, [Fence(to=member.address.member_id)]
    numbers = [v.number for v in (member.view, member.announced) if v is not None]
    registry = replace(registry, number=max([registry.number, *numbers]))
    registry = registry.put(member)
    if event.view is not None and member.progress >= 0:
        registry = _in_force(registry, event.view)
    return registry, []


def _is_given_up(registry: Registry, ident: str) -> bool:
    """Whether training has gone on, or is about to, without the state that `ident` holds."""
    view, pending = registry.view, registry.pending
    if view is None or registry.learning_until is not None:
        return False
    is_mended = pending is not None and pending.after is None
    seated = () if is_mended else view.member_ids
    return ident not in (*seated, *(pending.member_ids if pending is not None else ()))


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
            return registry.put(replace(member, ready_at=now))
        case Leaving():
            return registry.put(replace(member, leaving=True))
        case Began():
            begun = replace(
                member, view=event.view.id, progress=event.progress, stopped=False, digest=""
            )
            return _settle_pending(_in_force(registry.put(begun), event.view))
        case Stopped():
            if event.heard != member.announced:
                return registry  # Sent before it heard of the newest view: it will say so again.
            stopped = replace(member, stopped=True, asked=False, digest=event.digest)
            return registry.put(replace(stopped, view=event.view, progress=event.progress))
        case Halted():
            halted = replace(member, halted=event.result, asked=False, digest=event.digest)
            return registry.put(replace(halted, progress=event.progress))
        case _:
            assert_never(event)


def _in_force(registry: Registry, view: View) -> Registry:
    if registry.view is not None and view.id <= registry.view.id:
        return registry
    number = max(registry.number, view.id.number)
    return replace(registry, view=view, number=number)


def _settle_pending(registry: Registry) -> Registry:
    pending = registry.pending
    if pending is None:
        return registry
    seated = [registry.members.get(ident) for ident in pending.member_ids]
    done = all(m is not None and m.view == pending.id and m.progress >= 0 for m in seated)
    return replace(registry, pending=None) if done else registry
