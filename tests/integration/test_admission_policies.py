"""The chart's admission policies on a real API server, tried as the operator's own account."""

from __future__ import annotations

import copy
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from tests.integration.conftest import temporary_namespace
from tests.integration.crd_cases import DISTRIBUTED, Jobs, merged
from tests.integration.test_crd_chart import CHART, helm
from tests.support.federations import make_federation
from tests.support.jobs import NETWORK, make_job
from tools.localcluster import Cluster
from trainyard.api.jobs import DistributedJob
from trainyard.render.network import namespace_service
from trainyard.render.ownership import owner_of
from trainyard.render.pods import coordinator_pod, party_pod, worker_pod
from trainyard.render.secrets import leaf_secret

pytestmark = pytest.mark.integration

DRY: dict[str, Any] = {"dry_run": "All"}
"""Admission runs all the same, and nothing is left behind."""
IN_FORCE_SECONDS = 60
Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A release with the policies, and a namespace for jobs."""

    release: str
    jobs: str
    uid: str
    """Of the DistributedJob `digits` there, which no operator serves."""
    admin: client.CoreV1Api
    operator: client.CoreV1Api
    """As the operator's account."""
    leases: client.CoordinationV1Api
    """As the same."""


@pytest.fixture(scope="module")
def installed(api_cluster: Cluster, api: client.ApiClient) -> Iterator[Installed]:
    release = f"policies-{uuid.uuid4().hex[:8]}"
    values = "crds.install=false,admissionPolicies.enabled=true,installations.namespace="
    helm(api_cluster, release, "install", release, CHART, "--create-namespace", "--set", values)
    try:
        with (
            temporary_namespace(api, "policies") as jobs,
            client.ApiClient(api.configuration) as opened,
        ):
            account = f"system:serviceaccount:{release}:{release}-trainyard"
            opened.set_default_header("Impersonate-User", account)
            unserved = merged(DISTRIBUTED.base, {"spec": {"managedBy": "example.com/other"}})
            manifest = {**unserved, "metadata": {"name": "digits"}}
            job = Jobs(api, jobs, DISTRIBUTED).create(manifest, dry_run=False)
            found = Installed(
                release=release,
                jobs=jobs,
                uid=job["metadata"]["uid"],
                admin=client.CoreV1Api(api),
                operator=client.CoreV1Api(opened),
                leases=client.CoordinationV1Api(opened),
            )
            _wait_until_in_force(found)
            yield found
    finally:
        helm(api_cluster, release, "uninstall", release)
        client.CoreV1Api(api).delete_namespace(release)


def _wait_until_in_force(found: Installed) -> None:
    """The API server enforces a new policy some time after storing it, without a signal."""
    deadline = time.monotonic() + IN_FORCE_SECONDS
    for make in (_opaque_secret, _foreign_service, _foreign_pod):
        while not _is_enforced(partial(make, found)):
            assert time.monotonic() < deadline, "the policies are not enforced"
            time.sleep(0.5)


def _is_enforced(act: Callable[[], object]) -> bool:
    try:
        return _is_refused(act)
    except ApiException:  # the namespace is new, and has no account for pods yet
        return False


def _is_refused(act: Callable[[], object]) -> bool:
    """Whether a policy refuses it; raises ApiException where something else does."""
    try:
        act()
    except ApiException as error:
        if "ValidatingAdmissionPolicy" not in str(error.body):
            raise
        return True
    return False


def _opaque_secret(found: Installed) -> object:
    body = {"metadata": {"name": "foreign"}, "type": "Opaque"}
    return found.operator.create_namespaced_secret(found.jobs, body, **DRY)


def _foreign_service(found: Installed) -> object:
    body = namespace_service(found.jobs, "foreign")
    return found.operator.create_namespaced_service(found.jobs, body, **DRY)


def _foreign_pod(found: Installed) -> object:
    return create_pod(found, lambda pod: pod["metadata"].pop("ownerReferences"))


# --- What the operator does is allowed ---


def job_of(found: Installed) -> DistributedJob:
    return make_job(namespace=found.jobs, uid=found.uid)


def owners(found: Installed) -> list[Manifest]:
    return [owner_of(job_of(found))]


def leaves(found: Installed) -> Manifest:
    return leaf_secret(job_of(found), {"ca.crt": b"x"}, {})


