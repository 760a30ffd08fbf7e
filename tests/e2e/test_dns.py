"""Coordinators are found by their DNS names, from inside the pods that connect to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.demo.environment import install
from tests.e2e.conftest import RELEASE_SETTINGS, digits, hospitals
from tests.e2e.testbed import Testbed, trains_on
from tests.support.manifests import Object
from tests.support.waiting import eventually
from tools.localcluster import Cluster
from tools.localcluster.node import SECOND_DOMAIN
from trainyard.api.pods import Pod
from trainyard.cluster.execute import CommandError
from trainyard_trainer.contract.env import ENV_COORDINATOR

RESOLVE = (
    "import os, socket; "
    f"host, _, port = os.environ['{ENV_COORDINATOR}'].rpartition(':'); "
    "print(host, *{info[4][0] for info in socket.getaddrinfo(host, port)})"
)


@pytest.fixture
def other_names(cluster: Cluster) -> Iterator[None]:
    """The release with another domain and another name of the Service."""
    install(
        cluster, *RELEASE_SETTINGS, f"clusterDomain={SECOND_DOMAIN}", "serviceName=coordinators"
    )
    yield
    install(cluster, *RELEASE_SETTINGS)


async def resolve(testbed: Testbed, member: Pod) -> tuple[str, set[str]]:
    """The coordinator's host in the member's environment, and its addresses as the member sees."""
    try:
        host, *addresses = (await testbed.execute(member, "python", "-c", RESOLVE)).split()
    except CommandError as error:
        raise AssertionError(str(error)) from error
    return host, set(addresses)


async def wait_for_resolution(testbed: Testbed, name: str, role: str, term: int, host: str) -> None:
    """Wait until each member resolves the coordinator of this term, and it alone."""

    async def check() -> None:
        coordinators = [p for p in await testbed.job_pods(name, "coordinator") if p.is_running]
        assert [pod.attempt for pod in coordinators] == [term]
        members = [pod for pod in await testbed.job_pods(name, role) if pod.is_running]
        assert members
        for member in members:
            assert await resolve(testbed, member) == (host, {coordinators[0].ip})

    await eventually(check, seconds=120)


ENDLESS: dict[str, tuple[Callable[[str], Object], str]] = {
    "worker": (lambda name: digits(name, training={"epochs": 100_000}), "worker"),
    "party": (lambda name: hospitals(name, rounds={"max": 100_000}), "party"),
}


@pytest.mark.parametrize("member", ENDLESS)
async def test_members_resolve_their_coordinator_also_after_its_death(
    testbed: Testbed, member: str
) -> None:
    manifest, role = ENDLESS[member]
    await testbed.create_job(manifest("digits"))
    await testbed.wait_for_phase("digits", "Running")
    host = f"digits-coordinator.trainyard.{testbed.namespace}.svc.cluster.local"
    await wait_for_resolution(testbed, "digits", role, 1, host)
    [coordinator] = await testbed.job_pods("digits", "coordinator")
    await testbed.kill(coordinator)
    await wait_for_resolution(testbed, "digits", role, 2, host)


@pytest.mark.usefixtures("other_names")
async def test_members_resolve_their_coordinator_in_another_domain(testbed: Testbed) -> None:
    """The operator too: it reads the metrics under the name that the certificate has."""
    await testbed.create_job(digits("digits", training={"epochs": 100_000}))
    await testbed.wait_for("digits", trains_on(1), "a worker trains")
    host = f"digits-coordinator.coordinators.{testbed.namespace}.svc.{SECOND_DOMAIN}"
    await wait_for_resolution(testbed, "digits", "worker", 1, host)
