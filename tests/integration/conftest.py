"""A real API server for the tests of this folder, with our resources installed in it."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from tests.integration.crd_cases import CRDS, DISTRIBUTED, FEDERATED, Jobs, Kind, merged
from tests.support.kubelet import Kubelet
from tests.support.process import OperatorProcess
from tests.support.testbed import Testbed
from tools.localcluster import Cluster, ClusterOptions, open_cluster
from tools.localcluster.commands import run
from trainyard.cluster.client import KubeClient

CLUSTER = os.environ.get("TRAINYARD_TEST_CLUSTER", "trainyard-test-api")
"""Concurrent runs need different clusters: a run that starts one takes it down at its end."""
COLLECTOR_SECONDS = 120
SCHEMA_SECONDS = 3
"""The API server applies a changed schema some time after storing it, without a signal."""


@pytest.fixture(scope="session")
def api_cluster() -> Iterator[Cluster]:
    """The control plane of these tests."""
    with open_control_plane(CLUSTER) as cluster:
        yield cluster


@contextlib.contextmanager
def open_control_plane(name: str) -> Iterator[Cluster]:
    """A control plane without nodes, with the CRDs of this checkout; started if necessary."""
    with open_cluster(ClusterOptions(name=name, control_plane_only=True)) as cluster:
        install_crds(cluster)
        yield cluster


def install_crds(cluster: Cluster) -> None:
    """Apply `crds/` and wait until the API server serves it."""
    kubectl: list[str | Path] = [cluster.kubectl, "--kubeconfig", cluster.kubeconfig]
    applied = run([*kubectl, "apply", "-f", CRDS])
    run([*kubectl, "wait", "-f", CRDS, "--for", "condition=Established", "--timeout=30s"])
    if "configured" in applied:
        time.sleep(SCHEMA_SECONDS)


@pytest.fixture(scope="session")
def api(api_cluster: Cluster) -> Iterator[client.ApiClient]:
    """A client of that API server, as an administrator."""
    with config.new_client_from_config(config_file=str(api_cluster.kubeconfig)) as opened:
        yield opened


@pytest.fixture(scope="session")
def collected(api: client.ApiClient, namespace: str) -> None:
    """Wait until the garbage collector, which discovers kinds every 30 s, collects ours."""
    _wait_for_collection(api, namespace, DISTRIBUTED)
    _wait_for_collection(api, namespace, FEDERATED)


def _wait_for_collection(api: client.ApiClient, namespace: str, kind: Kind) -> None:
    jobs, core = Jobs(api, namespace, kind), client.CoreV1Api(api)
    manifest = merged(kind.base, {"spec": {"managedBy": "example.com/other"}})
    job = jobs.create({**manifest, "metadata": {"name": "owner"}}, dry_run=False)
    owner = {k: job[k] for k in ("apiVersion", "kind")}
    owner |= {k: job["metadata"][k] for k in ("name", "uid")}
    name = f"owned-{kind.plural}"
    owned = {"metadata": {"name": name, "ownerReferences": [owner]}}
    core.create_namespaced_config_map(namespace, owned)
    jobs.delete("owner")
    deadline = time.monotonic() + COLLECTOR_SECONDS
    while any(c.metadata.name == name for c in core.list_namespaced_config_map(namespace).items):
        assert time.monotonic() < deadline, f"the garbage collector does not collect {kind.plural}"
        time.sleep(0.5)


@contextlib.contextmanager
def temporary_namespace(api: client.ApiClient, prefix: str) -> Iterator[str]:
    """The name of a new namespace, which is deleted afterwards."""
    name = f"{prefix}-{uuid.uuid4().hex[:8]}"
    core = client.CoreV1Api(api)
    core.create_namespace({"metadata": {"name": name}})
    yield name
    core.delete_namespace(name)


@pytest.fixture(scope="session")
def namespace(api: client.ApiClient) -> Iterator[str]:
    """A namespace of this run, as clusters are reused."""
    with temporary_namespace(api, "crd") as name:
        yield name


@pytest.fixture
async def kube(api_cluster: Cluster) -> AsyncIterator[KubeClient]:
    """The operator's client class, connected to that API server."""
    async with await KubeClient.connect(api_cluster.kubeconfig) as client:
        yield client


@pytest.fixture
async def testbed(kube: KubeClient) -> AsyncIterator[Testbed]:
    """The test's own namespace and nodes."""
    created = Testbed(kube, f"testbed-{uuid.uuid4().hex[:8]}")
    await created.open()
    yield created
    await created.close()


@pytest.fixture
async def kubelet(testbed: Testbed) -> AsyncIterator[Kubelet]:
    """The kubelet of the testbed's unattended nodes."""
    async with Kubelet(testbed) as running:
        yield running


@pytest.fixture(scope="module")
def operator_namespace(api: client.ApiClient) -> Iterator[str]:
    """The namespace of a module's operators."""
    with temporary_namespace(api, "operator") as name:
        yield name


@pytest.fixture(scope="module")
def operator_options() -> tuple[str, ...]:
    """Options of the module's operator; a module that needs some overrides this."""
    return ()


@pytest.fixture(scope="module")
def operator(
    api_cluster: Cluster,
    collected: None,
    operator_namespace: str,
    operator_options: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[OperatorProcess]:
    """The operator, for all tests of a module."""
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    process = OperatorProcess(api_cluster.kubeconfig, operator_namespace, log, *operator_options)
    process.start()
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.stop()


@pytest.fixture
def restartable(
    api_cluster: Cluster, collected: None, operator_namespace: str, tmp_path: Path
) -> Iterator[OperatorProcess]:
    """An operator that the test starts and kills; not for use beside `operator`."""
    process = OperatorProcess(api_cluster.kubeconfig, operator_namespace, tmp_path / "operator.log")
    yield process
    process.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, Any]:
    """Show the end of the operator's log beside a failure."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            if isinstance(value, OperatorProcess):
                report.sections.append((f"operator ({value.log})", value.tail()))
    return report
