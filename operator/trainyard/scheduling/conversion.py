"""From a job, its assignment and its report to its request."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from trainyard.api.cluster import Toleration
from trainyard.api.conditions import RESUMED, ConditionType, is_true
from trainyard.api.durations import parse_duration
from trainyard.api.federation import AdmissionStatus, FederatedJobSpec, PartySpec
from trainyard.api.jobs import (
    Assignment,
    DistributedJob,
    FederatedJob,
    Job,
)
from trainyard.api.reasons import Reason
from trainyard.api.refusals import Refusal
from trainyard.api.report import CoordinatorReport
from trainyard.api.resources import (
    COORDINATOR_RESOURCES,
    pod_requests,
    taint_keys,
    with_accelerators,
)
from trainyard.api.spec import DistributedJobSpec
from trainyard.api.status import ScalingStatus
from trainyard.scheduling.priority import DEFAULT_CLASS, may_use
from trainyard.scheduling.request import JobRequest, PodRequest, UnfitWorker
from trainyard.scheduling.shapes import PodShape

_JUST_NOW: Final = datetime.max.replace(tzinfo=UTC)
"""Behind all others, until the status says when."""
_NO_LIMITS: Final[Mapping[str, Collection[str]]] = MappingProxyType({})


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
    *,
    allowed: Mapping[str, Collection[str]] = _NO_LIMITS,
    refusal: Refusal | None = None,
) -> JobRequest:
    """The job's request to `allocate`; to be called only if `wants_gpus`.

    `priorities` are the values of the cluster's priority classes by name, `allowed` the namespaces
    that may use a class, `refusal` why the API server does not create its pods.
    """
    match job:
        case DistributedJob():
            assert isinstance(assignment, ScalingStatus)  # noqa: S101 - of this kind of job
            request = _workers_request(job, assignment, report)
        case FederatedJob():
            assert isinstance(assignment, AdmissionStatus)  # noqa: S101 - of this kind of job
            request = _parties_request(job, assignment)
    request = replace(request, refusal=refusal, resumed_at=_resumed_at(job))
    name = job.spec.priority_class_name
    if not may_use(job.key.namespace, name, allowed):
        return replace(request, priority=priorities.get(DEFAULT_CLASS, 0), refused_class=name)
    return replace(request, priority=priorities.get(name, 0))


def _parties_request(job: FederatedJob, admission: AdmissionStatus) -> JobRequest:
    parties = job.spec.local_parties
    return JobRequest(
        key=job.key,
        created_at=job.created_at,
        gang=tuple(_pod_request(job.spec, party) for party in parties),
        shape=PodShape(requests=()),
        coordinator=_coordinator_shape(job),
        min_workers=len(parties),
        max_workers=len(parties),
        start_workers=len(parties),
        policy="Manual",
        admitted_workers=len(admission.parties),
        admitted_parties=admission.assigned,
        admitted_at=admission.decision_time if admission.parties else None,
        backoff_until=_backoff_until(admission),
        last_failed_start=admission.last_failed_start_time,
        decision_time=admission.decision_time,
    )


def _pod_request(spec: FederatedJobSpec, party: PartySpec) -> PodRequest:
    shape = _shape(
        with_accelerators(party.resources, party.gpu_resource, party.gpus),
        first=party.gpu_resource,
        node_selector={**spec.template.node_selector, **party.node_selector},
        tolerations=[*spec.template.tolerations, *party.tolerations],
    )
    return PodRequest(party=party.name, shape=shape)


def _workers_request(
    job: DistributedJob, scaling: ScalingStatus, report: CoordinatorReport | None
) -> JobRequest:
    spec = job.spec
    return JobRequest(
        key=job.key,
        created_at=job.created_at,
        shape=worker_shape(spec),
        coordinator=_coordinator_shape(job),
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
        last_failed_start=scaling.last_failed_start_time,
        mounts_claims=_mounts_claims(spec),
        not_placed=scaling.not_placed,
        provisioning=scaling.provisioning,
        unfit=tuple(
            UnfitWorker(index=f.index, retry_at=f.retry_time, message=f.message)
            for f in job.status.worker_failures
            if f.left_out
        ),
        left_out=tuple(scaling.left_out_workers),
        decision_time=scaling.decision_time,
        proven_workers=scaling.proven,
        measured_at=report.at if report else None,
        profile=tuple(scaling.profile),
        history=tuple(scaling.history),
    )


def _mounts_claims(spec: DistributedJobSpec) -> bool:
    sources = {source for volume in spec.workers.template.volumes for source in volume}
    is_mounted = not sources.isdisjoint(("persistentVolumeClaim", "ephemeral"))
    return is_mounted or bool(spec.state.claim_name)


def worker_shape(spec: DistributedJobSpec) -> PodShape:
    """What each worker requests of a node, all that its `resources` name included."""
    workers = spec.workers
    return _shape(
        with_accelerators(workers.resources, workers.gpu_resource, workers.gpus),
        first=workers.gpu_resource,
        node_selector=workers.template.node_selector,
        tolerations=workers.template.tolerations,
    )


def _coordinator_shape(job: Job) -> PodShape:
    resources = job.spec.coordinator.resources or COORDINATOR_RESOURCES
    template = job.spec.coordinator.template_with(job.spec.template)
    return _shape(resources, node_selector=template.node_selector, tolerations=template.tolerations)


def _shape(
    resources: Mapping[str, Any],
    *,
    first: str = "",
    node_selector: Mapping[str, str] | None = None,
    tolerations: Iterable[Mapping[str, Any]],
) -> PodShape:
    """The shape of a pod with one container: tolerations of its accelerators' taints are added."""
    requests = pod_requests({"containers": [{"resources": resources}]})
    return PodShape.of(
        requests,
        first=first,
        node_selector=node_selector,
        tolerations=[
            *map(_toleration, tolerations),
            *(Toleration(key=key, operator="Exists") for key in taint_keys(requests)),
        ],
    )


def _toleration(toleration: Mapping[str, Any]) -> Toleration:
    return Toleration(
        key=toleration.get("key", ""),
        operator=toleration.get("operator", "Equal"),
        value=toleration.get("value", ""),
        effect=toleration.get("effect", ""),
    )


def _is_steady(
    job: DistributedJob, scaling: ScalingStatus, report: CoordinatorReport | None
) -> bool:
    return (
        report is not None
        and is_true(job.status.conditions, ConditionType.RUNNING)
        and report.active_workers == scaling.desired
        and not report.is_mismatched
    )


def _resumed_at(job: Job) -> datetime | None:
    """When the job's last suspension ended; at the end of time while the status lags behind."""
    suspended = next((c for c in job.status.conditions if c.type == ConditionType.SUSPENDED), None)
    if suspended is None:
        return None
    if suspended.status != "False":
        return _JUST_NOW
    return suspended.last_transition_time if suspended.reason == RESUMED else None


def _backoff_until(assignment: Assignment) -> datetime | None:
    return assignment.cooldown_end_time if assignment.reason == Reason.START_TIMED_OUT else None
