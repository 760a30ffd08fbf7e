"""What all pods of a job have in common: the trainer's container and a restricted pod around it.

It satisfies the `restricted` Pod Security Standard. World size is never in the environment: a pod
knows its job, its name and its coordinator's address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from trainyard.api import names
from trainyard.api.containers import CONTAINER
from trainyard.api.jobs import Job
from trainyard.api.names import MemberId
from trainyard.api.spec import CoordinatorTemplate
from trainyard.render.environment import field_variable, variable
from trainyard.render.ownership import metadata
from trainyard.render.secrets import leaf_name
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
"""Longer than a step, so that a worker that is deleted can finish its own."""
UNREACHABLE_SECONDS = 20
"""Pods on a lost node are evicted after this instead of Kubernetes' five minutes."""
USER: Final = 65532
"""The `nonroot` user of common base images."""

Manifest = dict[str, Any]

CONTAINER_SECURITY: Final[Manifest] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def pod_security(template: CoordinatorTemplate, user: int | None) -> Manifest:
    """The security context of a pod.

    `user` is its user and group where the template says nothing; None leaves them to the platform.
    """
    identity = template.security_context
    if identity is None:
        fields = ("runAsUser", "runAsGroup", "fsGroup")
        identity = {} if user is None else dict.fromkeys(fields, user)
    return {
        "runAsNonRoot": True,
        **identity,
        "seccompProfile": {"type": "RuntimeDefault"},
        "fsGroupChangePolicy": identity.get("fsGroupChangePolicy", "OnRootMismatch"),
    }


def trainer_container(
    job: Job,
    program: str,
    *,
    env: Mapping[str, str],
    resources: Manifest,
    extra_env: Sequence[Manifest] = (),
    mounts: Sequence[Manifest] = (),
    ports: Sequence[Manifest] = (),
) -> Manifest:
    """The container that runs one of the trainer's programs.

    `env` has values that arrive as they are; `extra_env` are variables of the job's template, in
    which Kubernetes replaces `$(NAME)` as in any pod.
    """
    container = {
        "name": CONTAINER,
        "image": job.image,
        "command": ["trainyard-trainer", program],
        "env": [
            *_environment(job),
            *(variable(name, value) for name, value in env.items()),
            *extra_env,
        ],
        "resources": resources,
        "volumeMounts": [
            {"name": "trainyard-tls", "mountPath": TLS_DIR, "readOnly": True},
            {"name": "trainyard-tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
            *mounts,
        ],
        "terminationMessagePath": TERMINATION_LOG,
        # The trainer's own message; the tail of the log where a process died without one.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": CONTAINER_SECURITY,
    }
    return {**container, "ports": [*ports]} if ports else container


def _environment(job: Job) -> list[Manifest]:
    return [
        variable(ENV_NAMESPACE, job.key.namespace),
        variable(ENV_JOB, job.key.name),
        variable(ENV_WIRE, str(WIRE_VERSION)),
        field_variable(ENV_POD, "metadata.name"),
        field_variable(ENV_POD_IP, "status.podIP"),
        field_variable(ENV_NODE, "spec.nodeName"),
    ]


def job_pod(
    job: Job,
    name: str,
    role: Role,
    member: MemberId,
    attempt: int,
    *,
    template: CoordinatorTemplate,
    user: int | None,
    container: Manifest,
    volumes: Sequence[Manifest],
    subdomain: str,
    hostname: str = "",
    tolerations: Sequence[Manifest] = (),
    placement: Manifest,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """The whole pod of one member of a job.

    `subdomain` is the headless Service under which DNS serves the pods that have a `hostname`.
    `volumes` and `tolerations` are added to those that every pod has; `placement` are further
    fields of its spec, such as an affinity. The template's annotations go over `annotations`.
    """
    member_label = names.LABEL_PARTY if role is Role.PARTY else names.LABEL_INDEX
    labels = {
        **template.metadata.labels,
        names.LABEL_ROLE: str(role),
        member_label: str(member),
        names.LABEL_ATTEMPT: str(attempt),
    }
    optional = {
        "hostname": hostname,
        "subdomain": subdomain,
        "priorityClassName": job.spec.priority_class_name,
        "imagePullSecrets": template.image_pull_secrets,
        "serviceAccountName": template.service_account_name,
        "schedulerName": template.scheduler_name,
        **placement,
    }
    security = pod_security(template, user)
    spec: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": security,
        "tolerations": [
            _unreachable("not-ready"),
            _unreachable("unreachable"),
            *template.tolerations,
            *tolerations,
        ],
        "containers": [container],
        "volumes": [
            _tls_volume(job, role, member, mode=0o440 if "fsGroup" in security else 0o444),
            {"name": "trainyard-tmp", "emptyDir": {}},
            *volumes,
        ],
        **{field: value for field, value in optional.items() if value},
    }
    meta = metadata(job, name, labels)
    if annotations := {**(annotations or {}), **template.metadata.annotations}:
        meta["annotations"] = annotations
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def _unreachable(condition: str) -> Manifest:
    return {
        "key": f"node.kubernetes.io/{condition}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": UNREACHABLE_SECONDS,
    }


def _tls_volume(job: Job, role: Role, member: MemberId, mode: int) -> Manifest:
    """The items of the job's one Secret that belong to this role or party, and no other's key.

    `mode` lets the group read them, or, where the pod's group is not known, any user in the pod.
    """
    leaf = leaf_name(role, member)
    items = [
        {"key": "ca.crt", "path": "ca.crt"},
        {"key": f"{leaf}.crt", "path": "tls.crt"},
        {"key": f"{leaf}.key", "path": "tls.key"},
    ]
    secret = {
        "secretName": names.leaf_secret_name(job.key.name),
        "items": items,
        "defaultMode": mode,
    }
    return {"name": "trainyard-tls", "secret": secret}
