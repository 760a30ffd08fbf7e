"""The job's authority: who may connect to whom, in real TLS handshakes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store

from tests.support.authorities import authority_of
from tests.support.jobs import KEY
from trainyard.cluster.certificates import (
    LEAF_LIFE,
    RENEW_AFTER,
    Authority,
    KeyPair,
    client_context,
    issue,
)
from trainyard_trainer.contract.env import Role
from trainyard_trainer.transport.tls import Credentials

HOST = "digits-coordinator.trainyard.team.svc.cluster.local"
OTHER = KEY._replace(name="other")


@pytest.fixture(scope="module")
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def authority(now: datetime) -> Authority:
    return authority_of(KEY, now)


@pytest.fixture(scope="module")
def foreign(now: datetime) -> Authority:
    """The authority of another job."""
    return authority_of(OTHER, now, uid="uid-of-other")


class Server:
    """A coordinator's listening socket with the trainer's own TLS; it echoes."""

    def __init__(self, folder: Path, authority: Authority, leaf: KeyPair) -> None:
        self.credentials = Credentials(namespace=KEY.namespace, job=KEY.name, directory=str(folder))
        self.folder, self.authority = folder, authority
        self.install(leaf)

    def install(self, leaf: KeyPair) -> None:
        for name, content in (
            ("ca.crt", self.authority.pem),
            ("tls.crt", leaf.certificate),
            ("tls.key", leaf.key),
        ):
            (self.folder / name).write_bytes(content)

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(_echo, "127.0.0.1", 0, ssl=self.credentials.server())
        async with server:
            yield server.sockets[0].getsockname()[1]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.write(await reader.read(100))
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def talk(port: int, context: ssl.SSLContext, host: str = HOST) -> bytes:
    """The response; raises OSError (SSLError among them) when either side refuses."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=host
        )
        try:
            writer.write(b"hello")
            await writer.drain()
            answer = await reader.read()
            if not answer:
                raise ConnectionResetError("the peer hung up")
            return answer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def test_operator_and_coordinator_of_a_job_connect(
    tmp_path: Path, authority: Authority, now: datetime
) -> None:
    server = Server(tmp_path, authority, issue(authority, KEY, Role.COORDINATOR, now, (HOST,)))
    operator = issue(authority, KEY, Role.OPERATOR, now)
    async with server.listen() as port:
        assert await talk(port, client_context(authority.pem, operator)) == b"hello"


async def test_the_operator_refuses_another_jobs_coordinator(
    tmp_path: Path, authority: Authority, foreign: Authority, now: datetime
) -> None:
    server = Server(tmp_path, foreign, issue(foreign, KEY, Role.COORDINATOR, now, (HOST,)))
    operator = issue(authority, KEY, Role.OPERATOR, now)
    async with server.listen() as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await talk(port, client_context(authority.pem, operator))


async def test_the_operator_refuses_a_worker_that_poses_as_the_coordinator(
    tmp_path: Path, authority: Authority, now: datetime
) -> None:
    server = Server(tmp_path, authority, issue(authority, KEY, Role.WORKER, now))
    operator = issue(authority, KEY, Role.OPERATOR, now)
    async with server.listen() as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await talk(port, client_context(authority.pem, operator))


async def test_the_operator_refuses_a_coordinator_under_another_name(
    tmp_path: Path, authority: Authority, now: datetime
) -> None:
    server = Server(tmp_path, authority, issue(authority, KEY, Role.COORDINATOR, now, (HOST,)))
    operator = issue(authority, KEY, Role.OPERATOR, now)
    async with server.listen() as port:
        context = client_context(authority.pem, operator)
        with pytest.raises(ssl.SSLCertVerificationError):
            await talk(port, context, "other-coordinator.trainyard.team.svc.cluster.local")


async def test_the_coordinator_refuses_a_client_of_another_authority(
    tmp_path: Path, authority: Authority, foreign: Authority, now: datetime
) -> None:
    server = Server(tmp_path, authority, issue(authority, KEY, Role.COORDINATOR, now, (HOST,)))
    impostor = issue(foreign, KEY, Role.OPERATOR, now)
    async with server.listen() as port:
        with pytest.raises(OSError, match=r"."):
            await talk(port, client_context(authority.pem, impostor))


