"""What one operator process knows of a job beyond the cluster cache, in one part for each owner.

All of it can be rebuilt: assignments are in the statuses, reports come with the next scrape, and a
Plan that is sent twice is the same Plan.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from trainyard.api.jobs import Assignment, Job
from trainyard.api.pods import Pod
from trainyard.api.reasons import Reason
from trainyard.api.refusals import Refusal
from trainyard.api.report import NO_CONTACT, Contact, CoordinatorReport
from trainyard.cluster.issuance import Issuance
from trainyard.lifecycle.pod_warnings import PodWarning, with_warning
from trainyard.lifecycle.timeouts import Timeouts
from trainyard.reconcile.slowstart import Refusals
from trainyard.render.events import EventSpec
from trainyard.render.trainer_config import AnyPlan, with_generation
from trainyard.scheduling.assignment import (
    apply_decision,
    apply_report,
    back_off,
    forget_failed_starts,
    release,
)
from trainyard.scheduling.decision import Decision


class Clock(Protocol):
    """The source of the present time; injected, so that tests control it."""

    def __call__(self) -> datetime:
        """The present moment, in UTC."""
        ...


@dataclass(slots=True)
class AssignmentState:
    """The assignment in force; only these methods replace it."""

    value: Assignment
    nodes: tuple[str, ...] = ()
    """Hostnames of the nodes that pods which are created now should prefer."""

    def decide(self, job: Job, decision: Decision, now: datetime) -> None:
        """Apply the scheduler's decision; the same object stays where nothing changes."""
        self.nodes = decision.nodes
        after = apply_decision(job, self.value, decision, now)
        if after != self.value:
            self.value = after

    def record_report(self, report: CoordinatorReport) -> None:
        """Add what a report measured, as the exchange does when it arrives."""
        self.value = apply_report(self.value, report)

    def release(self, reason: str, message: str) -> None:
        """Release all resources, as the reconcile of a job that needs them no more does.

        Of an assignment without any only the first reason stays; but a job that is suspended
        while it backs off is queued at once when it is resumed.
        """
        if self.value.desired or self.value.reason in ("", Reason.START_TIMED_OUT):
            self.value = release(self.value, reason, message)

    def back_off(self, timeouts: Timeouts, message: str, now: datetime) -> None:
        """Release the resources of a gang whose start failed, and back off."""
        first, longest = timeouts.start_backoff, timeouts.max_start_backoff
        self.value = back_off(self.value, first, longest, message, now)

    def forget_failed_starts(self) -> None:
        """Begin with the first back-off again, as the reconcile of a job that trains does."""
        self.value = forget_failed_starts(self.value)


class PlanDelivery(NamedTuple):
    """One Plan on its way to one coordinator."""

    pod_uid: str
    generation: int


NO_DELIVERY = PlanDelivery(pod_uid="", generation=0)


@dataclass(slots=True)
class CoordinatorLink:
    """What this process and the job's coordinator exchanged; written by `reconcile.exchange`."""

    plan_generation: int
    """The highest generation given to a Plan; at first the status's."""
    plan: AnyPlan | None = None
    """The Plan that the coordinator should follow; see `set_plan`."""
    attempted: PlanDelivery = NO_DELIVERY
    """The last delivery that was started, whatever became of it."""
    acknowledged: PlanDelivery = NO_DELIVERY
    """The last delivery that the coordinator acknowledged."""
    fencing_token: int = 0
    """A fencing token above the Lease's own that the coordinator insists on; 0 without one.
    Whoever deletes a Lease starts its tokens anew."""
    report: CoordinatorReport | None = None
    reported_by: str = ""
    """The uid of the coordinator's pod that `report` is from."""
    contact: Contact = NO_CONTACT
    """How the exchanges with the present coordinator went."""
    failures: int = 0
    """Failed exchanges in a row."""

    def set_plan(self, plan: AnyPlan | None) -> None:
        """Replace the Plan, as each reconcile does; new content gets the next generation."""
        if plan is not None and plan != self.plan:
            last = self.plan.generation if self.plan else 0
            self.plan_generation = max(self.plan_generation, self.acknowledged.generation, last) + 1
            plan = with_generation(plan, self.plan_generation)
        self.plan = plan


@dataclass(slots=True)
class ChildrenState:
    """What this process ensured of the leaf Secret; written by `reconcile.children`."""

    valid_until: datetime | None = None
    """When it must be ensured again; None before the first time."""
    issuance: Issuance | None = None
    """The certificates that it holds; None before the first time."""

    def expire(self, now: datetime) -> None:
        """Have them ensured again, as the reconcile of a job whose pods did not start does."""
        self.valid_until = self.valid_until and now


@dataclass(frozen=True, slots=True)
class RefusalsByKind:
    """What the API server refused of a job; written by its reconcile."""

    children: Refusals = field(default_factory=Refusals)
    """Of its Secret and its namespace's Service."""
    creations: Refusals = field(default_factory=Refusals)
    """Of the creation of its pods."""
    deletions: Refusals = field(default_factory=Refusals)
    """Of the deletion of its pods."""

    @property
    def latest(self) -> Refusals | None:
        """The first kind that is still refused."""
        kinds = (self.children, self.creations, self.deletions)
        return next((refusals for refusals in kinds if refusals.error is not None), None)

    @property
    def of_pods(self) -> Refusal | None:
        """Why pods do not exist; None where nothing is refused, or the server only has trouble."""
        for refusals in (self.children, self.creations):
            error, since = refusals.error, refusals.since
            if error is not None and since is not None and not error.is_transient:
                return Refusal(message=error.message, since=since)
        return None


@dataclass(slots=True)
class PodEventsState:
    """What the Events of the job's pods said; written by `reconcile.pod_events`."""

    warnings: dict[str, PodWarning] = field(default_factory=dict)
    """Why a pod does not start, by its uid."""
    listed_at: dict[str, datetime] = field(default_factory=dict)
    """When the Events of a pod were last listed, by its uid."""

    def retain(self, uids: Collection[str]) -> None:
        """Forget all pods but these."""
        for known in (self.warnings, self.listed_at):
            for uid in known.keys() - uids:
                del known[uid]

    def explain(self, pods: tuple[Pod, ...]) -> tuple[Pod, ...]:
        """The pods, those that do not start with what their Events say about it."""
        if not self.warnings:
            return pods
        return tuple(with_warning(pod, self.warnings.get(pod.uid)) for pod in pods)


@dataclass(slots=True)
class JobState:
    """What this process knows of one job.

    The parts have owners of their own; the plain fields are written by the job's reconcile, unless
    they say otherwise.
    """

    uid: str
    assignment: AssignmentState
    coordinator: CoordinatorLink
    children: ChildrenState = field(default_factory=ChildrenState)
    refusals: RefusalsByKind = field(default_factory=RefusalsByKind)
    scheduling_failure: str = ""
    """Why the scheduler leaves the job out, which writes it; empty while it decides on the job."""
    has_ended: bool = False
    """Resources were released for good; the status may not show it yet."""
    pending_events: list[EventSpec] = field(default_factory=list)
    """Events to record with the next status: the scheduler appends, the reconcile takes them."""
    status_written_at: datetime | None = None
    figures_at: datetime | None = None
    """When a status that differs only in figures may be written; None before one waits."""
    pod_events: PodEventsState = field(default_factory=PodEventsState)
    deleted_pods: frozenset[str] = frozenset()
    """The uids of the pods that this process deleted and that are still there."""
