"""The Helm chart on a real API server: installation, RBAC, upgrade and removal."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client

from tests.integration.crd_cases import CRD, SCHEMA
from tools.localcluster import Cluster
from tools.localcluster.commands import run

pytestmark = pytest.mark.integration

CHART = Path(__file__).parents[2] / "manifests" / "charts" / "trainyard"
NAME = CRD["metadata"]["name"]


@pytest.fixture(scope="module")
def release(api_cluster: Cluster, api: client.ApiClient) -> Iterator[str]:
    """Install the chart in its own namespace, which is deleted at the end."""
    name = f"chart-{uuid.uuid4().hex[:8]}"
    # The cluster has the CRDs already, as after `kubectl apply -f crds/`.
    helm(api_cluster, name, "install", name, CHART, "--create-namespace", *OWNING)
    yield name
    client.CoreV1Api(api).delete_namespace(name)


OWNING = ("--take-ownership", "--force-conflicts")


def helm(cluster: Cluster, namespace: str, *args: str | Path) -> str:
    options = ("--kubeconfig", cluster.kubeconfig, "--namespace", namespace)
    return run([cluster.helm, *args, *options])


def live_schema(api: client.ApiClient) -> object:
    crd = client.ApiextensionsV1Api(api).read_custom_resource_definition(NAME)
    version = api.sanitize_for_serialization(crd)["spec"]["versions"][0]
    return version["schema"]["openAPIV3Schema"]


RIGHTS = {
    "reads jobs anywhere": (True, "list", "trainyard.dev/distributedjobs", "default"),
    "writes their status": (True, "update", "trainyard.dev/distributedjobs/status", "default"),
    "never writes a spec": (False, "patch", "trainyard.dev/distributedjobs", "default"),
    "reads jobs of the other kind": (True, "watch", "trainyard.dev/federatedjobs", "default"),
    "writes the status of those": (True, "update", "trainyard.dev/federatedjobs/status", "default"),
    "never writes a spec of those": (False, "patch", "trainyard.dev/federatedjobs", "default"),
    "creates pods": (True, "create", "/pods", "default"),
    "never executes in pods": (False, "create", "/pods/exec", "default"),
    "creates secrets": (True, "create", "/secrets", "default"),
    "reads no secret of a job's namespace": (False, "get", "/secrets", "default"),
    "lists no secret of a job's namespace": (False, "list", "/secrets", "default"),
    "reads the master secret": (True, "get", "/secrets:trainyard-master", ""),
    "reads no other secret of its namespace": (False, "get", "/secrets", ""),
    "changes the master secret": (True, "patch", "/secrets:trainyard-master", ""),
    "lists the events of a pod": (True, "list", "/events", "default"),
    "watches no events": (False, "watch", "/events", "default"),
    "creates services": (True, "create", "/services", "default"),
    "changes no service": (False, "patch", "/services", "default"),
    "deletes no service": (False, "delete", "/services", "default"),
    "creates a lease in its namespace": (True, "create", "coordination.k8s.io/leases", ""),
    "writes no lease but its own": (False, "update", "coordination.k8s.io/leases", ""),
    "reads no lease elsewhere": (False, "get", "coordination.k8s.io/leases", "kube-system"),
    "watches nodes": (True, "watch", "/nodes", "default"),
    "changes no node": (False, "patch", "/nodes", "default"),
    "grants nothing": (False, "create", "rbac.authorization.k8s.io/clusterroles", "default"),
}


@pytest.mark.parametrize("right", RIGHTS.values(), ids=RIGHTS.keys())
def test_the_rights_of_the_operators_service_account(
    api: client.ApiClient, release: str, right: tuple[bool, str, str, str]
) -> None:
    """Of a resource `GROUP/NAME[/SUBRESOURCE]`, or of the one object after a colon."""
    expected, verb, kind, namespace = right
    kind, _, name = kind.partition(":")
    group, resource, *sub = kind.split("/")
    account = f"{release}-trainyard"
    review = {
        "spec": {
            "user": f"system:serviceaccount:{release}:{account}",
            "groups": ["system:serviceaccounts"],
            "resourceAttributes": {
                "group": group,
                "resource": resource,
                "subresource": "".join(sub),
                "name": name,
                "verb": verb,
                "namespace": namespace or release,
            },
        }
    }
    response = client.AuthorizationV1Api(api).create_subject_access_review(review)
    assert response.status.allowed is expected


def test_the_deployment_runs_under_the_account_with_the_rights(
    api: client.ApiClient, release: str
) -> None:
    deployment = client.AppsV1Api(api).read_namespaced_deployment(f"{release}-trainyard", release)
    assert deployment.spec.template.spec.service_account_name == f"{release}-trainyard"


def test_an_upgrade_updates_the_schema(
    api_cluster: Cluster, api: client.ApiClient, release: str
) -> None:
    old = {"description": "An old schema."}
    versions = [{**CRD["spec"]["versions"][0], "schema": {"openAPIV3Schema": {**SCHEMA, **old}}}]
    client.ApiextensionsV1Api(api).patch_custom_resource_definition(
        NAME, {"spec": {"versions": versions}}
    )
    assert live_schema(api) != SCHEMA
    helm(api_cluster, release, "upgrade", release, CHART, "--force-conflicts")
    assert live_schema(api) == SCHEMA


def test_uninstalling_keeps_the_crds(
    api_cluster: Cluster, api: client.ApiClient, release: str
) -> None:
    helm(api_cluster, release, "uninstall", release)
    assert live_schema(api) == SCHEMA
    assert not client.AppsV1Api(api).list_namespaced_deployment(release).items
