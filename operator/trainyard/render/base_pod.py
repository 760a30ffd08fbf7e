"""What every pod of a job is built on: our container, its environment, its certificate.

It satisfies the `restricted` Pod Security Standard. World size is never in the environment: a pod
knows its job, its name and its coordinator's address.
"""

from __future__ import annotations

from typing import Any

from trainyard.api import names
from trainyard.api.jobs import Job
from trainyard.api.names import MemberId
from trainyard.render.ownership import metadata
from trainyard.render.secrets import leaf_of
from trainyard_trainer.contract.env import (
    ENV_JOB,
    ENV_NAMESPACE,
    ENV_NODE,
    ENV_POD,
    ENV_POD_IP,
    ENV_WIRE,
    TERMINATION_LOG,
    TLS_DIR,
    WIRE_VERSION,
    Role,
)

GRACE_SECONDS = 120
"""Longer than a step, so that a worker that is asked to leave can finish it."""
UNREACHABLE_SECONDS = 20
"""A lost node's pods are replaced after this instead of Kubernetes' five minutes."""
USER = 65532
"""The `nonroot` user of common base images."""

Manifest = dict[str, Any]


def trainer_container(
    job: Job,
    program: str,
    *,
    env: dict[str, str],
    mounts: list[Manifest],
    resources: Manifest,
) -> Manifest:
    """The container that runs one of the trainer's programs."""
    return {
        "name": "trainer",
        "image": job.spec.image,
        "command": ["trainyard-trainer", program],
        "env": [*_environment(job), *({"name": k, "value": v} for k, v in env.items())],
        "resources": resources,
        "volumeMounts": [
            {"name": "trainyard-tls", "mountPath": TLS_DIR, "readOnly": True},
            {"name": "trainyard-tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
            *mounts,
        ],
        "terminationMessagePath": TERMINATION_LOG,
        # Our own last words; the log's tail where a process died without any.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _environment(job: Job) -> list[Manifest]:
    return [
        {"name": ENV_NAMESPACE, "value": job.key.namespace},
        {"name": ENV_JOB, "value": job.key.name},
        {"name": ENV_WIRE, "value": str(WIRE_VERSION)},
        _from_field(ENV_POD, "metadata.name"),
        _from_field(ENV_POD_IP, "status.podIP"),
        _from_field(ENV_NODE, "spec.nodeName"),
    ]


def _from_field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def job_pod(
    job: Job,
    name: str,
    role: Role,
    member: MemberId,
    attempt: int,
    container: Manifest,
    volumes: list[Manifest],
) -> Manifest:
    """The pod around it, of one role and place; each attempt has a name of its own."""
    place = names.LABEL_PARTY if role is Role.PARTY else names.LABEL_INDEX
    labels = {
        names.LABEL_ROLE: str(role),
        place: str(member),
        names.LABEL_ATTEMPT: str(attempt),
    }
    spec: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [
            _unreachable("not-ready"),
            _unreachable("unreachable"),
            # The coordinator too: the nodes that a job may use may be the only ones there are.
            *job.spec.template.tolerations,
        ],
        "containers": [container],
        "volumes": [
            _tls_volume(job, role, member),
            {"name": "trainyard-tmp", "emptyDir": {}},
            *volumes,
        ],
    }
    if job.spec.priority_class_name:
        spec["priorityClassName"] = job.spec.priority_class_name
    pull_secrets = job.spec.template.image_pull_secrets
    if pull_secrets:
        spec["imagePullSecrets"] = pull_secrets
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(job, name, **labels),
        "spec": spec,
    }


def _unreachable(condition: str) -> Manifest:
    return {
        "key": f"node.kubernetes.io/{condition}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": UNREACHABLE_SECONDS,
    }


def _tls_volume(job: Job, role: Role, member: MemberId) -> Manifest:
    """Each role, and each party, mounts its own items of the one Secret, and no other's key."""
    owner = leaf_of(role, member)
    items = [
        {"key": "ca.crt", "path": "ca.crt"},
        {"key": f"{owner}.crt", "path": "tls.crt"},
        {"key": f"{owner}.key", "path": "tls.key"},
    ]
    secret = {
        "secretName": names.leaf_secret_name(job.key.name),
        "items": items,
        "defaultMode": 0o440,
    }
    return {"name": "trainyard-tls", "secret": secret}
