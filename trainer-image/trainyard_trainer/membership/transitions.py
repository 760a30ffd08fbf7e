"""How events change the registry; the only decision made here is to fence a worker."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.membership.events import Disconnected, Event, StateStored, Tick
from trainyard_trainer.membership.messages import (
    BuildFailed,
    Exclude,
    Fence,
    Finished,
    Goodbye,
    Hello,
    LeaveRequest,
    MembershipMessage,
    Ready,
    Stopped,
    TaskRaised,
    Unfit,
    ViewEntered,
)
from trainyard_trainer.membership.registry import Member, Registry, Transition
from trainyard_trainer.membership.task_errors import record_error
from trainyard_trainer.membership.views import View


def apply_event(registry: Registry, event: Event, now: float) -> Transition:
    """The registry after `event` at `now`; the only command may be to fence a worker."""
    match event:
        case Disconnected():
            return _disconnect(registry, event.member_id), []
        case StateStored():
            stored = registry.collecting_from == event.member_id
            return replace(registry, collected=stored), []
        case Plan():
            return _follow(registry, event), []
        case Tick():
            return replace(registry, usual_step_seconds=event.usual_step_seconds), []
        case (member_id, message):
            return _receive(registry, member_id, message, now)
        case _:
            assert_never(event)


def _follow(registry: Registry, plan: Plan) -> Registry:
    """A plan that does not suspend ends a suspension; what is complete or failed stays so."""
    if plan.suspend:
        return replace(registry, desired=0)
    result = registry.result if registry.is_final else None
    return replace(registry, desired=plan.workers, result=result)


def _receive(
    registry: Registry, member_id: str, message: MembershipMessage, now: float
) -> Transition:
    if isinstance(message, Hello):
        return _join(registry, message, now)
    member = registry.members.get(member_id)
    if member is None:
        return registry, []
    match message:
        case Ready():
            return registry.put(replace(member, ready_at=now, layout=message.layout)), []
        case Unfit():
            return _leave_out(registry, member, message)
        case BuildFailed():
            return _give_up(registry, member, message), []
        case TaskRaised():
            return record_error(registry, member, message), []
        case LeaveRequest():
            return registry.put(replace(member, leaving=True)), []
        case ViewEntered():
            return _enter(registry, member, message), []
        case Stopped():
            return _stop(registry, member, message, now), []
        case Goodbye():
            return registry.put(replace(member, left_for=message.left_for)), []
        case Finished():
            finished = replace(
                member,
                finished=message.result,
                stop_requested=False,
                halted_at=now,
                progress=message.progress,
                digest=message.digest,
            )
            return registry.put(finished), []
        case _:
            assert_never(message)


def _join(registry: Registry, hello: Hello, now: float) -> Transition:
    member_id, view = hello.address.member_id, hello.state_view
    if hello.progress >= 0 and _is_given_up(registry, member_id):
        return registry, [(member_id, Fence())]
    member = Member(
        address=hello.address,
        ready_at=now if hello.ready else None,
        layout=hello.layout,
        state_view=view.id if view is not None else None,
        announced=hello.announced,
        progress=hello.progress,
        digest=hello.digest,
        stopped=hello.stopped,
        halted_at=now if hello.stopped or hello.finished is not None else None,
        leaving=hello.leaving,
        finished=hello.finished,
    )
    if member.stopped and member.progress < 0 and not _is_called_at_once(registry, member_id):
        member = replace(member, announced=None, stopped=False, halted_at=None)
    numbers = [v.number for v in (member.state_view, hello.announced) if v is not None]
    registry = replace(registry, last_number=max([registry.last_number, *numbers])).put(member)
    if view is not None and member.progress >= 0:
        registry = _in_force(registry, view)
    if hello.raised is not None:
        registry = record_error(registry, member, hello.raised)
    return registry, []


def _leave_out(registry: Registry, member: Member, unfit: Unfit) -> Transition:
    registry = _disconnect(registry, member.member_id)
    answer = Exclude(reason=unfit.reason, is_own_fault=registry.has_state)
    return registry, [(member.member_id, answer)]


def _is_given_up(registry: Registry, member_id: str) -> bool:
    """Whether training has gone on, or is about to, without the state of this worker."""
    view, pending = registry.view, registry.pending
    if view is None or registry.rejoin_deadline is not None:
        return False
    is_recovering = pending is not None and pending.after is None
    current = () if is_recovering else view.member_ids
    return member_id not in (*current, *(pending.member_ids if pending is not None else ()))


def _disconnect(registry: Registry, member_id: str) -> Registry:
    members = dict(registry.members)
    member, pending = members.pop(member_id, None), registry.pending
    if member is not None and pending is not None and pending.id == member.left_for:
        # It left by the switch, so the switch was decided: the old view is not broken by this.
        registry = _in_force(registry, pending)
    # A state that was being collected from it is to be collected again, from it or another.
    is_source = registry.collecting_from == member_id
    collecting_from = None if is_source else registry.collecting_from
    return replace(registry, members=members, collecting_from=collecting_from)


def _enter(registry: Registry, member: Member, message: ViewEntered) -> Registry:
    view = message.view
    entered = replace(
        member,
        state_view=view.id,
        progress=message.progress,
        stopped=False,
        halted_at=None,
        digest="",
    )
    return _complete_pending(_in_force(registry.put(entered), view))


def _stop(registry: Registry, member: Member, message: Stopped, now: float) -> Registry:
    if message.announced != member.announced:
        return registry  # Sent before it received the newest view: it will stop again.
    registry = _count_failure(registry, member)
    if message.progress < 0 and not _is_called_at_once(registry, member.member_id):
        # A joiner that stops stops nobody: it is as ready as it was before it was called.
        return registry.put(replace(member, announced=None, stop_requested=False))
    stopped = replace(
        member,
        stopped=True,
        stop_requested=False,
        halted_at=now if member.halted_at is None else member.halted_at,
        state_view=message.state_view,
        progress=message.progress,
        digest=message.digest,
    )
    return registry.put(stopped)


def _is_called_at_once(registry: Registry, member_id: str) -> bool:
    """Whether a member is in the view in force, or in a pending one without a predecessor."""
    view, pending = registry.view, registry.pending
    is_pending = pending is not None and pending.after is None and member_id in pending.member_ids
    return is_pending or (view is not None and member_id in view.member_ids)


def _give_up(registry: Registry, member: Member, message: BuildFailed) -> Registry:
    """Drop a planned view that a member of its predecessor cannot prepare: none will enter it."""
    pending = registry.pending
    if pending is None or pending.id != message.view or pending.after is None:
        return registry
    return replace(_count_failure(registry, member), pending=None)


def _count_failure(registry: Registry, member: Member) -> Registry:
    """Count a pending view that `member` reports first as broken, although nobody is missing."""
    pending, view = registry.pending, registry.view
    if pending is None or member.announced != pending.id or not registry.can_begin(pending):
        return registry
    current = view.member_ids if view is not None else ()
    pods = [registry.members[i].pod for i in pending.member_ids if i not in current]
    if pending.after is None or not pods:
        return replace(registry, failed_starts=registry.failed_starts + 1)
    failed = {pod: registry.failed_joins.get(pod, 0) + 1 for pod in pods}
    return replace(registry, failed_joins={**registry.failed_joins, **failed})


def _in_force(registry: Registry, view: View) -> Registry:
    if registry.view is not None and view.id <= registry.view.id:
        return registry
    last_number = max(registry.last_number, view.id.number)
    return replace(registry, view=view, last_number=last_number)


def _complete_pending(registry: Registry) -> Registry:
    """No view is pending any more once all its members have entered it."""
    pending = registry.pending
    if pending is None:
        return registry
    members = [registry.members.get(member_id) for member_id in pending.member_ids]
    done = all(m is not None and m.state_view == pending.id and m.progress >= 0 for m in members)
    if not done:
        return registry
    pods = {m.pod for m in members if m is not None}
    failed = {pod: count for pod, count in registry.failed_joins.items() if pod not in pods}
    return replace(registry, pending=None, failed_joins=failed, failed_starts=0)
