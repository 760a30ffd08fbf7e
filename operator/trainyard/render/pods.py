"""The pods of a job: one coordinator, and workers or parties, each on the same skeleton."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from trainyard.api import names
from trainyard.api.federation import PartySpec
from trainyard.api.jobs import DistributedJob, FederatedJob, Job
from trainyard.render.base_pod import Manifest, job_pod, trainer_container
from trainyard.render.trainer_config import config_of
from trainyard_trainer.contract.env import (
    COORDINATOR_PORT,
    DATA_DIR,
    ENV_CONFIG,
    ENV_COORDINATOR,
    ENV_PARTY,
    ENV_STATE,
    ENV_TERM,
    STATE_DIR,
    Role,
)

AGGREGATOR = "aggregator"
"""The trainer's program that is a federation's coordinator."""


# Data loaders and collectives on one node exchange tensors through shared memory; the runtime's
# default of 64 MB is too small for either.
_SHM: Final[Manifest] = {"name": "trainyard-shm", "emptyDir": {"medium": "Memory"}}
_SHM_MOUNT: Final[Manifest] = {"name": "trainyard-shm", "mountPath": "/dev/shm"}  # noqa: S108


def coordinator_pod(job: Job, term: int) -> Manifest:
    """The coordinator's pod of one term."""
    spec = job.spec
    volumes, mounts = _state(job)
    program = AGGREGATOR if isinstance(job, FederatedJob) else str(Role.COORDINATOR)
    container = trainer_container(
        job,
        program,
        env={
            ENV_TERM: str(term),
            ENV_CONFIG: config_of(job).encode(),
            ENV_STATE: state_folder(job),
        },
        mounts=mounts,
        resources=spec.coordinator.resources
        or {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
    )
    container["ports"] = [{"name": "https", "containerPort": COORDINATOR_PORT}]
    return job_pod(
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
    container = trainer_container(
        job,
        str(Role.WORKER),
        env={ENV_COORDINATOR: _address(job, cluster_domain)},
        mounts=[_SHM_MOUNT, *workers.template.volume_mounts],
        resources=_with_gpus(workers.resources, workers.gpu_resource, workers.gpus),
    )
    container["env"] += workers.template.env
    volumes = [_SHM, *workers.template.volumes]
    name = names.worker_name(job.key.name, index, attempt)
    pod = job_pod(job, name, Role.WORKER, index, attempt, container, volumes)
    if workers.gpus:
        pod["spec"]["tolerations"].append(_tolerates(workers.gpu_resource))
    _apply_template(job, pod["spec"], affinity=_packing(job))
    return pod


def party_pod(job: FederatedJob, name: str, attempt: int, cluster_domain: str) -> Manifest:
    """The pod of a party, where its own data is; each attempt has a name of its own."""
    party, template = job.spec.party(name), job.spec.template
    volumes, mounts = _data(party)
    container = trainer_container(
        job,
        str(Role.PARTY),
        env={
            ENV_COORDINATOR: _address(job, cluster_domain),
            ENV_PARTY: party.name,
        },
        mounts=[_SHM_MOUNT, *mounts, *template.volume_mounts],
        resources=_with_gpus(party.resources, party.gpu_resource, party.gpus),
    )
    container["env"] += template.env
    pod_name = names.party_name(job.key.name, party.name, attempt)
    volumes = [_SHM, *volumes, *template.volumes]
    pod = job_pod(job, pod_name, Role.PARTY, party.name, attempt, container, volumes)
    pod["spec"]["tolerations"] += party.tolerations
    if party.gpus:
        pod["spec"]["tolerations"].append(_tolerates(party.gpu_resource))
    _apply_template(job, pod["spec"], node_selector=party.node_selector)
    return pod


def _data(party: PartySpec) -> tuple[list[Manifest], list[Manifest]]:
    """Its claim, read-only: training never changes it."""
    if party.data is None:
        return [], []
    claim = {"claimName": party.data.claim_name, "readOnly": True}
    return (
        [{"name": "trainyard-data", "persistentVolumeClaim": claim}],
        [{"name": "trainyard-data", "mountPath": DATA_DIR, "readOnly": True}],
    )


def _address(job: Job, cluster_domain: str) -> str:
    return f"{coordinator_host(job, cluster_domain)}:{COORDINATOR_PORT}"


def coordinator_host(job: Job, cluster_domain: str) -> str:
    """The DNS name of the coordinator's Service, as its certificate shows it."""
    service = names.service_name(job.key.name)
    return f"{service}.{job.key.namespace}.svc.{cluster_domain}"


def _state(job: Job) -> tuple[list[Manifest], list[Manifest]]:
    source: Manifest = (
        {"persistentVolumeClaim": {"claimName": job.spec.state.claim_name}}
        if job.is_durable
        else {"emptyDir": {}}
    )
    return (
        [{"name": "trainyard-state", **source}],
        [{"name": "trainyard-state", "mountPath": STATE_DIR}],
    )


def state_folder(job: Job) -> str:
    """The job's own folder on its claim, which other jobs may share."""
    return f"{job.key.name}/{job.uid}"


def _with_gpus(resources: Manifest, gpu_resource: str, gpus: int) -> Manifest:
    if not gpus:
        return resources
    # Extended resources are requested by their limit; Kubernetes copies it.
    return {**resources, "limits": {**resources.get("limits", {}), gpu_resource: str(gpus)}}


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
