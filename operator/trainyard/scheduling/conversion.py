"""From a job and its pods to what it asks of the scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from trainyard.api.cluster import Toleration
from trainyard.api.conditions import Type, is_true
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
from trainyard.api.validation import validate
from trainyard.scheduling.request import JobRequest, PastChange, PodRequest, Throughput


def wants_gpus(job: Job) -> bool:
    """Whether the scheduler has anything to decide for this job."""
    return (
        job.is_ours
        and not job.is_deleting
        and not job.spec.suspend
        and not job.is_finished
        and not validate(job.spec)
    )


def request_of(
    job: Job, held: Assignment, report: CoordinatorReport | None, priorities: Mapping[str, int]
) -> JobRequest:
    """The job's side of `allocate`; call only when `wants_gpus`."""
    match job:
        case DistributedJob():
            assert isinstance(held, ScalingStatus)  # noqa: S101 - of this kind of job
            return _workers_request(job, held, report, priorities)
        case FederatedJob():
            assert isinstance(held, AdmissionStatus)  # noqa: S101 - of this kind of job
            return _parties_request(job, held, priorities)


def _parties_request(
    job: FederatedJob, held: AdmissionStatus, priorities: Mapping[str, int]
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
        admitted_workers=len(held.parties),
        admitted_parties=held.assigned,
        admitted_at=held.decided_at if held.parties else None,
        refused_until=_refused_until(held),
        decided_at=held.decided_at,
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
        admitted_at=scaling.decided_at if scaling.desired else None,
        is_running=_is_steady(job, scaling, report),
        refused_until=_refused_until(scaling),
        decided_at=scaling.decided_at,
        measured_at=report.at if report else None,
        profile=tuple(
            Throughput(
                nodes=m.nodes,
                workers=m.workers,
                local_batch=m.local_batch,
                samples_per_second=m.samples_per_second,
                steps=m.steps,
            )
            for m in scaling.profile
        ),
        history=tuple(
            PastChange(
                from_workers=c.from_,
                to_workers=c.to,
                decided_at=c.decided_at,
                expected_speedup=c.expected_speedup,
                measured_speedup=c.measured_speedup,
            )
            for c in scaling.history
        ),
    )


def tolerations_of(spec: DistributedJobSpec) -> tuple[Toleration, ...]:
    """What workers tolerate: the accelerator's own taint, and what the template adds."""
    workers = spec.workers
    return _tolerations(workers.template.tolerations, workers.gpus, workers.gpu_resource)


def _tolerations(
    asked: list[dict[str, Any]], gpus: int, gpu_resource: str
) -> tuple[Toleration, ...]:
    found = [
        Toleration(
            key=t.get("key", ""),
            operator=t.get("operator", "Equal"),
            value=t.get("value", ""),
            effect=t.get("effect", ""),
        )
        for t in asked
    ]
    if gpus:
        found.append(Toleration(key=gpu_resource, operator="Exists"))
    return tuple(found)


def _is_steady(
    job: DistributedJob, scaling: ScalingStatus, report: CoordinatorReport | None
) -> bool:
    return (
        report is not None
        and is_true(job.status.conditions, Type.RUNNING)
        and report.active_workers == scaling.desired
        and not report.is_mismatched
    )


def _refused_until(scaling: Assignment) -> datetime | None:
    return scaling.cooldown_until if scaling.reason == Reason.START_TIMED_OUT else None
