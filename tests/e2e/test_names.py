"""Coordinators are found by their DNS names, from inside the pods that connect to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.demo.stage import install
from tests.e2e.conftest import RELEASE_SETTINGS, digits, hospitals
from tests.e2e.yard import Object, Yard, phase, trains_on
from tests.support.waiting import eventually
from tools.localcluster import Cluster
from tools.localcluster.node import SECOND_DOMAIN
from trainyard.api.pods import Pod
from trainyard.cluster.execute import CommandError, execute
from trainyard_trainer.contract.env import ENV_COORDINATOR

RESOLVE = (
    "import os, socket; "
    f"host, _, port = os.environ['{ENV_COORDINATOR}'].rpartition(':'); "
    "print(host, *{found[4][0] for found in socket.getaddrinfo(host, port)})"
)


@pytest.fixture
def other_names(cluster: Cluster) -> Iterator[None]:
    """The release with another domain and another name of the Service."""
    install(cluster, *RELEASE_SETTINGS, f"clusterDomain={SECOND_DOMAIN}", "serviceName=found")
    yield
    install(cluster, *RELEASE_SETTINGS)


async def resolved(yard: Yard, member: Pod) -> tuple[str, set[str]]:
    """The coordinator's host in the member's environment, and its addresses as the member sees."""
    command = ["python", "-c", RESOLVE]
    try:
        chunks = execute(yard.client, member.namespace, member.name, "trainer", command)
        host, *addresses = b"".join([chunk async for chunk in chunks]).decode().split()
    except CommandError as error:
        raise AssertionError(str(error)) from error
    return host, set(addresses)


async def until_found(yard: Yard, name: str, role: str, term: int, host: str) -> None:
    """Wait until each member resolves the coordinator of this term, and it alone."""

    async def check() -> None:
        coordinators = [p for p in await yard.pods(name, "coordinator") if p.is_running]
        assert [pod.attempt for pod in coordinators] == [term]
        members = [pod for pod in await yard.pods(name, role) if pod.is_running]
        assert members
        for member in members:
            assert await resolved(yard, member) == (host, {coordinators[0].ip})

    await eventually(check, seconds=120)


ENDLESS: dict[str, tuple[Callable[[str], Object], str]] = {
    "worker": (lambda name: digits(name, training={"epochs": 100_000}), "worker"),
    "party": (lambda name: hospitals(name, rounds={"max": 100_000}), "party"),
}


@pytest.mark.parametrize("member", ENDLESS)
async def test_members_find_their_coordinator_also_after_its_death(yard: Yard, member: str) -> None:
    manifest, role = ENDLESS[member]
    await yard.submit(manifest("found"))
    await yard.wait("found", "it runs", lambda job: phase(job) == "Running")
    host = f"found-coordinator.trainyard.{yard.namespace}.svc.cluster.local"
    await until_found(yard, "found", role, 1, host)
    [coordinator] = await yard.pods("found", "coordinator")
    await yard.kill(coordinator)
    await until_found(yard, "found", role, 2, host)


@pytest.mark.usefixtures("other_names")
async def test_members_find_their_coordinator_in_another_domain(yard: Yard) -> None:
    """The operator too: it reads the metrics under the name that the certificate has."""
    await yard.submit(digits("found", training={"epochs": 100_000}))
    await yard.wait("found", "a worker trains", trains_on(1))
    host = f"found-coordinator.found.{yard.namespace}.svc.{SECOND_DOMAIN}"
    await until_found(yard, "found", "worker", 1, host)
