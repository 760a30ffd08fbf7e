"""The two kinds of pods: one coordinator, and workers.

Both satisfy the `restricted` Pod Security Standard. World size is never in the environment: a pod
knows its job, its name and its coordinator's address.
"""

from __future__ import annotations

from typing import Any

from trainyard.api import names
from trainyard.api.durations import parse_duration
from trainyard.api.jobs import DistributedJob
from trainyard.render.ownership import metadata
from trainyard_trainer import contract
from trainyard_trainer.contract import Goal, JobConfig, Role, Target

GRACE_SECONDS = 120
"""Longer than a step, so that a worker that is asked to leave can finish it."""
UNREACHABLE_SECONDS = 20
"""A lost node's pods are replaced after this instead of Kubernetes' five minutes."""
USER = 65532
"""The `nonroot` user of common base images."""

Manifest = dict[str, Any]


def coordinator_pod(job: DistributedJob, term: int) -> Manifest:
    """The coordinator's pod of one term."""
    spec = job.spec
    volumes, mounts = _state(job)
    container = _container(
        job,
        Role.COORDINATOR,
        env={
            contract.ENV_TERM: str(term),
            contract.ENV_CONFIG: config_of(job).encode(),
            contract.ENV_STATE: state_folder(job),
        },
        mounts=mounts,
        resources=spec.coordinator.resources
        or {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
    )
    container["ports"] = [{"name": "https", "containerPort": contract.COORDINATOR_PORT}]
    return _pod(
        job,
        names.coordinator_name(job.key.name, term),
        Role.COORDINATOR,
        0,
        term,
        container,
        volumes,
    )


def worker_pod(job: DistributedJob, index: int, attempt: int, cluster_domain: str) -> Manifest:
    """The pod of worker `index`; each attempt has a name of its own."""
    workers, template = job.spec.workers, job.spec.workers.template
    address = coordinator_host(job, cluster_domain)
    container = _container(
        job,
        Role.WORKER,
        env={contract.ENV_COORDINATOR: f"{address}:{contract.COORDINATOR_PORT}"},
        mounts=[{"name": "trainyard-shm", "mountPath": "/dev/shm"}, *template.volume_mounts],  # noqa: S108
        resources=_with_gpus(workers.resources, workers.gpu_resource, workers.gpus),
    )
    container["env"] += template.env
    volumes = [
        # Data loaders and collectives on one node exchange tensors through shared memory; the
        # runtime's default of 64 MB is too small for either.
        {"name": "trainyard-shm", "emptyDir": {"medium": "Memory"}},
        *template.volumes,
    ]
    name = names.worker_name(job.key.name, index, attempt)
    pod = _pod(job, name, Role.WORKER, index, attempt, container, volumes)
    _apply_template(job, pod["spec"])
    return pod


def coordinator_host(job: DistributedJob, cluster_domain: str) -> str:
    """The DNS name of the coordinator's Service, as its certificate shows it."""
    service = names.service_name(job.key.name)
    return f"{service}.{job.key.namespace}.svc.{cluster_domain}"


def config_of(job: DistributedJob) -> JobConfig:
    """What the coordinator is told of its job."""
    spec, training = job.spec, job.spec.training
    target = training.target
    return JobConfig(
        task=spec.task.use,
        args=spec.task.args,
        batch_size=training.batch_size,
        epochs=training.epochs,
        init=training.init or "",
        target=Target(metric=target.metric, goal=target.goal, mode=Goal(target.mode))
        if target
        else None,
        seed=training.seed,
        checkpoint_seconds=parse_duration(spec.checkpoint.every).total_seconds(),
        checkpoint_keep=spec.checkpoint.keep,
        durable=job.is_durable,
        min_workers=spec.workers.min,
    )


def _state(job: DistributedJob) -> tuple[list[Manifest], list[Manifest]]:
    source: Manifest = (
        {"persistentVolumeClaim": {"claimName": job.spec.state.claim}}
        if job.is_durable
        else {"emptyDir": {}}
    )
    return (
        [{"name": "trainyard-state", **source}],
        [{"name": "trainyard-state", "mountPath": contract.STATE_DIR}],
    )


def state_folder(job: DistributedJob) -> str:
    """The job's own folder on its claim, which other jobs may share."""
    return f"{job.key.name}/{job.uid}"


def _container(
    job: DistributedJob,
    role: Role,
    *,
    env: dict[str, str],
    mounts: list[Manifest],
    resources: Manifest,
) -> Manifest:
    return {
        "name": "trainer",
        "image": job.spec.image,
        "command": ["trainyard-trainer", str(role)],
        "env": [*_environment(job), *({"name": k, "value": v} for k, v in env.items())],
        "resources": resources,
        "volumeMounts": [
            {"name": "trainyard-tls", "mountPath": contract.TLS_DIR, "readOnly": True},
            {"name": "trainyard-tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
            *mounts,
        ],
        "terminationMessagePath": contract.TERMINATION_LOG,
        # Our own last words; the log's tail where a process died without any.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _environment(job: DistributedJob) -> list[Manifest]:
    return [
        {"name": contract.ENV_NAMESPACE, "value": job.key.namespace},
        {"name": contract.ENV_JOB, "value": job.key.name},
        {"name": contract.ENV_WIRE, "value": str(contract.WIRE_VERSION)},
        _from_field(contract.ENV_POD, "metadata.name"),
        _from_field(contract.ENV_POD_IP, "status.podIP"),
        _from_field(contract.ENV_NODE, "spec.nodeName"),
    ]


def _from_field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _with_gpus(resources: Manifest, gpu_resource: str, gpus: int) -> Manifest:
    if not gpus:
        return resources
    # Extended resources are requested by their limit; Kubernetes copies it.
    return {**resources, "limits": {**resources.get("limits", {}), gpu_resource: str(gpus)}}


def _pod(
    job: DistributedJob,
    name: str,
    role: Role,
    index: int,
    attempt: int,
    container: Manifest,
    volumes: list[Manifest],
) -> Manifest:
    labels = {
        names.LABEL_ROLE: str(role),
        names.LABEL_INDEX: str(index),
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
            *job.spec.workers.template.tolerations,
        ],
        "containers": [container],
        "volumes": [
            _tls_volume(job, role),
            {"name": "trainyard-tmp", "emptyDir": {}},
            *volumes,
        ],
    }
    if job.spec.priority_class_name:
        spec["priorityClassName"] = job.spec.priority_class_name
    pull_secrets = job.spec.workers.template.image_pull_secrets
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


def _tls_volume(job: DistributedJob, role: Role) -> Manifest:
    """Each role mounts its own items of the one Secret, and no other's key."""
    items = [
        {"key": "ca.crt", "path": "ca.crt"},
        {"key": f"{role}.crt", "path": "tls.crt"},
        {"key": f"{role}.key", "path": "tls.key"},
    ]
    secret = {
        "secretName": names.leaf_secret_name(job.key.name),
        "items": items,
        "defaultMode": 0o440,
    }
    return {"name": "trainyard-tls", "secret": secret}


def _apply_template(job: DistributedJob, spec: Manifest) -> None:
    template = job.spec.workers.template
    if job.spec.workers.gpus:
        spec["tolerations"].append({"key": job.spec.workers.gpu_resource, "operator": "Exists"})
    optional = {
        "affinity": template.affinity or _packing(job),
        "nodeSelector": template.node_selector,
        "runtimeClassName": template.runtime_class_name,
        "serviceAccountName": template.service_account_name,
    }
    spec.update({name: value for name, value in optional.items() if value})


def _packing(job: DistributedJob) -> Manifest:
    """Workers prefer each other's nodes: collectives within a node cost less; never a must."""
    selector = {"matchLabels": {names.LABEL_JOB: job.key.name, names.LABEL_ROLE: str(Role.WORKER)}}
    term = {"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"}
    return {
        "podAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 100, "podAffinityTerm": term}
            ]
        }
    }
