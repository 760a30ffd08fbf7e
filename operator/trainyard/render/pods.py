"""The pods of a job: one coordinator, and workers or parties."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from trainyard.api import names
from trainyard.api.federation import PartySpec
from trainyard.api.jobs import DistributedJob, FederatedJob, Job
from trainyard.api.names import DISTRIBUTED_JOB, FEDERATED_JOB
from trainyard.api.nodes import HOSTNAME
from trainyard.api.resources import (
    COORDINATOR_RESOURCES,
    container_requests,
    taint_keys,
    with_accelerators,
)
from trainyard.api.spec import PodTemplate
from trainyard.render.base_pod import USER, Manifest, job_pod, trainer_container
from trainyard.render.network import Network
from trainyard.render.trainer_config import config_of
from trainyard_trainer.contract.env import (
    CODE_DIR,
    COORDINATOR_PORT,
    DATA_DIR,
    DEVICE_REQUIRED,
    ENV_CONFIG,
    ENV_COORDINATOR,
    ENV_DEVICE,
    ENV_PARTY,
    ENV_REQUIREMENTS,
    ENV_STATE,
    ENV_TERM,
    STATE_DIR,
    Role,
)

_COORDINATOR_PROGRAMS: Final = {DISTRIBUTED_JOB: "coordinator", FEDERATED_JOB: "aggregator"}
"""The trainer's program that coordinates a job, by kind."""

_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"

_SAFE_TO_EVICT: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict"
_DO_NOT_DISRUPT: Final = "karpenter.sh/do-not-disrupt"
_EVICTABLE: Final = {_SAFE_TO_EVICT: "true"}
"""Its state is on the claim; without this its emptyDir would keep an autoscaler from the node."""
_NOT_EVICTABLE: Final = {_SAFE_TO_EVICT: "false", _DO_NOT_DISRUPT: "true"}
"""It may hold the only copy of the state."""

# Data loaders and collectives on one node exchange tensors through shared memory; the runtime's
# default of 64 MB is too small for either.
_SHM: Final[Manifest] = {"name": "trainyard-shm", "emptyDir": {"medium": "Memory"}}
_SHM_MOUNT: Final[Manifest] = {"name": "trainyard-shm", "mountPath": "/dev/shm"}  # noqa: S108


def coordinator_pod(
    job: Job,
    term: int,
    network: Network,
    accelerator_label: str = "",
    *,
    user: int | None = USER,
) -> Manifest:
    """The coordinator's pod of one term; DNS serves it under the same name in each.

    `accelerator_label` is one that all nodes with accelerators carry and no others; empty: none.
    `user` is that of pods whose template has none; None leaves it to the platform.
    """
    # A job's nodes may be the only ones that there are, and its registry the only one.
    template = job.spec.coordinator.template_with(job.spec.template)
    affinity = template.affinity or (_avoid(accelerator_label) if accelerator_label else {})
    volumes, mounts = _state_volume(job)
    container = trainer_container(
        job,
        _COORDINATOR_PROGRAMS[job.key.kind],
        env={
            ENV_TERM: str(term),
            ENV_CONFIG: config_of(job).encode(),
            ENV_STATE: state_directory(job),
        },
        resources=job.spec.coordinator.resources or {**COORDINATOR_RESOURCES},
        mounts=mounts,
        ports=[{"name": "https", "containerPort": COORDINATOR_PORT}],
    )
    name = names.coordinator_name(job.key.name, term)
    return job_pod(
        job,
        name,
        Role.COORDINATOR,
        0,
        term,
        template=template,
        user=user,
        container=container,
        volumes=volumes,
        subdomain=network.service,
        hostname=names.coordinator_hostname(job.key.name) if network.service else "",
        placement={"affinity": affinity, "nodeSelector": template.node_selector},
        annotations=_EVICTABLE if job.is_durable else _NOT_EVICTABLE,
    )


def _avoid(label: str) -> Manifest:
    """A preference for nodes without this label.

    A node with accelerators is not given back while a pod is there that may not be evicted, and a
    suspended job's coordinator may stay for weeks.
    """
    expression = {"key": label, "operator": "DoesNotExist"}
    term = {"weight": 100, "preference": {"matchExpressions": [expression]}}
    return {"nodeAffinity": {_PREFERRED: [term]}}


def worker_pod(
    job: DistributedJob,
    index: int,
    attempt: int,
    network: Network,
    nodes: Sequence[str] = (),
    *,
    needs_device: bool = False,
    user: int | None = USER,
) -> Manifest:
    """The pod of worker `index`; each attempt has a name of its own.

    `nodes` are the hostnames of those that it should prefer; `needs_device` is whether it must not
    train on the CPU.
    """
    workers, template = job.spec.workers, job.spec.template
    resources = with_accelerators(workers.resources, workers.gpu_resource, workers.gpus)
    volumes, mounts = _code_volume(job)
    container = trainer_container(
        job,
        str(Role.WORKER),
        env={
            ENV_COORDINATOR: _coordinator_address(job, network),
            **_device_environment(needs_device=needs_device),
            **_requirements(job),
        },
        extra_env=template.env,
        resources=resources,
        mounts=[_SHM_MOUNT, *mounts, *template.volume_mounts],
    )
    return job_pod(
        job,
        names.worker_name(job.key.name, index, attempt),
        Role.WORKER,
        index,
        attempt,
        template=template,
        user=user,
        container=container,
        subdomain=network.service,
        volumes=[_SHM, *volumes, *template.volumes],
        tolerations=_accelerator_tolerations(resources),
        placement=_placement(template, nodes, affinity=_worker_affinity(job)),
    )


