"""DistributedJobs, their pods and observations of them, for pure tests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from trainyard.api.conditions import Condition, ConditionStatus
from trainyard.api.jobs import Assignment, DistributedJob, Job, format_time, parse_job
from trainyard.api.names import (
    DISTRIBUTED_JOB,
    Key,
    MemberId,
    coordinator_name,
    party_name,
    worker_name,
)
from trainyard.api.pods import Pod
from trainyard.api.podset import JobPods, group_pods
from trainyard.api.report import NO_CONTACT, Contact, CoordinatorReport
from trainyard.api.status import ScalingStatus
from trainyard.lifecycle.desired import DesiredState
from trainyard.lifecycle.observation import Observation
from trainyard.lifecycle.timeouts import Timeouts
from trainyard.render.network import Network
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import Result, TerminationMessage

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
KEY = Key(DISTRIBUTED_JOB, "team", "digits")
UID = "uid-of-digits"
TIMEOUTS = Timeouts()
NETWORK = Network(service="trainyard", cluster_domain="cluster.local")


def ago(**spans: float) -> datetime:
    """A time this long before `NOW`."""
    return NOW - timedelta(**spans)


def at(time: datetime = NOW) -> str:
    """The time in the format of manifests."""
    return format_time(time)


def raw_job(
    spec: Mapping[str, Any] | None = None, status: Mapping[str, Any] | None = None, **meta: Any
) -> dict[str, Any]:
    """A job as the API server returns it."""
    return {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": DISTRIBUTED_JOB,
        "metadata": {
            "namespace": KEY.namespace,
            "name": KEY.name,
            "uid": UID,
            "resourceVersion": "7",
            "generation": 3,
            "creationTimestamp": at(ago(hours=2)),
            **meta,
        },
        "spec": {
            "task": {"entrypoint": "tasks.digits:Digits"},
            "image": "trainer:1",
            **(spec or {}),
        },
        "status": dict(status or {}),
    }


def make_job(
    spec: Mapping[str, Any] | None = None, status: Mapping[str, Any] | None = None, **meta: Any
) -> DistributedJob:
    """A job of at least one worker."""
    job = parse_job(raw_job(spec, status, **meta))
    assert isinstance(job, DistributedJob)
    return job


def condition(
    type_: str, status: ConditionStatus = "True", reason: str = "Because", since: datetime = NOW
) -> dict[str, Any]:
    """A condition as it is stored."""
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": "",
        "lastTransitionTime": at(since),
    }


def has_run(since: datetime = NOW, **status: Any) -> dict[str, Any]:
    """The status of a job that has trained."""
    return {
        "startTime": at(ago(hours=1)),
        "term": 1,
        "conditions": [condition("Admitted"), condition("Running", since=since)],
        **status,
    }


def pod(role: str, member: MemberId, attempt: int, **fields: Any) -> Pod:
    """A running pod of the job."""
    values: dict[str, Any] = {
        "namespace": KEY.namespace,
        "name": _pod_name(role, member, attempt),
        "uid": f"{role}-{member}-{attempt}",
        "resource_version": 1,
        "created_at": ago(hours=1),
        "job": KEY,
        "owner_uid": UID,
        "role": str(role),
        "index": member if isinstance(member, int) else 0,
        "party": member if isinstance(member, str) else "",
        "attempt": attempt,
        "phase": "Running",
        "node": "n0",
        "ip": "10.0.0.1",
        **fields,
    }
    return Pod(**values)


def _pod_name(role: str, member: MemberId, attempt: int) -> str:
    if isinstance(member, str):
        return party_name(KEY.name, member, attempt)
    if role == Role.WORKER:
        return worker_name(KEY.name, member, attempt)
    return coordinator_name(KEY.name, attempt)


def coordinator(term: int = 1, **fields: Any) -> Pod:
    """A running coordinator."""
    return pod(Role.COORDINATOR, 0, term, **fields)


def worker(index: int = 0, attempt: int = 1, **fields: Any) -> Pod:
    """A running worker."""
    return pod(Role.WORKER, index, attempt, **fields)


def workers(count: int, **fields: Any) -> tuple[Pod, ...]:
    """Running workers 0 to count - 1."""
    return tuple(worker(index, **fields) for index in range(count))


def ending(result: Result, **message: Any) -> dict[str, Any]:
    """The fields of a pod that succeeded with this termination message."""
    return {
        "phase": "Succeeded",
        "exit_code": 0,
        "reason": "Completed",
        "termination_message": TerminationMessage(result=result, **message).encode(),
    }


def failing(
    exit_code: int | None = 1, termination_message: str = "", **fields: Any
) -> dict[str, Any]:
    """The fields of a pod that failed."""
    return {
        "phase": "Failed",
        "exit_code": exit_code,
        "reason": "Error",
        "termination_message": termination_message,
        "ended_at": NOW,
        **fields,
    }


def job_pods(*pods: Pod) -> JobPods:
    """The job's pods, grouped."""
    return group_pods(pods, UID)


def admitted(count: int = 1, since: datetime = NOW, **fields: Any) -> ScalingStatus:
    """The decision that the job has `count` workers."""
    values: dict[str, Any] = {
        "desired": count,
        "recommended": count,
        "reason": "Admitted",
        "decision_time": since,
        **fields,
    }
    return ScalingStatus(**values)


def observe(
    job: Job,
    *pods: Pod,
    assignment: Assignment | None = None,
    report: CoordinatorReport | None = None,
    now: datetime = NOW,
    contact: Contact = NO_CONTACT,
    is_clock_trusted: bool = True,
) -> Observation:
    """An observation; without an assignment, one worker has just been admitted."""
    assignment = admitted() if assignment is None else assignment
    return Observation.of(
        job,
        job_pods(*pods),
        assignment,
        report,
        TIMEOUTS,
        now,
        contact,
        is_clock_trusted=is_clock_trusted,
    )


def conditions_of(desired: DesiredState) -> dict[str, tuple[str, str]]:
    """Status and reason of each desired condition, by type."""
    return {c.type: (c.status, c.reason) for c in desired.conditions}


def condition_of(desired: DesiredState, type_: str) -> Condition:
    """The desired condition of one type."""
    return next(c for c in desired.conditions if c.type == type_)
