"""Two jobs of one name in a namespace, of different kinds: only one of them can have its pods.

Names of pods, of the Secret and in DNS are made from the job's name, whatever its kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from trainyard.api.jobs import Job
from trainyard.api.names import Key
from trainyard.api.pods import Pod
from trainyard.api.validation import Rejection

NAME_TAKEN: Final = "NameTaken"


def name_taken_by_job(job: Job, other: Job, *, other_has_begun: bool) -> Rejection | None:
    """Why a job that has not begun cannot while the other exists; None if it comes first.

    The one that has begun has the name, else the older one.
    """
    if not other.is_ours or _rank(job, has_begun=False) < _rank(other, has_begun=other_has_begun):
        return None
    return Rejection(NAME_TAKEN, f"{_subject(other.key)} has this name too{_MEND}")


def name_taken_by_pods(other: Key, pods: tuple[Pod, ...]) -> Rejection | None:
    """Why a job cannot begin while pods of another that is gone are there; None without any."""
    if not pods:
        return None
    message = f"{_subject(other)} is gone, but its pod {pods[0].name} has not ended yet."
    return Rejection(NAME_TAKEN, message)


def name_taken_by_orphans(pods: Iterable[Pod]) -> Rejection | None:
    """Why a job cannot begin while pods of an earlier one of its name and kind have no owner.

    Its own would find the earlier coordinator under their coordinator's DNS name.
    """
    orphan = next((pod for pod in pods if pod.is_orphaned), None)
    if orphan is None:
        return None
    message = (
        f"Pod {orphan.name} has the labels of this job and no owner, as after a deletion with "
        "--cascade=orphan: delete that pod, or create this job under another name."
    )
    return Rejection(NAME_TAKEN, message)


_MEND: Final = (
    ", and pods, Secret and DNS name of a job are made from its name: delete this job and create "
    "it under another name, or delete the other one."
)


def _subject(key: Key) -> str:
    return f"{key.kind} {key.name} in namespace {key.namespace}"


def _rank(job: Job, *, has_begun: bool) -> tuple[object, ...]:
    return (not has_begun, job.created_at, job.key.kind)
