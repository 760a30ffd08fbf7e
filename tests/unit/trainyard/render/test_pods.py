"""What must hold of every pod, whatever the spec asks for."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from tests.support.federations import make_federation
from tests.support.jobs import NETWORK, make_job
from tests.unit.trainyard.render.test_golden import CASES, job_of, members_of
from trainyard.api import names
from trainyard.api.jobs import DistributedJob, FederatedJob
from trainyard.api.pods import Pod, parse_pod
from trainyard.api.resources import is_extended
from trainyard.render.fetch_pod import fetch_pod
from trainyard.render.pods import coordinator_pod, party_pod, worker_pod
from trainyard.render.trainer_config import config_of
from trainyard.scheduling.conversion import request_of
from trainyard_trainer.contract.config import JobConfig, Target
from trainyard_trainer.contract.env import DATA_DIR, ENV_CONFIG, Role
from trainyard_trainer.contract.federated import FederatedConfig

PODS = list(itertools.product(CASES, ("coordinator", "worker", "fetch")))
FORBIDDEN_VOLUMES = {"hostPath", "nfs", "iscsi", "gcePersistentDisk", "awsElasticBlockStore"}


def render(case: str, kind: str) -> dict[str, Any]:
    job = job_of(case)
    match kind:
        case "coordinator":
            return coordinator_pod(job, 1, NETWORK)
        case "worker":
            return members_of(job)[-1]
        case _:
            return fetch_pod(job, "fetch")


@pytest.mark.parametrize(("case", "kind"), PODS)
def test_every_pod_satisfies_the_restricted_standard(case: str, kind: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    spec = render(case, kind)["spec"]
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}
    shared = spec["securityContext"]
    assert shared["runAsNonRoot"] is True
    assert shared["runAsUser"] != 0
    assert shared["seccompProfile"] == {"type": "RuntimeDefault"}
    for volume in spec["volumes"]:
        assert not volume.keys() & FORBIDDEN_VOLUMES
    for container in spec["containers"]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own["readOnlyRootFilesystem"] is True
        assert "privileged" not in own
        assert not any("hostPort" in port for port in container.get("ports", ()))


@pytest.mark.parametrize(("case", "kind"), PODS)
def test_no_pod_has_access_to_the_api_server(case: str, kind: str) -> None:
    assert render(case, kind)["spec"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize(("case", "kind"), PODS)
def test_no_pod_restarts_in_place(case: str, kind: str) -> None:
    assert render(case, kind)["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("case", CASES)
def test_no_environment_says_how_many_workers_there_are(case: str) -> None:
    """Two sizes of the same job have the same worker, to the byte."""
    job = job_of(case)
    environment = {e["name"]: e.get("value", "") for e in _env(render(case, "worker"))}
    assert not environment.keys() & {"WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR"}
    small = make_job({"workers": {"min": 1, "max": 3, "replicas": 2}})
    large = make_job({"workers": {"min": 1, "max": 9, "replicas": 7}})
    assert worker_pod(small, 0, 1, NETWORK) == worker_pod(large, 0, 1, NETWORK)
    assert coordinator_pod(small, 1, NETWORK) == coordinator_pod(large, 1, NETWORK)
    assert job.key.name in environment["TRAINYARD_COORDINATOR"]


def _env(pod: dict[str, Any]) -> list[dict[str, Any]]:
    (container,) = pod["spec"]["containers"]
    env: list[dict[str, Any]] = container["env"]
    return env


@pytest.mark.parametrize("case", CASES)
def test_each_pod_mounts_its_own_key_and_no_other(case: str) -> None:
    job = job_of(case)
    for manifest in (coordinator_pod(job, 1, NETWORK), *members_of(job)):
        mounted = [v["secret"] for v in manifest["spec"]["volumes"] if "secret" in v]
        assert [secret["secretName"] for secret in mounted] == [
            names.leaf_secret_name(job.key.name)
        ]
        pod = _stored(manifest)
        owner = f"party-{pod.party}" if pod.party else pod.role
        assert [item["key"] for item in mounted[0]["items"]] == [
            "ca.crt",
            f"{owner}.crt",
            f"{owner}.key",
        ]
        assert "ca.key" not in json.dumps(manifest)


def test_a_party_sees_its_own_data_alone_and_cannot_change_it() -> None:
    for manifest in members_of(job_of("federated")):
        claims = [
            v["persistentVolumeClaim"]
            for v in manifest["spec"]["volumes"]
            if "persistentVolumeClaim" in v
        ]
        name = manifest["metadata"]["labels"][names.LABEL_PARTY]
        assert claims == [{"claimName": name, "readOnly": True}]
        [mount] = [
            m
            for m in manifest["spec"]["containers"][0]["volumeMounts"]
            if m["name"] == "trainyard-data"
        ]
        assert mount == {"name": "trainyard-data", "mountPath": DATA_DIR, "readOnly": True}


def test_the_aggregator_knows_all_parties_and_only_it_mounts_its_claim() -> None:
    job = job_of("federated")
    [config] = [
        e["value"] for e in _env(coordinator_pod(job, 1, NETWORK)) if e["name"] == ENV_CONFIG
    ]
    decoded = FederatedConfig.decode(config)
    assert [party.name for party in decoded.parties] == ["budapest", "cleveland", "zurich"]
    assert (decoded.rounds.deadline_seconds, decoded.durable) == (90.0, True)
    assert all("hospitals-state" not in json.dumps(manifest) for manifest in members_of(job))


@pytest.mark.parametrize("case", CASES)
def test_the_operator_reads_its_own_coordinator_back(case: str) -> None:
    job = job_of(case)
    pod = _stored(coordinator_pod(job, 4, NETWORK))
    assert (pod.job, pod.owner_uid) == (job.key, job.uid)
    assert (pod.role, pod.member, pod.attempt, _gpus(pod)) == (Role.COORDINATOR, 0, 4, 0)


@pytest.mark.parametrize("case", CASES)
def test_the_operator_reads_its_own_workers_and_parties_back(case: str) -> None:
    job = job_of(case)
    found = [_stored(manifest) for manifest in members_of(job)]
    assert {(pod.job, pod.owner_uid) for pod in found} == {(job.key, job.uid)}
    expected: list[tuple[Role, names.MemberId, int, int]]
    match job:
        case DistributedJob():
            workers = job.spec.workers
            expected = [(Role.WORKER, 3, 1, workers.gpus)]
        case FederatedJob():
            parties = job.spec.local_parties
            expected = [(Role.PARTY, party.name, 2, party.gpus) for party in parties]
    assert [(pod.role, pod.member, pod.attempt, _gpus(pod)) for pod in found] == expected


@pytest.mark.parametrize("case", CASES)
def test_the_scheduler_counts_what_the_pods_request_and_tolerate(case: str) -> None:
    job = job_of(case)
    request = request_of(job, job.assignment, None, {})
    shapes = [pod.shape for pod in request.gang] or [request.shape]
    assert request.coordinator is not None
    manifests = [*members_of(job), coordinator_pod(job, 1, NETWORK)]
    for manifest, shape in zip(manifests, [*shapes, request.coordinator], strict=True):
        spec = manifest["spec"]
        assert dict(shape.requests) == _stored(manifest).requests
        assert dict(shape.selector) == spec.get("nodeSelector", {})
        counted = [(t.key, t.operator, t.value, t.effect) for t in shape.tolerations]
        tolerated = [
            (t.get("key", ""), t.get("operator", "Equal"), t.get("value", ""), t.get("effect", ""))
            for t in spec["tolerations"]
            if not t.get("key", "").startswith("node.kubernetes.io/")
        ]
        assert counted == tolerated


PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


@pytest.mark.parametrize(
    "affinity",
    [
        pytest.param({}, id="none of the job's own"),
        pytest.param({"podAntiAffinity": {"x": 1}}, id="one of another kind"),
        pytest.param(
            {"nodeAffinity": {"required": 1, PREFERRED: [{"weight": 1, "preference": {}}]}},
            id="one of the same kind",
        ),
    ],
)
def test_a_worker_prefers_the_nodes_on_which_it_was_counted(affinity: dict[str, Any]) -> None:
    job = make_job({"workers": {"template": {"affinity": affinity} if affinity else {}}})
    before = worker_pod(job, 0, 1, NETWORK)["spec"]["affinity"]
    after = worker_pod(job, 0, 1, NETWORK, ("a", "b"))["spec"]["affinity"]
    preferred = after["nodeAffinity"].pop(PREFERRED)
    expressions = [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["a", "b"]}]
    ours = {"weight": 100, "preference": {"matchExpressions": expressions}}
    own = before.get("nodeAffinity", {}).pop(PREFERRED, [])
    assert preferred == [*own, ours]
    assert after == {"nodeAffinity": {}, **before}
    assert affinity == {} or {**affinity, **before} == before, "its own is kept"


def _gpus(pod: Pod) -> int:
    return sum(count for resource, count in pod.requests.items() if is_extended(resource))


def _stored(manifest: dict[str, Any]) -> Pod:
    meta = {"uid": "u", "resourceVersion": "1", "creationTimestamp": "2026-07-01T10:00:00Z"}
    return parse_pod({**manifest, "metadata": {**manifest["metadata"], **meta}})


@pytest.mark.parametrize("case", CASES)
def test_the_longest_name_of_a_job_gives_valid_names_and_labels(case: str) -> None:
    job = make_job(name="j" * 45)
    assert len(coordinator_pod(job, 10**9, NETWORK)["metadata"]["name"]) <= 253
    pod = worker_pod(job, 4095, 10**9, NETWORK)
    assert len(pod["metadata"]["name"]) <= 253
    assert len(names.coordinator_hostname(job.key.name)) <= 63
    assert all(len(str(v)) <= 63 for v in pod["metadata"]["labels"].values())


def test_pods_on_a_lost_node_are_evicted_within_seconds() -> None:
    tolerations = render("minimal", "worker")["spec"]["tolerations"]
    lost = [t for t in tolerations if t["key"].startswith("node.kubernetes.io/")]
    assert {t["tolerationSeconds"] for t in lost} == {20}
    assert len(lost) == 2


def test_an_affinity_of_the_template_replaces_the_preference_for_common_nodes() -> None:
    affinity = render("full", "worker")["spec"]["affinity"]
    assert "podAffinity" not in affinity
    packed = render("minimal", "worker")["spec"]["affinity"]["podAffinity"]
    assert "requiredDuringSchedulingIgnoredDuringExecution" not in packed


def test_only_the_coordinator_mounts_the_state() -> None:
    def claims(job: DistributedJob) -> list[list[str]]:
        pods = (coordinator_pod(job, 1, NETWORK), worker_pod(job, 0, 1, NETWORK))
        return [
            [v["persistentVolumeClaim"]["claimName"] for v in p["spec"]["volumes"] if _is_claim(v)]
            for p in pods
        ]

    assert claims(make_job({"state": {"claimName": "mine"}})) == [["mine"], []]
    assert claims(make_job()) == [[], []]


def _is_claim(volume: dict[str, Any]) -> bool:
    return "persistentVolumeClaim" in volume


def test_two_jobs_on_one_claim_keep_their_state_apart() -> None:
    spec = {"state": {"claimName": "shared"}}
    first, second = make_job(spec), make_job(spec, uid="a namesake, later")
    one, two = (
        {e["name"]: e.get("value") for e in _env(coordinator_pod(j, 1, NETWORK))}
        for j in (first, second)
    )
    assert one["TRAINYARD_STATE"] != two["TRAINYARD_STATE"]


def test_the_coordinator_gets_the_whole_configuration() -> None:
    config = config_of(job_of("full"))
    assert JobConfig.decode(config.encode()) == config
    assert config.target == Target(metric="eval/accuracy", value=0.76)
    assert (config.checkpoint_seconds, config.checkpoint_keep) == (5400.0, 5)
    assert (config.durable, config.min_workers, config.seed) == (True, 2, 42)
    assert config.init == "/models/resnet.safetensors"


def test_a_coordinator_prefers_nodes_without_accelerators_where_a_label_tells_them() -> None:
    spec = coordinator_pod(make_job(), 1, NETWORK, "nvidia.com/gpu.present")["spec"]
    (term,) = spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["preference"]["matchExpressions"] == [
        {"key": "nvidia.com/gpu.present", "operator": "DoesNotExist"}
    ]
    assert "affinity" not in coordinator_pod(make_job(), 1, NETWORK)["spec"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param(
            {"state": {"claimName": "c"}},
            {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"},
            id="the claim has the state",
        ),
        pytest.param(
            {},
            {
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                "karpenter.sh/do-not-disrupt": "true",
            },
            id="it may have the only copy",
        ),
    ],
)
def test_autoscalers_are_told_whether_a_coordinator_may_be_moved(
    spec: dict[str, Any], expected: dict[str, str]
) -> None:
    job = make_job(spec)
    assert coordinator_pod(job, 1, NETWORK)["metadata"]["annotations"] == expected
    assert "annotations" not in worker_pod(job, 0, 1, NETWORK)["metadata"]


TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"team": "vision"}, "annotations": {"example.com/a": "1"}},
    "nodeSelector": {"pool": "gpus"},
    "tolerations": [{"key": "pool", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"x": 1}},
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccountName": "reader",
    "schedulerName": "packing",
    "securityContext": {"runAsUser": 1000, "fsGroup": 2000},
}
COORDINATOR: dict[str, Any] = {
    "metadata": {"labels": {"team": "platform"}, "annotations": {"example.com/a": "2"}},
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "system", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"y": 1}},
    "imagePullSecrets": [{"name": "other"}],
    "serviceAccountName": "coordinators",
    "schedulerName": "other",
    "securityContext": {},
}


def both_kinds(**spec: Any) -> tuple[DistributedJob | FederatedJob, ...]:
    """A job of each kind whose pods have the template, and members with a name of their own."""
    workers = {"workers": {"template": TEMPLATE}, **spec}
    parties = {"parties": [{"name": "ann"}], "template": TEMPLATE, **spec}
    return make_job(workers), make_federation(parties)


def settings_of(pod: dict[str, Any]) -> dict[str, Any]:
    """What a pod has of the fields of a template, without what every pod has."""
    meta, spec = pod["metadata"], pod["spec"]
    own = {k: v for k, v in meta["labels"].items() if "trainyard" not in k + v}
    annotations = {k: v for k, v in meta.get("annotations", {}).items() if "example" in k}
    tolerations = [t for t in spec["tolerations"] if not t["key"].startswith("node.kubernetes")]
    common = ("runAsNonRoot", "seccompProfile", "fsGroupChangePolicy")
    return {
        "metadata": {"labels": own, "annotations": annotations},
        "nodeSelector": spec.get("nodeSelector"),
        "tolerations": [t for t in tolerations if "nvidia" not in t["key"]],
        "affinity": spec.get("affinity"),
        "imagePullSecrets": spec.get("imagePullSecrets"),
        "serviceAccountName": spec.get("serviceAccountName"),
        "schedulerName": spec.get("schedulerName"),
        "securityContext": {k: v for k, v in spec["securityContext"].items() if k not in common},
    }


def test_the_template_reaches_workers_and_parties() -> None:
    for job in both_kinds():
        for pod in members_of(job):
            assert settings_of(pod) == TEMPLATE


def test_a_coordinators_template_reaches_it_and_goes_over_that_of_the_members() -> None:
    for job in both_kinds(coordinator={"template": COORDINATOR}):
        assert settings_of(coordinator_pod(job, 1, NETWORK)) == COORDINATOR


def test_a_coordinator_has_of_the_members_template_what_it_cannot_start_without() -> None:
    """Not their labels and networks, and not their nodes, which have GPUs."""
    shared = ("tolerations", "imagePullSecrets", "securityContext")
    for job in both_kinds():
        found = settings_of(coordinator_pod(job, 1, NETWORK))
        assert {name: found[name] for name in shared} == {n: TEMPLATE[n] for n in shared}
        assert found["metadata"] == {"labels": {}, "annotations": {}}
        assert {found[name] for name in TEMPLATE if name not in (*shared, "metadata")} == {None}


def test_the_pod_that_reads_a_claim_is_placed_as_the_coordinator() -> None:
    for job in both_kinds(coordinator={"template": COORDINATOR}, state={"claimName": "mine"}):
        pod = fetch_pod(job, "fetch")
        assert settings_of(pod) == COORDINATOR
        assert pod["metadata"]["labels"] == COORDINATOR["metadata"]["labels"]


def test_a_template_cannot_take_a_pod_from_its_job() -> None:
    """The API server refuses these labels; jobs of before that rule may have them."""
    stolen = {names.LABEL_JOB: "other", names.LABEL_ROLE: "x", names.LABEL_MANAGED_BY: "helm"}
    job = make_job({"workers": {"template": {"metadata": {"labels": stolen}}}})
    pod = _stored(worker_pod(job, 0, 1, NETWORK))
    assert (pod.job, pod.role) == (job.key, Role.WORKER)


def test_an_annotation_of_the_template_goes_over_that_of_the_operator() -> None:
    ours = "cluster-autoscaler.kubernetes.io/safe-to-evict"
    template = {"metadata": {"annotations": {ours: "true"}}}
    job = make_job({"coordinator": {"template": template}})
    assert coordinator_pod(job, 1, NETWORK)["metadata"]["annotations"][ours] == "true"


IDENTITY = ("runAsUser", "runAsGroup", "fsGroup")


@pytest.mark.parametrize(
    ("context", "user", "expected", "mode"),
    [
        pytest.param(None, 65532, dict.fromkeys(IDENTITY, 65532), 0o440, id="the operator's"),
        pytest.param(None, 7, dict.fromkeys(IDENTITY, 7), 0o440, id="of this installation"),
        pytest.param(None, None, {}, 0o444, id="the platform's, by the installation"),
        pytest.param({}, 65532, {}, 0o444, id="the platform's, by the template"),
        pytest.param({"runAsUser": 9}, 65532, {"runAsUser": 9}, 0o444, id="a user alone"),
        pytest.param({"fsGroup": 9}, None, {"fsGroup": 9}, 0o440, id="a group of files"),
    ],
)
def test_users_and_groups_are_the_templates_or_the_installations(
    context: dict[str, Any] | None, user: int | None, expected: dict[str, int], mode: int
) -> None:
    """The keys are for the group of the pod, where it is known, and else for anyone in the pod."""
    template = {} if context is None else {"securityContext": context}
    distributed = make_job({"workers": {"template": template}})
    federated = make_federation({"parties": [{"name": "ann"}], "template": template})
    for pod in (
        worker_pod(distributed, 0, 1, NETWORK, user=user),
        coordinator_pod(distributed, 1, NETWORK, user=user),
        coordinator_pod(federated, 1, NETWORK, user=user),
        party_pod(federated, "ann", 1, NETWORK, user=user),
    ):
        shared = pod["spec"]["securityContext"]
        assert {name: shared[name] for name in IDENTITY if name in shared} == expected
        assert shared["runAsNonRoot"] is True
        assert shared["seccompProfile"] == {"type": "RuntimeDefault"}
        (keys,) = [v["secret"] for v in pod["spec"]["volumes"] if "secret" in v]
        assert keys["defaultMode"] == mode
