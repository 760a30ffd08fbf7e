"""Whether operator and members reach the coordinator, and whether another one should take over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from trainyard.api.conditions import Condition, ConditionType
from trainyard.api.podset import JobPods
from trainyard.api.report import Contact, CoordinatorReport
from trainyard.lifecycle import messages
from trainyard.lifecycle.desired import earliest
from trainyard.lifecycle.observation import Observation
from trainyard.lifecycle.timeouts import Timeouts
from trainyard_trainer.contract.env import Role

NO_ANSWER = "NoAnswer"
"""The operator gets no metrics from it."""
NO_MEMBERS = "NoMembers"
"""Members run, and none is connected to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What is wrong with the connections of a coordinator."""

    reason: str
    since: datetime
    is_observed: bool
    """Whether this very coordinator has it; otherwise the one that it replaces had it."""


# --- What exchanges record ---


def failed(contact: Contact, now: datetime) -> Contact:
    """The contact after an exchange without an answer."""
    return replace(contact, failing_since=contact.failing_since or now)


def answered(contact: Contact, report: CoordinatorReport, pods: JobPods) -> Contact:
    """The contact after a report, which came while the job had these pods."""
    running = frozenset(pod.uid for pod in pods.members.values() if pod.is_running)
    without_since = contact.without_members_since or report.at
    is_complete = 0 < len(running) <= report.active_workers
    present = {pod.uid for pod in (*pods.live, *pods.finished)}
    return replace(
        contact,
        has_answered=True,
        failing_since=None,
        without_members_since=without_since if running and report.lacks_members else None,
        trained=contact.trained & present | (running if is_complete else frozenset()),
    )


def is_overdue(contact: Contact, timeouts: Timeouts, now: datetime) -> bool:
    """Whether it has not answered for so long that its condition is False."""
    since = contact.failing_since
    return since is not None and now >= since + timeouts.unreachable_grace


# --- What follows ---


def trouble_of(observed: Observation) -> Trouble | None:
    """What is wrong, and since when; None if nothing is or nothing is known yet."""
    before = observed.condition(ConditionType.COORDINATOR_REACHABLE)
    past = before.last_transition_time if before and before.status == "False" else None
    contact = observed.contact
    if not _is_known(observed):
        found = None
    elif contact.failing_since is not None:
        found = Trouble(reason=NO_ANSWER, since=contact.failing_since, is_observed=True)
    elif contact.without_members_since is not None:
        found = Trouble(reason=NO_MEMBERS, since=contact.without_members_since, is_observed=True)
    else:
        return None
    if before is None or past is None:
        return found
    if found is None or (found.reason != before.reason and not _is_lasting(observed, found)):
        return Trouble(reason=before.reason, since=past, is_observed=False)
    return replace(found, since=min(found.since, past))


def reachable_condition(observed: Observation) -> Condition:
    """Whether operator and members reach the coordinator; as it was while that is not known."""
    type_, trouble = ConditionType.COORDINATOR_REACHABLE, trouble_of(observed)
    before = observed.condition(type_)
    if trouble is not None and _is_lasting(observed, trouble):
        return Condition(
            type=type_,
            status="False",
            reason=trouble.reason,
            message=unreachable_message(observed, trouble),
        )
    if trouble is None and _is_known(observed):
        return Condition(type=type_, status="True", reason="Answers")
    if before is not None and before.status != "Unknown":
        return before
    return Condition(type=type_, status="Unknown", reason="Connecting")


def unreachable_message(observed: Observation, trouble: Trouble) -> str:
    """What is wrong, what helps, and what the operator does about it."""
    role = observed.job.member_role
    if not _is_first(observed, trouble):
        remedy = messages.REPLACED_ONCE
    elif not _is_safe_to_replace(observed):
        remedy = messages.NOT_REPLACED
    else:
        remedy = messages.replaced_after(observed.timeouts.replace_timeout)
    if trouble.reason == NO_ANSWER:
        return messages.no_answer(remedy)
    return messages.no_members(role, remedy)


def is_degraded(observed: Observation, trouble: Trouble) -> bool:
    """Whether the trouble has lasted for so long that people should know."""
    return _has_lasted(observed, trouble, observed.timeouts.unreachable_timeout)


def must_replace(observed: Observation) -> bool:
    """Whether another coordinator should take over; once, until one was reachable again.

    Terms make it safe: what is cut off from the operator may go on, and is fenced.
    """
    trouble = trouble_of(observed)
    return (
        trouble is not None
        and trouble.is_observed
        and _has_lasted(observed, trouble, observed.timeouts.replace_timeout)
        and _is_first(observed, trouble)
        and _is_safe_to_replace(observed)
    )


def next_check(observed: Observation) -> datetime | None:
    """When the rules above say something else if nothing changes; None if they never will."""
    trouble, timeouts = trouble_of(observed), observed.timeouts
    if trouble is None:
        return None
    waits = (timeouts.unreachable_grace, timeouts.unreachable_timeout, timeouts.replace_timeout)
    begun = (trouble.since, observed.contact.failing_since, observed.contact.without_members_since)
    times = (since + wait for since in begun if since is not None for wait in waits)
    return earliest(*(time for time in times if time > observed.now))


def _is_lasting(observed: Observation, trouble: Trouble) -> bool:
    """Whether it has lasted for longer than a start or one lost connection takes."""
    return _has_lasted(observed, trouble, observed.timeouts.unreachable_grace)


def _has_lasted(observed: Observation, trouble: Trouble, time: timedelta) -> bool:
    return observed.now >= trouble.since + time


def _is_known(observed: Observation) -> bool:
    """Whether this operator has tried to reach the present coordinator."""
    pod = observed.pods.coordinator
    return pod is not None and pod.is_running and observed.contact.pod_uid == pod.uid


def _is_first(observed: Observation, trouble: Trouble) -> bool:
    """Whether the trouble began with this coordinator, not with one that it replaced."""
    pod = observed.pods.coordinator
    return pod is not None and pod.created_at <= trouble.since


def _is_safe_to_replace(observed: Observation) -> bool:
    """Whether the state survives the coordinator: by a claim or in a worker, or there is none."""
    if observed.job.is_durable or not observed.has_progress:
        return True
    if observed.job.state_role is Role.COORDINATOR:
        return False
    trained, pods = observed.contact.trained, observed.pods.members.values()
    return any(pod.is_running and pod.uid in trained for pod in pods)