def rendered(found: Installed) -> dict[str, Manifest]:
    job, federation = job_of(found), make_federation(namespace=found.jobs)
    return {
        "coordinator": coordinator_pod(job, 1, NETWORK),
        "worker": worker_pod(job, 0, 1, NETWORK, ("n0",)),
        "party": party_pod(federation, "ann", 1, NETWORK),
        "aggregator": coordinator_pod(federation, 1, NETWORK),
    }


@pytest.mark.parametrize("role", ["coordinator", "worker", "party", "aggregator"])
def test_the_operator_creates_the_pods_of_jobs(installed: Installed, role: str) -> None:
    installed.operator.create_namespaced_pod(installed.jobs, rendered(installed)[role], **DRY)


def test_the_operator_deletes_the_pods_of_jobs(installed: Installed) -> None:
    pod = rendered(installed)["worker"]
    pod["metadata"].pop("ownerReferences")
    name = installed.admin.create_namespaced_pod(installed.jobs, pod).metadata.name
    delete = installed.operator.delete_namespaced_pod
    assert _is_refused(lambda: delete(name, installed.jobs, **DRY))
    owner = {
        "metadata": {
            "ownerReferences": rendered(installed)["worker"]["metadata"]["ownerReferences"]
        }
    }
    installed.admin.patch_namespaced_pod(name, installed.jobs, owner)
    delete(name, installed.jobs, grace_period_seconds=0)


def test_the_operator_writes_certificates_its_master_and_its_lease(installed: Installed) -> None:
    create = installed.operator.create_namespaced_secret
    create(installed.jobs, leaves(installed), **DRY)
    create(installed.release, {"metadata": {"name": "trainyard-master"}, "type": "Opaque"}, **DRY)
    lease = {"metadata": {"name": f"{installed.release}-trainyard"}}
    installed.leases.create_namespaced_lease(installed.release, lease, **DRY)
    service = namespace_service(installed.jobs, "trainyard")
    installed.operator.create_namespaced_service(installed.jobs, service, **DRY)


def test_certificates_are_written_again_in_the_jobs_own_secret_alone(installed: Installed) -> None:
    name = installed.admin.create_namespaced_secret(installed.jobs, leaves(installed)).metadata.name
    patch = installed.operator.patch_namespaced_secret
    patch(name, installed.jobs, {"stringData": {"ca.crt": "y"}}, **DRY)
    installed.admin.create_namespaced_secret(
        installed.jobs, {"metadata": {"name": "foreign-trainyard-tls"}, "type": "Opaque"}
    )
    owned = {"metadata": {"ownerReferences": owners(installed)}}
    for body in ({}, owned):
        assert _is_refused(partial(patch, "foreign-trainyard-tls", installed.jobs, body, **DRY))


# --- And nothing else ---


def create_pod(
    found: Installed, change: Callable[[Manifest], object], namespace: str = ""
) -> object:
    pod = copy.deepcopy(rendered(found)["worker"])
    change(pod)
    pod["metadata"]["namespace"] = namespace or found.jobs
    return found.operator.create_namespaced_pod(namespace or found.jobs, pod, **DRY)


def _unchanged(_: Manifest) -> None:
    """A pod as the operator renders it."""


def _with_token(pod: Manifest) -> None:
    source = {"serviceAccountToken": {"path": "token"}}
    pod["spec"]["volumes"].append({"name": "token", "projected": {"sources": [source]}})


def _init(pod: Manifest, **security: Any) -> None:
    container = copy.deepcopy(pod["spec"]["containers"][0])
    container |= {"name": "init"}
    container["securityContext"] |= security
    pod["spec"]["initContainers"] = [container]


POD_CHANGES: dict[str, Callable[[Manifest], object]] = {
    "without an owner": lambda pod: pod["metadata"].pop("ownerReferences"),
    "of another owner": lambda pod: pod["metadata"]["ownerReferences"][0].update(
        apiVersion="apps/v1", kind="ReplicaSet"
    ),
    "without labels": lambda pod: pod["metadata"].pop("labels"),
    "with its account's token": lambda pod: pod["spec"].update(automountServiceAccountToken=True),
    "that says nothing of the token": lambda pod: pod["spec"].pop("automountServiceAccountToken"),
    "with a projected token": _with_token,
    "with a path of the node": lambda pod: pod["spec"]["volumes"].append(
        {"name": "host", "hostPath": {"path": "/"}}
    ),
    "in the node's network": lambda pod: pod["spec"].update(hostNetwork=True),
    "of root": lambda pod: pod["spec"]["securityContext"].update(runAsUser=0),
    "without a seccomp profile": lambda pod: pod["spec"]["securityContext"].pop("seccompProfile"),
    "with a privileged container": lambda pod: pod["spec"]["containers"][0].pop("securityContext"),
    "with a privileged init container": lambda pod: _init(pod, allowPrivilegeEscalation=True),
    "with an added capability": lambda pod: _init(
        pod, capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]}
    ),
}


