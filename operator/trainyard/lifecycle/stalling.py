"""Whether a job that runs has stopped making steps."""

from __future__ import annotations

from datetime import timedelta

from trainyard.api.conditions import ConditionType
from trainyard.api.report import CoordinatorReport
from trainyard.lifecycle import messages
from trainyard.lifecycle.observation import Observation

USUAL_STEPS = 10
"""A job whose steps are long is stalled only after so many of them without one."""


def stalled_message(observed: Observation) -> str:
    """Since when no step was made for too long; empty while that is not known.

    It compares with the time of the report, not with now: without answers nothing is known.
    """
    report = observed.report
    if report is None or report.federation is not None or report.outcome:
        return ""  # the rounds of a federation have deadlines of their own
    coordinator, running = observed.pods.coordinator, observed.condition(ConditionType.RUNNING)
    is_running = running is not None and running.status == "True"
    if coordinator is None or report.term != observed.pods.term or not is_running:
        return ""
    begun = (running.last_transition_time, report.last_step_at) if running else ()
    since = max((coordinator.created_at, *(time for time in begun if time is not None)))
    if report.at - since < _limit(observed, report):
        return ""
    return messages.stalled(since, report.usual_step_seconds)


def _limit(observed: Observation, report: CoordinatorReport) -> timedelta:
    usual = timedelta(seconds=report.usual_step_seconds or 0.0)
    return max(observed.timeouts.stalled_after, USUAL_STEPS * usual)
