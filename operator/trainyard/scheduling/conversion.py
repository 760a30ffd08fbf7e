"""From a job, its assignment and its report to its request."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from trainyard.api.cluster import Toleration
from trainyard.api.conditions import ConditionType, is_true
from trainyard.api.durations import parse_duration
from trainyard.api.federation import AdmissionStatus, FederatedJobSpec, PartySpec
from trainyard.api.jobs import (
    Assignment,
    DistributedJob,
    FederatedJob,
    Job,
)
from trainyard.api.reasons import Reason
from trainyard.api.report import CoordinatorReport
from trainyard.api.spec import DistributedJobSpec
from trainyard.api.status import ScalingStatus
from trainyard.scheduling.request import JobRequest, PodRequest


def wants_gpus(job: Job) -> bool:
    """Whether the scheduler decides for this job."""
    return (
        job.is_ours
        and not job.is_deleting
        and not job.spec.suspend
        and not job.is_finished
        and job.rejection is None
    )


def request_of(
    job: Job,
    assignment: Assignment,
    report: CoordinatorReport | None,
    priorities: Mapping[str, int],
) -> JobRequest:
    """The job's request to `allocate`; to be called only if `wants_gpus`.

    `priorities` are the values of the cluster's priority classes by name.
    """
    match job:
        case DistributedJob():
            assert isinstance(assignment, ScalingStatus)  # noqa: S101 - of this kind of job
            return _workers_request(job, assignment, report, priorities)
        case FederatedJob():
            assert isinstance(assignment, AdmissionStatus)  # noqa: S101 - of this kind of job
            return _parties_request(job, assignment, priorities)


def _parties_request(
    job: FederatedJob, admission: AdmissionStatus, priorities: Mapping[str, int]
) -> JobRequest:
    parties = job.spec.local_parties
    return JobRequest(
        key=job.key,
        created_at=job.created_at,
        priority=priorities.get(job.spec.priority_class_name, 0),
        gang=tuple(_pod_request(job.spec, party) for party in parties),
        gpus_per_worker=0,
        min_workers=len(parties),
        max_workers=len(parties),
        start_workers=len(parties),
        policy="Manual",
        admitted_workers=len(admission.parties),
        admitted_parties=admission.assigned,
        admitted_at=admission.decision_time if admission.parties else None,
        backoff_until=_backoff_until(admission),
        decision_time=admission.decision_time,
    )


def _pod_request(spec: FederatedJobSpec, party: PartySpec) -> PodRequest:
    return PodRequest(
        party=party.name,
        resource=party.gpu_resource,
        gpus=party.gpus,
        node_selector={**spec.template.node_selector, **party.node_selector},
        tolerations=_tolerations(
            [*spec.template.tolerations, *party.tolerations], party.gpus, party.gpu_resource
        ),
    )


def _workers_request(
    job: DistributedJob,
    scaling: ScalingStatus,
    report: CoordinatorReport | None,
    priorities: Mapping[str, int],
) -> JobRequest:
    spec = job.spec
    return JobRequest(
        key=job.key,
        created_at=job.created_at,
        priority=priorities.get(spec.priority_class_name, 0),
        resource=spec.workers.gpu_resource,
        gpus_per_worker=spec.workers.gpus,
        node_selector=spec.workers.template.node_selector,
        tolerations=tolerations_of(spec),
        min_workers=spec.workers.min,
        max_workers=spec.workers.max,
        start_workers=spec.workers.replicas,
        policy=spec.scaling.policy,
        mode=spec.scaling.mode,
        min_gain=spec.scaling.min_gain,
        cooldown=parse_duration(spec.scaling.cooldown),
        max_changes_per_hour=spec.scaling.max_changes_per_hour,
        admitted_workers=scaling.desired,
        admitted_at=scaling.decision_time if scaling.desired else None,
        is_running=_is_steady(job, scaling, report),
        backoff_until=_backoff_until(scaling),
        decision_time=scaling.decision_time,
        measured_at=report.at if report else None,
        profile=tuple(scaling.profile),
        history=tuple(scaling.history),
    )


def tolerations_of(spec: DistributedJobSpec) -> tuple[Toleration, ...]:
    """Tolerations of workers: the template's, and one of the accelerator's own taint."""
    workers = spec.workers
    return _tolerations(workers.template.tolerations, workers.gpus, workers.gpu_resource)


def _tolerations(
    template: list[dict[str, Any]], gpus: int, gpu_resource: str
) -> tuple[Toleration, ...]:
    tolerations = [
        Toleration(
            key=t.get("key", ""),
            operator=t.get("operator", "Equal"),
            value=t.get("value", ""),
            effect=t.get("effect", ""),
        )
        for t in template
    ]
    if gpus:
        tolerations.append(Toleration(key=gpu_resource, operator="Exists"))
    return tuple(tolerations)


def _is_steady(
    job: DistributedJob, scaling: ScalingStatus, report: CoordinatorReport | None
) -> bool:
    return (
        report is not None
        and is_true(job.status.conditions, ConditionType.RUNNING)
        and report.active_workers == scaling.desired
        and not report.is_mismatched
    )


def _backoff_until(assignment: Assignment) -> datetime | None:
    return assignment.cooldown_end_time if assignment.reason == Reason.START_TIMED_OUT else None
