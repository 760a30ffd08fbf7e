"""One job as observed at one moment, and what follows from that alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from trainyard.api.conditions import Condition, ConditionType, is_true
from trainyard.api.jobs import Assignment, DistributedJob, FederatedJob, Job
from trainyard.api.names import MemberId
from trainyard.api.pods import Pod
from trainyard.api.podset import MEMBER_ROLES, JobPods
from trainyard.api.reasons import Reason
from trainyard.api.refusals import Refusal
from trainyard.api.report import NO_CONTACT, Contact, CoordinatorReport
from trainyard.api.status import Provisioning, ScalingStatus
from trainyard.api.validation import Rejection
from trainyard.lifecycle import messages
from trainyard.lifecycle.causes import NODE_REASONS, is_hopeless
from trainyard.lifecycle.desired import Phase
from trainyard.lifecycle.failures import FailureRecord
from trainyard.lifecycle.party_failures import have_parties_completed, record_party_failures
from trainyard.lifecycle.timeouts import Timeouts
from trainyard.lifecycle.worker_failures import TrainingWorkers, record_worker_failures
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import Result, TerminationMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A job, its pods and its coordinator's report, as they are now."""

    job: Job
    pods: JobPods
    assignment: Assignment
    """What the scheduler decided."""
    report: CoordinatorReport | None
    record: FailureRecord
    """All failures of the job, those observed for the first time included."""
    timeouts: Timeouts
    now: datetime
    contact: Contact = NO_CONTACT
    """How the exchanges with the coordinator went."""
    is_clock_trusted: bool = True
    """Whether `now` agrees with the API server's clock."""
    refusal: Refusal | None = None
    """What the last reconcile could not create."""
    name_taken: Rejection | None = None
    """Why the job may not begin under its name."""

    @classmethod
    def of(
        cls,
        job: Job,
        pods: JobPods,
        assignment: Assignment,
        report: CoordinatorReport | None,
        timeouts: Timeouts,
        now: datetime,
        contact: Contact = NO_CONTACT,
        *,
        is_clock_trusted: bool = True,
        refusal: Refusal | None = None,
        deleted: Collection[str] = (),
        name_taken: Rejection | None = None,
    ) -> Self:
        """The observation of a job, with its failures recorded.

        `deleted` are the uids of pods that the operator deleted itself.
        """
        return cls(
            job=job,
            pods=pods,
            assignment=assignment,
            report=report,
            record=_record(job, pods, report, contact, timeouts, now, deleted),
            timeouts=timeouts,
            now=now,
            contact=contact,
            is_clock_trusted=is_clock_trusted,
            refusal=refusal,
            name_taken=name_taken,
        )

    @property
    def rejection(self) -> Rejection | None:
        """Why the job cannot be started."""
        return self.job.rejection or self.name_taken

    # --- Members ---

    @property
    def desired_members(self) -> Sequence[MemberId]:
        """The workers or parties that the assignment gives pods to."""
        return self.assignment.members

    @property
    def running_members(self) -> list[MemberId]:
        """The workers or parties whose pod runs, or has ended just before the others."""
        running = [member for member, pod in self.pods.members.items() if pod.is_running]
        return [*running, *self.record.ending]

    @property
    def absent_members(self) -> list[MemberId]:
        """The desired workers or parties whose pod does not run."""
        running = frozenset(self.running_members)
        return [member for member in self.desired_members if member not in running]

    @property
    def missing_parties(self) -> list[MemberId]:
        """The desired parties that do not run, or are left out though they may be tried again."""
        missing = {*self.absent_members, *self.record.left_out}
        return [member for member in self.desired_members if member in missing]

    @property
    def lacks_pods(self) -> bool:
        """Whether the coordinator or a desired member has no live pod."""
        has_all = all(member in self.pods.members for member in self.desired_members)
        return self.pods.coordinator is None or not has_all

    @property
    def waiting_pod(self) -> Pod | None:
        """The first pod that cannot start, if possible one that waiting does not help.

        Its `waiting_reason` says why.
        """
        waiting = [pod for pod in self.pods.live if pod.waiting_reason]
        return next((pod for pod in waiting if is_hopeless(pod)), waiting[0] if waiting else None)

    # --- Running ---

    @property
    def running_phase(self) -> Phase:
        """Starting, running or rescaling, as the pods show it."""
        if self.is_running or self._trains_with_fewer:
            return Phase.RUNNING
        was_running = is_true(self.job.status.conditions, ConditionType.RUNNING)
        is_rescaling = self.job.can_rescale and was_running and self.running_members
        return Phase.RESCALING if is_rescaling else Phase.STARTING

    @property
    def is_running(self) -> bool:
        """Whether the coordinator runs, with all desired workers or a quorum of parties."""
        if self.job.can_rescale:
            return self._has_running_coordinator and not self.absent_members
        return self.is_training

    @property
    def is_training(self) -> bool:
        """Whether enough members run to train, though perhaps not all that are desired."""
        return self._has_running_coordinator and len(self.running_members) >= self.job.quorum

    @property
    def _trains_with_fewer(self) -> bool:
        """Whether enough workers train, and the others have had time enough to join them."""
        since = self.assignment.decision_time
        if not self.job.can_rescale or not self.is_training or since is None:
            return False
        return self.now >= since + self.timeouts.bind_timeout

    @property
    def is_provisioning(self) -> bool:
        """Whether the job was admitted on nodes that a pool has yet to add."""
        return self.assignment.reason == Reason.PROVISIONING and bool(self.assignment.desired)

    @property
    def _has_running_coordinator(self) -> bool:
        coordinator = self.pods.coordinator
        return coordinator is not None and coordinator.is_running

    @property
    def start_deadline(self) -> datetime | None:
        """Deadline by which an admitted job must start training; None while it trains.

        It restarts when the job loses its last worker or its quorum of parties. It is earlier for
        a start that waiting cannot bring about.
        """
        is_starting = self.running_phase is Phase.STARTING and not self.is_training
        if not is_starting or not self.assignment.decision_time:
            return None
        since = self.assignment.decision_time
        if (running := self.condition(ConditionType.RUNNING)) is not None:
            # Still True when the last worker has only just been lost.
            lost_at = running.last_transition_time if running.status == "False" else None
            since = max(since, lost_at or self.now)
        deadline = since + self._provision_timeout + self.timeouts.start_timeout
        blocked_since = self.start_blocked_since
        if blocked_since is None:
            return deadline
        return min(deadline, max(since, blocked_since) + self.timeouts.blocked_start_timeout)

    @property
    def _provision_timeout(self) -> timedelta:
        """What is added to the time for a start on nodes that did not exist."""
        match self.assignment:
            case ScalingStatus(provisioning=Provisioning(retry_time=None)):
                return self.timeouts.provision_timeout
            case _:
                return timedelta()

    @property
    def start_blocked_since(self) -> datetime | None:
        """Since when too few pods can start for the job to train; None while enough may."""
        since = self._blocked_since(self.pods.coordinator, is_shared=False)
        if since is not None:
            return since
        members = [self.pods.members.get(member) for member in self.desired_members]
        is_shared = self._has_blocked_worker()
        times = (self._blocked_since(pod, is_shared=is_shared) for pod in members)
        blocked = sorted(time for time in times if time is not None)
        spare = max(len(members) - self.job.quorum, 0)
        return blocked[spare] if len(blocked) > spare else None

    def _blocked_since(self, pod: Pod | None, *, is_shared: bool) -> datetime | None:
        """Since when waiting does not help a desired pod, which may not exist.

        `is_shared`: what blocks another worker blocks all of which nothing else is known.
        """
        if pod is None:
            return self.refusal.since if self.refusal else None
        is_silent = not pod.is_running and not pod.waiting_reason
        is_blocked = is_hopeless(pod) or (is_shared and is_silent)
        return pod.created_at if is_blocked else None

    def _has_blocked_worker(self) -> bool:
        """Whether waiting does not help a worker on any node: all are made from one template."""
        return self.job.can_rescale and any(
            is_hopeless(pod) and pod.waiting_reason not in NODE_REASONS
            for pod in self.pods.members.values()
        )

    # --- State ---

    @property
    def has_run(self) -> bool:
        """Whether there may be training state to save."""
        status = self.job.status
        return is_true(status.conditions, ConditionType.RUNNING) or bool(status.training)

    @property
    def has_progress(self) -> bool:
        """Whether anything was trained that could be lost."""
        report, training = self.report, self.job.status.training
        if report is not None:
            rounds = report.federation.round if report.federation else 0
            if report.step or rounds or report.checkpoint_step >= 0:
                return True
        return training is not None and training.progress > 0

    @property
    def must_keep_coordinator(self) -> bool:
        """Whether the coordinator's pod has the only copy of the state without the workers."""
        return not self.job.is_durable and self.pods.coordinator is not None and self.has_run

    @property
    def can_save(self) -> bool:
        """Whether there is state that is not saved yet, and members that may save it.

        The coordinator may be missing: one that failed meanwhile is replaced.
        """
        return bool(self.pods.members) and self.has_run and not self._has_saved

    @property
    def _has_saved(self) -> bool:
        """Whether the coordinator of this term has stored the state that only it holds.

        Workers that hold the state exit once they have saved it, and need no such report.
        """
        if self.job.state_role is not Role.COORDINATOR:
            return False
        if self.report is not None and self.report.outcome == Result.SUSPENDED:
            return self.report.term == self.pods.term
        ended = self.pods.ended(Result.SUSPENDED, Role.COORDINATOR)
        return any(pod.attempt == self.pods.term for pod, _ in ended)

    @property
    def save_deadline(self) -> datetime:
        """Deadline by which a job that is being suspended must have saved its state.

        A checkpoint is quick; a federation may take until the deadline of its round.
        """
        since, suspended = self.now, self.condition(ConditionType.SUSPENDED)
        if suspended is not None and suspended.status == "Unknown":
            since = suspended.last_transition_time or self.now
        return since + self.timeouts.suspend_timeout + self.job.round_deadline

    @property
    def is_completing(self) -> bool:
        """Whether members report the end of the training, and only the result is to be stored.

        A worker's word is enough, as all train in lockstep; of the parties most have to agree,
        unless the aggregator does.
        """
        if not self.pods.ended(Result.COMPLETE, *MEMBER_ROLES):
            return False
        match self.job:
            case FederatedJob() as job:
                return is_over(self.report) or have_parties_completed(job, self.pods)
            case _:
                return True

    @property
    def final_message(self) -> TerminationMessage | None:
        """What training reports once it is complete and its result is safe; None before."""
        by_coordinator = self.pods.ended(Result.COMPLETE, Role.COORDINATOR)
        if by_coordinator:
            return by_coordinator[-1][1]
        if self.job.is_durable:
            return None  # the coordinator exits once the volume has everything
        report = self.report
        if report is not None and is_over(report):
            return TerminationMessage(
                result=Result.COMPLETE,
                step=report.federation.round if report.federation else report.step,
                samples=report.samples,
                metrics=dict(report.evaluation),
                error=self._divergence(report.non_finite_steps),
            )
        if self.job.state_role is Role.COORDINATOR and self.pods.coordinator is not None:
            return None  # a party knows its own metrics only; the aggregator has yet to report
        if not self.is_completing:
            return None
        by_member = self.pods.ended(Result.COMPLETE, *MEMBER_ROLES)
        return max((message for _, message in by_member), key=_metric_count, default=None)

    def _divergence(self, non_finite_steps: int) -> str:
        """What members say of a model that is not finite, else what its metrics show."""
        by_member = self.pods.ended(Result.COMPLETE, *MEMBER_ROLES)
        by_metrics = messages.non_finite_loss(non_finite_steps) if non_finite_steps else ""
        return next((message.error for _, message in by_member if message.error), by_metrics)

    # --- Run policy ---

    def is_past(self, deadline: datetime | None) -> bool:
        """Whether it is certain that a deadline is over after which nothing can be undone."""
        return deadline is not None and self.is_clock_trusted and self.now >= deadline

    @property
    def active_deadline(self) -> datetime | None:
        """When `activeDeadlineSeconds` is over; None without one, or before the start."""
        seconds, start = self.job.spec.active_deadline_seconds, self.job.status.start_time
        return None if seconds is None or not start else start + timedelta(seconds=seconds)

    def expiry(self, ended_at: datetime) -> datetime | None:
        """When a job that ended at this time is deleted; None without a time to live."""
        ttl = self.job.spec.ttl_seconds_after_finished
        return None if ttl is None else ended_at + timedelta(seconds=ttl)

    def condition(self, type_: ConditionType) -> Condition | None:
        """The condition as the status has it."""
        return next((c for c in self.job.status.conditions if c.type == type_), None)


def is_over(report: CoordinatorReport | None) -> bool:
    """Whether the coordinator reports the end of the training."""
    return report is not None and report.outcome == Result.COMPLETE


def _record(
    job: Job,
    pods: JobPods,
    report: CoordinatorReport | None,
    contact: Contact,
    timeouts: Timeouts,
    now: datetime,
    deleted: Collection[str],
) -> FailureRecord:
    match job:
        case DistributedJob():
            training = TrainingWorkers.of(job, report, contact)
            return record_worker_failures(job, pods, timeouts, now, deleted, training)
        case FederatedJob():
            over = is_over(report)
            return record_party_failures(job, pods, timeouts, now, deleted, is_over=over)


def _metric_count(message: TerminationMessage) -> int:
    return len(message.metrics)
