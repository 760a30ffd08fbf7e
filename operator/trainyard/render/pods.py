"""The pods of a job: one coordinator, and workers or parties.

All satisfy the `restricted` Pod Security Standard. World size is never in the environment: a pod
knows its job, its name and its coordinator's address.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trainyard.api import names
from trainyard.api.federation import Party
from trainyard.api.jobs import DistributedJob, FederatedJob, Job
from trainyard.api.names import Member
from trainyard.render.configuration import config_of
from trainyard.render.ownership import metadata
from trainyard.render.secrets import leaf_of
from trainyard_trainer import contract
from trainyard_trainer.contract import Role

GRACE_SECONDS = 120
"""Longer than a step, so that a worker that is asked to leave can finish it."""
UNREACHABLE_SECONDS = 20
"""A lost node's pods are replaced after this instead of Kubernetes' five minutes."""
USER = 65532
"""The `nonroot` user of common base images."""

AGGREGATOR = "aggregator"
"""The trainer's program that is a federation's coordinator."""

Manifest = dict[str, Any]

# Data loaders and collectives on one node exchange tensors through shared memory; the runtime's
# default of 64 MB is too small for either.
_SHM: Final[Manifest] = {"name": "trainyard-shm", "emptyDir": {"medium": "Memory"}}
_SHM_MOUNT: Final[Manifest] = {"name": "trainyard-shm", "mountPath": "/dev/shm"}  # noqa: S108


def coordinator_pod(job: Job, term: int) -> Manifest:
    """The coordinator's pod of one term."""
    spec = job.spec
    volumes, mounts = _state(job)
    program = AGGREGATOR if isinstance(job, FederatedJob) else str(Role.COORDINATOR)
    container = _container(
        job,
        program,
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
    workers = job.spec.workers
    container = _container(
        job,
        str(Role.WORKER),
        env={contract.ENV_COORDINATOR: _address(job, cluster_domain)},
        mounts=[_SHM_MOUNT, *workers.template.volume_mounts],
        resources=_with_gpus(workers.resources, workers.gpu_resource, workers.gpus),
    )
    container["env"] += workers.template.env
    volumes = [_SHM, *workers.template.volumes]
    name = names.worker_name(job.key.name, index, attempt)
    pod = _pod(job, name, Role.WORKER, index, attempt, container, volumes)
    if workers.gpus:
        pod["spec"]["tolerations"].append(_tolerates(workers.gpu_resource))
    _apply_template(job, pod["spec"], affinity=_packing(job))
    return pod


def party_pod(job: FederatedJob, name: str, attempt: int, cluster_domain: str) -> Manifest:
    """The pod of a party, where its own data is; each attempt has a name of its own."""
    party, template = job.spec.party(name), job.spec.template
    volumes, mounts = _data(party)
    container = _container(
        job,
        str(Role.PARTY),
        env={
            contract.ENV_COORDINATOR: _address(job, cluster_domain),
            contract.ENV_PARTY: party.name,
        },
        mounts=[_SHM_MOUNT, *mounts, *template.volume_mounts],
        resources=_with_gpus(party.resources, party.gpu_resource, party.gpus),
    )
    container["env"] += template.env
    pod_name = names.party_name(job.key.name, party.name, attempt)
    volumes = [_SHM, *volumes, *template.volumes]
    pod = _pod(job, pod_name, Role.PARTY, party.name, attempt, container, volumes)
    pod["spec"]["tolerations"] += party.tolerations
    if party.gpus:
        pod["spec"]["tolerations"].append(_tolerates(party.gpu_resource))
    _apply_template(job, pod["spec"], node_selector=party.node_selector)
    return pod


def _data(party: Party) -> tuple[list[Manifest], list[Manifest]]:
    """Its claim, read-only: training never changes it."""
    if party.data is None:
        return [], []
    claim = {"claimName": party.data.claim, "readOnly": True}
    return (
        [{"name": "trainyard-data", "persistentVolumeClaim": claim}],
        [{"name": "trainyard-data", "mountPath": contract.DATA_DIR, "readOnly": True}],
    )


def _address(job: Job, cluster_domain: str) -> str:
    return f"{coordinator_host(job, cluster_domain)}:{contract.COORDINATOR_PORT}"


def coordinator_host(job: Job, cluster_domain: str) -> str:
    """The DNS name of the coordinator's Service, as its certificate shows it."""
    service = names.service_name(job.key.name)
    return f"{service}.{job.key.namespace}.svc.{cluster_domain}"


def _state(job: Job) -> tuple[list[Manifest], list[Manifest]]:
    source: Manifest = (
        {"persistentVolumeClaim": {"claimName": job.spec.state.claim}}
        if job.is_durable
        else {"emptyDir": {}}
    )
    return (
        [{"name": "trainyard-state", **source}],
        [{"name": "trainyard-state", "mountPath": contract.STATE_DIR}],
    )


def state_folder(job: Job) -> str:
    """The job's own folder on its claim, which other jobs may share."""
    return f"{job.key.name}/{job.uid}"


def _container(
    job: Job,
    program: str,
    *,
    env: dict[str, str],
    mounts: list[Manifest],
    resources: Manifest,
) -> Manifest:
    return {
        "name": "trainer",
        "image": job.spec.image,
        "command": ["trainyard-trainer", program],
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


def _environment(job: Job) -> list[Manifest]:
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
    job: Job,
    name: str,
    role: Role,
    member: Member,
    attempt: int,
    container: Manifest,
    volumes: list[Manifest],
) -> Manifest:
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


def _tls_volume(job: Job, role: Role, member: Member) -> Manifest:
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


def _tolerates(resource: str) -> Manifest:
    return {"key": resource, "operator": "Exists"}


def _apply_template(
    job: Job,
    spec: Manifest,
    *,
    affinity: Manifest | None = None,
    node_selector: Mapping[str, str] | None = None,
) -> None:
    template = job.spec.template
    optional = {
        "affinity": template.affinity or affinity,
        "nodeSelector": {**template.node_selector, **(node_selector or {})},
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