def party_pod(
    job: FederatedJob,
    name: str,
    attempt: int,
    network: Network,
    nodes: Sequence[str] = (),
    *,
    needs_device: bool = False,
    user: int | None = USER,
) -> Manifest:
    """The pod of a party, where its own data is; each attempt has a name of its own.

    `nodes` are the hostnames of those that it should prefer; `needs_device` is whether it must not
    train on the CPU.
    """
    party, template = job.spec.party(name), job.spec.template
    resources = with_accelerators(party.resources, party.gpu_resource, party.gpus)
    data_volumes, data_mounts = _data_volume(party)
    code_volumes, code_mounts = _code_volume(job)
    container = trainer_container(
        job,
        str(Role.PARTY),
        env={
            ENV_COORDINATOR: _coordinator_address(job, network),
            ENV_PARTY: party.name,
            **_device_environment(needs_device=needs_device),
            **_requirements(job),
        },
        extra_env=template.env,
        resources=resources,
        mounts=[_SHM_MOUNT, *data_mounts, *code_mounts, *template.volume_mounts],
    )
    return job_pod(
        job,
        names.party_name(job.key.name, party.name, attempt),
        Role.PARTY,
        party.name,
        attempt,
        template=template,
        user=user,
        container=container,
        subdomain=network.service,
        volumes=[_SHM, *data_volumes, *code_volumes, *template.volumes],
        tolerations=[*party.tolerations, *_accelerator_tolerations(resources)],
        placement=_placement(template, nodes, node_selector=party.node_selector),
    )


def _device_environment(*, needs_device: bool) -> dict[str, str]:
    return {ENV_DEVICE: DEVICE_REQUIRED} if needs_device else {}


def _data_volume(party: PartySpec) -> tuple[list[Manifest], list[Manifest]]:
    """Volume and mount of the party's claim, read-only: training never changes it."""
    if party.data is None:
        return [], []
    claim = {"claimName": party.data.claim_name, "readOnly": True}
    return (
        [{"name": "trainyard-data", "persistentVolumeClaim": claim}],
        [{"name": "trainyard-data", "mountPath": DATA_DIR, "readOnly": True}],
    )


def _code_volume(job: Job) -> tuple[list[Manifest], list[Manifest]]:
    """Volume and mount of the user's modules, which the coordinator never runs."""
    if not job.spec.code.config_map:
        return [], []
    return (
        [{"name": "trainyard-code", "configMap": {"name": job.spec.code.config_map}}],
        [{"name": "trainyard-code", "mountPath": CODE_DIR, "readOnly": True}],
    )


def _requirements(job: Job) -> dict[str, str]:
    requirements = job.spec.code.requirements
    return {ENV_REQUIREMENTS: json.dumps(requirements)} if requirements else {}


def _coordinator_address(job: Job, network: Network) -> str:
    return f"{network.coordinator_host(job.key)}:{COORDINATOR_PORT}"


def _state_volume(job: Job) -> tuple[list[Manifest], list[Manifest]]:
    source: Manifest = (
        {"persistentVolumeClaim": {"claimName": job.spec.state.claim_name}}
        if job.is_durable
        else {"emptyDir": {}}
    )
    return (
        [{"name": "trainyard-state", **source}],
        [{"name": "trainyard-state", "mountPath": STATE_DIR}],
    )


def state_directory(job: Job) -> str:
    """The job's own directory on its claim, which other jobs may share."""
    return f"{job.key.name}/{job.uid}"


def _accelerator_tolerations(resources: Manifest) -> list[Manifest]:
    """Nodes with accelerators are commonly tainted with their resource's name, or its vendor's."""
    keys = taint_keys(container_requests(resources))
    return [{"key": key, "operator": "Exists"} for key in keys]


def _placement(
    template: PodTemplate,
    nodes: Sequence[str],
    *,
    affinity: Manifest | None = None,
    node_selector: Mapping[str, str] | None = None,
) -> Manifest:
    """The template's fields of a pod's spec, with what applies where it has none."""
    return {
        "affinity": _with_preferred_nodes(template.affinity or affinity or {}, nodes),
        "nodeSelector": {**template.node_selector, **(node_selector or {})},
        "runtimeClassName": template.runtime_class_name,
    }


def _with_preferred_nodes(affinity: Manifest, nodes: Sequence[str]) -> Manifest:
    """The affinity, and a preference for the nodes on which the scheduler counted the pod.

    kube-scheduler spreads pods by CPU and memory, and might put this one where another job's gang
    was counted, which then waits in vain.
    """
    if not nodes:
        return affinity
    hostnames = {"key": HOSTNAME, "operator": "In", "values": [*nodes]}
    term = {"weight": 100, "preference": {"matchExpressions": [hostnames]}}
    node_affinity = affinity.get("nodeAffinity") or {}
    preferred = [*node_affinity.get(_PREFERRED, ()), term]
    return {**affinity, "nodeAffinity": {**node_affinity, _PREFERRED: preferred}}


def _worker_affinity(job: DistributedJob) -> Manifest:
    """Workers prefer each other's nodes, as collectives within a node cost less."""
    selector = {"matchLabels": {names.LABEL_JOB: job.key.name, names.LABEL_ROLE: str(Role.WORKER)}}
    term = {"labelSelector": selector, "topologyKey": HOSTNAME}
    return {"podAffinity": {_PREFERRED: [{"weight": 100, "podAffinityTerm": term}]}}
