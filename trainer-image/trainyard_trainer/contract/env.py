"""The environment of a pod: variables, paths, ports, and the names in certificates."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

WIRE_VERSION: Final = 1
"""Version of the contract; peers of different versions refuse each other.

Operators and trainers of different releases meet, because jobs outlive upgrades. Within a version
only these may be added: optional fields that a peer may ignore without harm, metrics, and labels
that do not split a series. Everything else raises the version: a required field, a field that must
not be ignored, another type, meaning or default of a field (defaults are not sent), another value
of an enumerated field.
"""

# Environment variables. World size is not among them: a pod knows its job, its name and its
# coordinator's address; everything else comes from the coordinator.
ENV_NAMESPACE: Final = "TRAINYARD_NAMESPACE"
ENV_JOB: Final = "TRAINYARD_JOB"
ENV_POD: Final = "TRAINYARD_POD"
ENV_POD_IP: Final = "TRAINYARD_POD_IP"
ENV_NODE: Final = "TRAINYARD_NODE"
ENV_COORDINATOR: Final = "TRAINYARD_COORDINATOR"
"""`host:port` of the coordinator; given to workers and parties."""
ENV_DEVICE: Final = "TRAINYARD_DEVICE"
"""`Required` where a worker or party must not train on the CPU: it requests a device, and the nodes
that it may be bound to do not say that theirs are simulated."""
DEVICE_REQUIRED: Final = "Required"
ENV_PARTY: Final = "TRAINYARD_PARTY"
"""The party's name; given to parties."""
ENV_REQUIREMENTS: Final = "TRAINYARD_REQUIREMENTS"
"""Requirements to install before the Task is loaded, a JSON list; given to workers and parties."""
ENV_TERM: Final = "TRAINYARD_TERM"
"""The coordinator's attempt number, a positive integer; given to the coordinator."""
ENV_CONFIG: Final = "TRAINYARD_CONFIG"
"""The job's configuration as JSON (`JobConfig`, `FederatedConfig`); given to the coordinator."""
ENV_STATE: Final = "TRAINYARD_STATE"
"""The job's own directory below `STATE_DIR`: jobs may share a claim, and a job that is recreated
under the same name must not pick up the result of the old one."""
ENV_WIRE: Final = "TRAINYARD_WIRE"
"""The operator's `WIRE_VERSION`."""

COORDINATOR_PORT: Final = 7430
"""HTTPS with client certificates: metrics, Plans, members, state."""

# Paths inside the pods.
TLS_DIR: Final = "/var/run/trainyard/tls"
TLS_CA: Final = f"{TLS_DIR}/ca.crt"
TLS_CERT: Final = f"{TLS_DIR}/tls.crt"
TLS_KEY: Final = f"{TLS_DIR}/tls.key"
STATE_DIR: Final = "/var/lib/trainyard"
"""Checkpoints and results: the claim, or an emptyDir that dies with the coordinator."""
DATA_DIR: Final = "/var/lib/trainyard-data"
"""A party's own data, read-only; mounted only if the party names a claim."""
CODE_DIR: Final = "/var/lib/trainyard-code"
"""Modules of the job's ConfigMap, read-only; mounted only if the job names one."""
TERMINATION_LOG: Final = "/dev/termination-log"
TERMINATION_BYTES: Final = 4096
"""Kubernetes truncates termination messages to this size."""

MODEL_FILE: Final = "model.safetensors"
RESULT_FILE: Final = "result.json"

# HTTP paths of the coordinator.
PATH_METRICS: Final = "/metrics"
PATH_HEALTH: Final = "/healthz"
PATH_PLAN: Final = "/v1/plan"
PATH_MEMBER: Final = "/v1/member"
"""WebSocket: one per worker, for as long as it is a member."""
PATH_STATE: Final = "/v1/state"
"""Streamed checkpoints and models, in both directions."""


class Role(StrEnum):
    """The role that a certificate identifies; a segment of its URI name."""

    OPERATOR = "operator"
    COORDINATOR = "coordinator"
    WORKER = "worker"
    PARTY = "party"
    """A participant of a federation; its certificate also holds its name."""


def identity(namespace: str, job: str, role: Role, member: str = "") -> str:
    """The URI subject alternative name that binds a certificate to namespace, job and role.

    `member` is the party's name: parties do not trust each other, so each has its own identity.
    """
    name = f"trainyard://{namespace}/{job}/{role}"
    return f"{name}/{member}" if member else name
