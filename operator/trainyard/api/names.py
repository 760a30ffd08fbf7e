"""Names that the cluster sees: the API group, labels and children's names.

A name is a promise: two operators of different releases must find the same children by the same
names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

GROUP: Final = "trainyard.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
FIELD_MANAGER: Final = "trainyard"
MANAGED_BY: Final = f"{GROUP}/operator"
"""The value of `spec.managedBy` (besides none) that means this operator."""

LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_KIND: Final = f"{GROUP}/kind"
LABEL_JOB: Final = f"{GROUP}/job"
LABEL_ROLE: Final = f"{GROUP}/role"
LABEL_INDEX: Final = f"{GROUP}/index"
LABEL_PARTY: Final = f"{GROUP}/party"
LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
LABEL_SIMULATED_GPUS: Final = f"{GROUP}/simulated-gpus"
"""On a node, `true`: what it advertises as GPUs are none, and pods there train on the CPU."""
ANNOTATION_ISSUANCE: Final = f"{GROUP}/certificates"
"""On a leaf Secret: what certificates it holds, as its content cannot be read."""
ANNOTATION_ROTATE: Final = f"{GROUP}/rotate"
"""On the master Secret, set by an administrator: a new version is wanted."""

MANAGER: Final = "trainyard"

DISTRIBUTED_JOB: Final = "DistributedJob"
DISTRIBUTED_JOBS: Final = "distributedjobs"
FEDERATED_JOB: Final = "FederatedJob"
FEDERATED_JOBS: Final = "federatedjobs"
PLURALS: Final[Mapping[str, str]] = {
    DISTRIBUTED_JOB: DISTRIBUTED_JOBS,
    FEDERATED_JOB: FEDERATED_JOBS,
}
"""Every kind of job, and the name of its collection."""

MemberId = int | str
"""A pod of a job that is not its coordinator: a worker's index, or a party's name."""


class Key(NamedTuple):
    """One job of any kind: its kind, namespace and name; a key of most maps, so a tuple."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


def namesake(key: Key) -> Key:
    """The job of the other kind that would have the same names for its children."""
    return key._replace(kind=DISTRIBUTED_JOB if key.kind == FEDERATED_JOB else FEDERATED_JOB)


def coordinator_hostname(job: str) -> str:
    """The hostname of the coordinator's pod of every term; members resolve it at each attempt."""
    return f"{job}-coordinator"


def coordinator_name(job: str, term: int) -> str:
    """The coordinator's pod of one term; a lost node's pod name is not free for minutes."""
    return f"{coordinator_hostname(job)}-{term}"


def worker_name(job: str, index: int, attempt: int) -> str:
    """The pod of worker `index`; each replacement counts `attempt` up from 1."""
    return f"{job}-worker-{index}-{attempt}"


def party_name(job: str, party: str, attempt: int) -> str:
    """The pod of a party; each replacement counts `attempt` up from 1."""
    return f"{job}-party-{party}-{attempt}"


LEAF_SUFFIX = "-trainyard-tls"
"""The end of the names of all Secrets with the certificates of a job's pods."""


def leaf_secret_name(job: str) -> str:
    """The Secret with the pods' certificates; users are unlikely to give their own this name."""
    return f"{job}{LEAF_SUFFIX}"


def master_secret_name() -> str:
    """The Secret in the operator's namespace that all jobs' authorities are derived from."""
    return "trainyard-master"
