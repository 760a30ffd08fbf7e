"""Demands and clusters for the tests of the scheduler, and a world that follows decisions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from trainyard.api.cluster import Cluster, GpuPod, Node
from trainyard.api.names import Key
from trainyard.scheduling.allocation import allocate
from trainyard.scheduling.request import Allocation, Decision, JobRequest, PastChange, Throughput

GPU = "nvidia.com/gpu"
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


def key(name: str) -> Key:
    return Key("DistributedJob", "team", name)


def figure(workers: int, speed: float, steps: int = 100) -> Throughput:
    return Throughput(
        nodes=1, workers=workers, local_batch=64, samples_per_second=speed, steps=steps
    )


def job(
    name: str, here: int = 0, *, speeds: dict[int, float] | None = None, **fields: Any
) -> JobRequest:
    """A job of 1-GPU workers: waiting, or with `here` workers steady for five hours."""
    long_ago = NOW - timedelta(hours=5)
    defaults: dict[str, Any] = {"max_workers": 8, "start_workers": max(1, here)}
    if here:
        defaults |= {"admitted_at": long_ago, "decided_at": long_ago, "is_running": True}
        defaults |= {"measured_at": NOW}
    profile = tuple(figure(size, speed) for size, speed in (speeds or {}).items())
    defaults |= {"created_at": long_ago, "profile": profile, **fields}
    return JobRequest(key=key(name), admitted_workers=here, **defaults)


def pods(name: str, node: str, count: int, gpus: int = 1) -> tuple[GpuPod, ...]:
    return tuple(
        GpuPod(
            namespace="team", name=f"{name}-{n}", resource=GPU, gpus=gpus, node=node, job=key(name)
        )
        for n in range(count)
    )


def cluster(*gpus: int, bound: Iterable[GpuPod] = ()) -> Cluster:
    nodes = tuple(Node(name=f"n{place}", gpus={GPU: count}) for place, count in enumerate(gpus))
    return Cluster(nodes=nodes, pods=tuple(bound))


def decide(where: Cluster, *jobs: JobRequest) -> dict[str, Decision]:
    return {k.name: decision for k, decision in allocate(jobs, where, NOW).items()}


def follow(jobs: Iterable[JobRequest], allocation: Allocation) -> tuple[JobRequest, ...]:
    """The jobs with the decisions in force, as a reconcile records them."""
    return tuple(_followed(one, allocation[one.key]) for one in jobs)


def _followed(one: JobRequest, decision: Decision) -> JobRequest:
    if decision.workers == one.admitted_workers:
        return one
    change = PastChange(
        from_workers=one.admitted_workers, to_workers=decision.workers, decided_at=NOW
    )
    return replace(
        one,
        admitted_workers=decision.workers,
        admitted_at=one.admitted_at or NOW,
        decided_at=NOW,
        is_running=False,
        history=(*one.history, change),
    )
