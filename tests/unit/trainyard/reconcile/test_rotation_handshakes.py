"""Who accepts whom while the master is rotated, in real TLS handshakes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from cryptography import x509

from tests.support.fakeapi import FakeApi
from tests.support.jobs import make_job
from tests.support.rotation import JOBS, NOW, Operator, files, phases
from trainyard_trainer.transport.tls import Credentials

HOST = "digits-coordinator.team.svc.cluster.local"


def install(folder: Path, copy: Mapping[str, bytes], name: str) -> Credentials:
    """What the kubelet mounts into a pod of that role."""
    folder.mkdir(exist_ok=True)
    for target, source in (
        ("ca.crt", "ca.crt"),
        ("tls.crt", f"{name}.crt"),
        ("tls.key", f"{name}.key"),
    ):
        (folder / target).write_bytes(copy[source])
    return Credentials(namespace="team", job="digits", directory=str(folder))


@contextlib.asynccontextmanager
async def listen(credentials: Credentials) -> AsyncIterator[int]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0, ssl=credentials.server())
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(100):
            writer.write(data)
            await writer.drain()
        writer.close()


async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"hello")
    await writer.drain()
    return await reader.read(100)


async def talk(port: int, context: ssl.SSLContext, host: str | None = None) -> bytes:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=host or ""
        )
        try:
            answer = await say(reader, writer)
            if not answer:
                raise ConnectionResetError("the peer hung up")
            return answer
        finally:
            writer.close()


async def test_all_processes_accept_each_other_in_every_phase(tmp_path: Path) -> None:
    """Each side with its Secret of this phase or the last one, the operator with its master."""
    api, job = FakeApi(), JOBS[0]
    last: dict[str, bytes] = {}
    signers, bundles, talked = [], [], 0
    async for phase, operator in phases(api):
        copy = files(api, job)
        context = await operator.deps.authorities.operator_context(job.key, job.uid, NOW)
        for number, (server, client) in enumerate(itertools.product((copy, last), repeat=2)):
            if not server or not client:
                continue
            folder = tmp_path / f"{phase}-{number}"
            folder.mkdir()
            coordinator = install(folder / "coordinator", server, "coordinator")
            worker = install(folder / "worker", client, "worker")
            async with listen(coordinator) as port:
                assert await talk(port, worker.client()) == b"hello", phase
                assert await talk(port, context, HOST) == b"hello", phase
                talked += 1
        last = copy
        signers.append(x509.load_pem_x509_certificate(copy["worker.crt"]))
        bundles.append(x509.load_pem_x509_certificates(copy["ca.crt"]))
    assert talked == 1 + 3 * 4
    old, new = bundles[1]
    assert bundles == [[old], [old, new], [old, new], [new]]
    for leaf, signer in zip(signers, (old, old, new, new), strict=True):
        leaf.verify_directly_issued_by(signer)


async def test_the_phases_would_fail_without_the_overlap(tmp_path: Path) -> None:
    """What the test above would find: old and new do not know each other."""
    api = FakeApi()
    copies = [files(api, JOBS[0]) async for _ in phases(api)]
    coordinator = install(tmp_path / "coordinator", copies[0], "coordinator")
    worker = install(tmp_path / "worker", copies[-1], "worker")
    async with listen(coordinator) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await talk(port, worker.client())


async def test_an_open_connection_lives_through_the_rotation_and_new_ones_follow(
    tmp_path: Path,
) -> None:
    api = FakeApi()
    async with contextlib.AsyncExitStack() as stack:
        port, connection = 0, None
        async for phase, _ in phases(api):
            copy = files(api, JOBS[0])
            coordinator = install(tmp_path / "coordinator", copy, "coordinator")
            worker = install(tmp_path / "worker", copy, "worker")
            if connection is None:
                port = await stack.enter_async_context(listen(coordinator))
                connection = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=worker.client(), server_hostname=""
                )
            assert await say(*connection) == b"hello", phase
            assert await talk(port, worker.client()) == b"hello", phase
        assert connection is not None
        connection[1].close()


async def test_a_job_made_anew_under_its_name_refuses_the_old_certificates(tmp_path: Path) -> None:
    api, old = FakeApi(), make_job()
    await Operator(api, jobs=(old,)).run()
    stolen = files(api, old)
    new = make_job(uid="another-uid")
    await Operator(api, jobs=(new,)).run()
    copy = files(api, new)
    assert stolen["ca.crt"] != copy["ca.crt"]
    coordinator = install(tmp_path / "coordinator", copy, "coordinator")
    thief = install(tmp_path / "thief", {**stolen, "ca.crt": copy["ca.crt"]}, "worker")
    worker = install(tmp_path / "worker", copy, "worker")
    async with listen(coordinator) as port:
        assert await talk(port, worker.client()) == b"hello"
        with pytest.raises(OSError, match=r"."):
            await talk(port, thief.client())
    impostor = install(tmp_path / "impostor", stolen, "coordinator")
    async with listen(impostor) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await talk(port, worker.client())