@pytest.mark.parametrize("change", POD_CHANGES.values(), ids=POD_CHANGES.keys())
def test_the_operator_creates_no_pod(
    installed: Installed, change: Callable[[Manifest], object]
) -> None:
    assert _is_refused(lambda: create_pod(installed, change))


def test_a_pod_with_a_restricted_init_container_is_allowed(installed: Installed) -> None:
    create_pod(installed, _init)


@pytest.mark.parametrize("where", ["kube-system", "own"])
def test_the_operator_creates_nothing_in_protected_namespaces(
    installed: Installed, where: str
) -> None:
    namespace = installed.release if where == "own" else where
    assert _is_refused(lambda: create_pod(installed, _unchanged, namespace))
    secret, service = leaves(installed), namespace_service(namespace, "trainyard")
    secret["metadata"]["namespace"] = namespace
    operator = installed.operator
    assert _is_refused(lambda: operator.create_namespaced_secret(namespace, secret, **DRY))
    assert _is_refused(lambda: operator.create_namespaced_service(namespace, service, **DRY))


def _with_type(secret: Manifest) -> None:
    """Of a kind that the cluster fills in."""
    account = {"kubernetes.io/service-account.name": "default"}
    secret |= {"type": "kubernetes.io/service-account-token"}
    secret["metadata"]["annotations"] = account


SECRET_CHANGES: dict[str, Callable[[Manifest], object]] = {
    "of another name": lambda secret: secret["metadata"].update(name="foreign"),
    "without an owner": lambda secret: secret["metadata"].pop("ownerReferences"),
    "for the token of an account": _with_type,
}


@pytest.mark.parametrize("change", SECRET_CHANGES.values(), ids=SECRET_CHANGES.keys())
def test_the_operator_creates_no_secret(
    installed: Installed, change: Callable[[Manifest], object]
) -> None:
    secret = leaves(installed)
    change(secret)
    create = installed.operator.create_namespaced_secret
    assert _is_refused(lambda: create(installed.jobs, secret, **DRY))


def test_the_operator_reads_no_foreign_secret_by_a_patch_of_nothing(installed: Installed) -> None:
    body = {"metadata": {"name": "passwords"}, "type": "Opaque"}
    installed.admin.create_namespaced_secret(installed.jobs, body)
    patch = installed.operator.patch_namespaced_secret
    assert _is_refused(lambda: patch("passwords", installed.jobs, {}, **DRY))


def test_the_operator_deletes_no_secret_but_stored_authorities(installed: Installed) -> None:
    create, delete = (
        installed.admin.create_namespaced_secret,
        installed.operator.delete_namespaced_secret,
    )
    for name in ("trainyard-ca-1234", "registry"):
        create(installed.release, {"metadata": {"name": name}, "type": "Opaque"})
    delete("trainyard-ca-1234", installed.release, **DRY)
    assert _is_refused(lambda: delete("registry", installed.release, **DRY))


def test_the_operator_creates_no_service_with_an_address(installed: Installed) -> None:
    service = namespace_service(installed.jobs, "trainyard")
    service["spec"].pop("clusterIP")
    create = installed.operator.create_namespaced_service
    assert _is_refused(lambda: create(installed.jobs, service, **DRY))


def test_the_operator_takes_no_other_lease(installed: Installed) -> None:
    create = installed.leases.create_namespaced_lease
    lease = {"metadata": {"name": "foreign"}}
    assert _is_refused(lambda: create(installed.release, lease, **DRY))


def test_nobody_else_is_concerned(installed: Installed) -> None:
    body = {"metadata": {"name": "foreign"}, "type": "Opaque"}
    installed.admin.create_namespaced_secret(installed.jobs, body, **DRY)
