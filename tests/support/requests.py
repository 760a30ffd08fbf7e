"""Jobs' requests, clusters and decisions for the tests of the scheduler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from trainyard.api.cluster import Cluster, Node, PodInfo, Toleration
from trainyard.api.names import Key
from trainyard.api.reasons import Reason
from trainyard.api.status import Change, Measurement
from trainyard.scheduling.allocation import allocate
from trainyard.scheduling.basis import AtMaximum
from trainyard.scheduling.capacity import Availability
from trainyard.scheduling.decision import Allocation, Decision
from trainyard.scheduling.facts import PodsRequest, SizeKept, WorkersWaiting
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.shapes import PodShape
from trainyard_trainer.contract.env import Role

GPU = "nvidia.com/gpu"
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


def key(name: str) -> Key:
    return Key("DistributedJob", "team", name)


def measurement(workers: int, speed: float, steps: int = 100, local_batch: int = 64) -> Measurement:
    return Measurement(
        nodes=1, workers=workers, local_batch=local_batch, samples_per_second=speed, steps=steps
    )


def shape(
    gpus: int = 1,
    resource: str = GPU,
    node_selector: Mapping[str, str] | None = None,
    tolerations: Iterable[Toleration] = (),
    **requests: Any,
) -> PodShape:
    """A pod with GPUs; without any it requests one core."""
    accelerators = {resource: gpus} if gpus else {}
    amounts = {**accelerators, **requests} or {"cpu": 1000}
    return PodShape.of(
        amounts, first=resource, node_selector=node_selector, tolerations=tolerations
    )


def with_shape(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request, with the shape made from those that describe a worker."""
    if "shape" in fields:
        return fields
    described = {
        argument: fields[name]
        for name, argument in {
            "gpus_per_worker": "gpus",
            "resource": "resource",
            "node_selector": "node_selector",
            "tolerations": "tolerations",
        }.items()
        if name in fields
    }
    others = {
        name: value
        for name, value in fields.items()
        if name not in ("gpus_per_worker", "resource", "node_selector", "tolerations")
    }
    return {"shape": shape(**described), **others}


def job(
    name: str, admitted: int = 0, *, speeds: dict[int, float] | None = None, **fields: Any
) -> JobRequest:
    """A request for 1-GPU workers: waiting, or with `admitted` workers for five hours."""
    long_ago = NOW - timedelta(hours=5)
    defaults: dict[str, Any] = {"max_workers": 8, "start_workers": max(1, admitted)}
    if admitted:
        defaults |= {"admitted_at": long_ago, "decision_time": long_ago, "is_running": True}
        defaults |= {"measured_at": NOW}
    profile = tuple(measurement(size, speed) for size, speed in (speeds or {}).items())
    defaults |= {"created_at": long_ago, "profile": profile, **fields}
    return JobRequest(key=key(name), admitted_workers=admitted, **with_shape(defaults))


def pods(name: str, node: str, count: int, gpus: int = 1) -> tuple[PodInfo, ...]:
    return tuple(
        PodInfo(
            namespace="team",
            name=f"{name}-{n}",
            requests={GPU: gpus} if gpus else {"cpu": 1000},
            node=node,
            job=key(name),
            role=Role.WORKER,
        )
        for n in range(count)
    )


def cluster(*gpus: int, bound: Iterable[PodInfo] = ()) -> Cluster:
    nodes = tuple(
        Node(name=f"n{index}", allocatable={GPU: count}) for index, count in enumerate(gpus)
    )
    return Cluster(nodes=nodes, pods=tuple(bound))


def decision(workers: int, reason: Reason = Reason.GROW_PAYS, **fields: Any) -> Decision:
    """A decision whose facts do not matter."""
    facts = SizeKept(workers=workers, basis=AtMaximum(workers=workers), shortage=None)
    values: dict[str, Any] = {"recommended": workers, "facts": facts, **fields}
    return Decision(workers=workers, reason=reason, **values)


def waiting(jobs_ahead: int) -> WorkersWaiting:
    """The facts of a job that waits for one GPU behind so many jobs."""
    return WorkersWaiting(
        minimum=PodsRequest(workers=1, shape=shape()),
        availability=Availability(free=0, nodes=0, jobs_ahead=jobs_ahead),
        unready_nodes=0,
    )


def decide(snapshot: Cluster, *jobs: JobRequest) -> dict[str, Decision]:
    return {k.name: decision for k, decision in allocate(jobs, snapshot, NOW).items()}


def apply_all(jobs: Iterable[JobRequest], allocation: Allocation) -> tuple[JobRequest, ...]:
    """The requests after the decisions, as a reconcile records them."""
    return tuple(_applied(job, allocation[job.key]) for job in jobs)


def _applied(request: JobRequest, decision: Decision) -> JobRequest:
    if decision.workers == request.admitted_workers:
        return request
    change = Change(
        from_=request.admitted_workers,
        to=decision.workers,
        reason=decision.reason,
        decision_time=NOW,
    )
    return replace(
        request,
        admitted_workers=decision.workers,
        admitted_at=request.admitted_at or NOW,
        decision_time=NOW,
        is_running=False,
        history=(*request.history, change),
    )