async def test_the_coordinator_refuses_a_client_that_is_named_after_another_job(
    tmp_path: Path, authority: Authority, now: datetime
) -> None:
    server = Server(tmp_path, authority, issue(authority, KEY, Role.COORDINATOR, now, (HOST,)))
    misnamed = issue(authority, OTHER, Role.OPERATOR, now)
    async with server.listen() as port:
        with pytest.raises(OSError, match=r"."):
            await talk(port, client_context(authority.pem, misnamed))


async def test_an_expired_leaf_is_refused(
    tmp_path: Path, authority: Authority, now: datetime
) -> None:
    old = now - LEAF_LIFE - timedelta(days=1)
    server = Server(tmp_path, authority, issue(authority, KEY, Role.COORDINATOR, old, (HOST,)))
    operator = issue(authority, KEY, Role.OPERATOR, now)
    async with server.listen() as port:
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            await talk(port, client_context(authority.pem, operator))


async def test_a_renewed_leaf_is_used_without_a_restart(
    tmp_path: Path, authority: Authority, now: datetime
) -> None:
    old = now - LEAF_LIFE - timedelta(days=1)
    server = Server(tmp_path, authority, issue(authority, KEY, Role.COORDINATOR, old, (HOST,)))
    operator = client_context(authority.pem, issue(authority, KEY, Role.OPERATOR, now))
    async with server.listen() as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await talk(port, operator)
        server.install(issue(authority, KEY, Role.COORDINATOR, now, (HOST,)))
        assert await talk(port, operator) == b"hello"


@pytest.mark.parametrize("role", list(Role))
def test_a_leaf_chains_to_its_authority_by_strict_rules(
    role: Role, authority: Authority, now: datetime
) -> None:
    """The strict rules of RFC 5280, as newer OpenSSL and browsers apply them."""
    leaf = x509.load_pem_x509_certificate(issue(authority, KEY, role, now, (HOST,)).certificate)
    store = Store([authority.certificate])
    verifier = PolicyBuilder().store(store).time(now.replace(tzinfo=None))
    verifier.build_server_verifier(x509.DNSName(HOST)).verify(leaf, [])
    subject = verifier.build_client_verifier().verify(leaf, [])
    assert subject.subjects is not None
    uris = [s.value for s in subject.subjects if isinstance(s, x509.UniformResourceIdentifier)]
    assert uris == [f"trainyard://team/digits/{role}"]


def test_only_the_leaf_of_a_server_names_a_host(authority: Authority, now: datetime) -> None:
    leaf = x509.load_pem_x509_certificate(issue(authority, KEY, Role.WORKER, now).certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == []


def test_an_authority_signs_leaves_but_no_authorities(authority: Authority, now: datetime) -> None:
    root = authority.certificate
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    leaf = x509.load_pem_x509_certificate(issue(authority, KEY, Role.WORKER, now).certificate)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_leaves_are_renewed_well_before_they_expire(authority: Authority, now: datetime) -> None:
    leaf = x509.load_pem_x509_certificate(issue(authority, KEY, Role.WORKER, now).certificate)
    assert leaf.not_valid_before_utc < now
    assert leaf.not_valid_after_utc - (now + RENEW_AFTER) > timedelta(days=28)


def test_every_leaf_has_a_key_of_its_own(authority: Authority, now: datetime) -> None:
    keys = {issue(authority, KEY, role, now).key for role in Role}
    assert len(keys) == len(Role)
    private = [load_pem_private_key(key, None) for key in keys]
    assert all(isinstance(key, ec.EllipticCurvePrivateKey) for key in private)
    mine = authority.key.private_numbers()
    assert mine not in [k.private_numbers() for k in private if hasattr(k, "private_numbers")]


def test_a_job_of_the_longest_name_gets_an_authority(now: datetime) -> None:
    key = KEY._replace(namespace="n" * 63, name="j" * 45)
    leaf = issue(authority_of(key, now), key, Role.COORDINATOR, now, ("c" * 60 + ".svc",))
    assert b"BEGIN CERTIFICATE" in leaf.certificate


def test_a_key_pair_is_loaded_where_files_cannot_be_made_in_memory(
    authority: Authority, now: datetime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr("os.memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    leaf = issue(authority, KEY, Role.OPERATOR, now)
    assert client_context(authority.pem, leaf).verify_mode is ssl.CERT_REQUIRED
    assert list(tmp_path.iterdir()) == [], "a key was left on the disk"
