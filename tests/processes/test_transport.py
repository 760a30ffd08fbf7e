"""Mutual TLS: the peers that coordinators and workers accept."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.processes.certificates import Authority, client
from tests.processes.job import Job
from tests.processes.running import free_port
from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import PATH_HEALTH, PATH_METRICS, PATH_PLAN, PATH_STATE, Role
from trainyard_trainer.contract.metrics import Metric
from trainyard_trainer.coordinator.server import Coordinator
from trainyard_trainer.runtime.exits import TrainerError
from trainyard_trainer.transport.connection import CoordinatorConnection
from trainyard_trainer.transport.tls import Credentials


@contextlib.asynccontextmanager
async def coordinator(tmp_path: Path, tls: Path) -> AsyncIterator[str]:
    credentials = Credentials(namespace="test", job="job", directory=str(tls))
    served = Coordinator(JobConfig(task="m:C"), 1, tmp_path / "state", credentials)
    # All addresses, as in a pod: with port 0 each address family would have a port of its own.
    async with served.serving(None, free_port()) as port:
        yield f"https://127.0.0.1:{port}"


async def get(url: str, context: ssl.SSLContext) -> int:
    connector = aiohttp.TCPConnector(ssl=context, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as response:
        return response.status


@pytest.mark.parametrize(
    ("role", "path", "status"),
    [
        (Role.OPERATOR, PATH_METRICS, 200),
        (Role.OPERATOR, PATH_HEALTH, 200),
        (Role.OPERATOR, PATH_STATE, 403),
        (Role.WORKER, PATH_METRICS, 403),
        (Role.WORKER, PATH_PLAN, 403),
        (Role.WORKER, PATH_STATE, 404),
        (Role.COORDINATOR, PATH_METRICS, 403),
    ],
)
async def test_each_role_may_only_use_its_own_paths(
    tmp_path: Path, role: Role, path: str, status: int
) -> None:
    authority = Authority()
    mine = client(authority.issue(tmp_path / "peer", role))
    async with coordinator(tmp_path, authority.issue(tmp_path / "tls", Role.COORDINATOR)) as url:
        assert await get(url + path, mine) == status


async def test_certificates_of_other_jobs_and_authorities_fail_the_handshake(
    tmp_path: Path,
) -> None:
    authority, foreign = Authority(), Authority()
    tls = authority.issue(tmp_path / "tls", Role.COORDINATOR)
    impostor = foreign.issue(tmp_path / "foreign", Role.OPERATOR)
    (impostor / "ca.crt").write_bytes((tls / "ca.crt").read_bytes())
    neighbor = authority.issue(tmp_path / "neighbor", Role.OPERATOR, job="other")
    anonymous = ssl.create_default_context(cafile=str(tls / "ca.crt"))
    anonymous.check_hostname = False
    async with coordinator(tmp_path, tls) as url:
        for context in (client(impostor), client(neighbor), anonymous):
            with pytest.raises(aiohttp.ClientError):
                await get(url + PATH_HEALTH, context)


async def test_a_worker_connects_only_to_its_jobs_coordinator(tmp_path: Path) -> None:
    authority = Authority()
    worker = authority.issue(tmp_path / "worker", Role.WORKER)
    mine = Credentials(namespace="test", job="job", directory=str(worker))
    not_a_coordinator = authority.issue(tmp_path / "tls", Role.WORKER)
    async with coordinator(tmp_path, not_a_coordinator) as url:
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match="not trainyard://"):
            await get(url + PATH_HEALTH, mine.client())


async def test_new_handshakes_use_renewed_certificates(tmp_path: Path) -> None:
    old, new = Authority(), Authority()
    tls = old.issue(tmp_path / "tls", Role.COORDINATOR)
    peer = tmp_path / "peer"
    mine = Credentials(namespace="test", job="job", directory=str(old.issue(peer, Role.WORKER)))
    async with coordinator(tmp_path, tls) as url:
        before = mine.client()
        assert await get(url + PATH_HEALTH, before) == 200
        new.issue(tls, Role.COORDINATOR)
        new.issue(peer, Role.WORKER)
        assert await get(url + PATH_HEALTH, mine.client()) == 200
        with pytest.raises(aiohttp.ClientError):
            await get(url + PATH_HEALTH, before)


async def test_plain_http_is_for_loopback_only(tmp_path: Path) -> None:
    credentials = Credentials(namespace="test", job="job", directory=str(tmp_path / "none"))
    with pytest.raises(TrainerError, match="plain HTTP is for loopback"):
        CoordinatorConnection("10.0.0.1:7430", credentials)
    refusing = Coordinator(JobConfig(task="m:C"), 1, tmp_path / "state", credentials)
    with pytest.raises(TrainerError, match="refusing plain HTTP"):
        async with refusing.serving(None, 0):
            await asyncio.sleep(0)


def test_a_job_trains_over_mutual_tls(tmp_path: Path) -> None:
    authority = Authority()
    with Job(tmp_path, min_workers=2) as job:
        job.tls = client(authority.issue(tmp_path / "operator", Role.OPERATOR))
        authority.issue(tmp_path / "coordinator-tls", Role.COORDINATOR)
        authority.issue(tmp_path / "worker-tls", Role.WORKER)
        job.start("a", "b")
        job.wait_for_active(2)
        assert job.metric(Metric.VIEW) == 1
        assert job.finish()["samples_wrong"] == 0
