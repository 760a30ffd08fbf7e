"""Talking to coordinators: metrics come in by GET, Plans go out by PUT, both over mTLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

import aiohttp
import msgspec

from trainyard.api.names import Key
from trainyard.api.pods import Pod
from trainyard.api.report import CoordinatorReport
from trainyard.cluster.client import KubeClient
from trainyard.cluster.portforward import forward
from trainyard.cluster.scrape import parse_report
from trainyard.render.network import Network
from trainyard.render.trainer_config import AnyPlan
from trainyard_trainer.contract.env import COORDINATOR_PORT, PATH_METRICS, PATH_PLAN

TIMEOUT = aiohttp.ClientTimeout(total=10, connect=3, sock_connect=3)
MAX_ANSWER_BYTES = 1 << 18
"""Some five times a genuine response of the largest job; reading it blocks the event loop."""
MAX_COUNT = 2**53
"""Far above any genuine generation or fencing token, and a number that a status can hold."""
MAX_CONNECTIONS = 256
"""Connections kept open; the least recently used one is closed first."""


class UnreachableError(Exception):
    """The coordinator did not respond, or not as a coordinator does."""


class PeerIdentityError(UnreachableError):
    """The peer does not present the coordinator's certificate."""


class StalePlanError(Exception):
    """The coordinator has a Plan of a higher generation or a higher fencing token."""

    def __init__(self, generation: int, fencing_token: int = 0) -> None:
        super().__init__(
            f"the coordinator already follows Plan {generation} (fencing token {fencing_token})"
        )
        self.generation, self.fencing_token = generation, fencing_token


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """The address of a coordinator."""

    key: Key
    pod: Pod
    server_name: str
    """The DNS name that its certificate must contain."""


def address_of(key: Key, pod: Pod, cluster_domain: str) -> Address:
    """The address of a running coordinator's pod."""
    network = Network(service=pod.subdomain, cluster_domain=cluster_domain)
    return Address(key=key, pod=pod, server_name=network.coordinator_host(key))


class Coordinators:
    """The connections to all coordinators, kept open between scrapes."""

    def __init__(self, client: KubeClient, *, is_direct: bool) -> None:
        self._client = client
        self._is_direct = is_direct
        self._connections: OrderedDict[str, _Connection] = OrderedDict()

    async def close(self) -> None:
        """Close every connection."""
        while self._connections:
            _, link = self._connections.popitem()
            await link.stack.aclose()

    async def forget(self, pod_uid: str) -> None:
        """Close the connection to a pod, for example after a failure."""
        if link := self._connections.pop(pod_uid, None):
            await link.stack.aclose()

    async def forget_job(self, key: Key) -> None:
        """Close the connections to the pods of a removed job."""
        for uid in [uid for uid, link in self._connections.items() if link.key == key]:
            await self.forget(uid)

    def is_open(self, pod_uid: str) -> bool:
        """Whether a connection is open, so that no certificate is needed for a new one."""
        return pod_uid in self._connections

    async def probe(self, address: Address) -> None:
        """Check that the port accepts connections before issuing a certificate.

        Raises UnreachableError. A coordinator listens a moment after its pod runs, and TLS costs a
        hundred times as much as this check.
        """
        if not self._is_direct:
            return
        try:
            async with asyncio.timeout(TIMEOUT.sock_connect):
                _, writer = await asyncio.open_connection(address.pod.ip, COORDINATOR_PORT)
        except OSError as error:  # TimeoutError is one
            raise UnreachableError(f"{type(error).__name__}: {error}") from error
        writer.close()

    async def scrape(
        self, address: Address, tls: ssl.SSLContext | None, now: datetime
    ) -> CoordinatorReport:
        """Read the metrics; raises UnreachableError."""
        async with self._request(address, tls, "GET", PATH_METRICS) as response:
            text = await _read(response)
            if response.status != 200:
                raise UnreachableError(f"metrics: HTTP {response.status}: {_short(text)}")
            try:
                return parse_report(text.decode(), now)
            except ValueError as error:
                raise UnreachableError(f"metrics are not OpenMetrics: {error}") from error

    async def put_plan(self, address: Address, tls: ssl.SSLContext | None, plan: AnyPlan) -> None:
        """Send the Plan; raises StalePlanError or UnreachableError."""
        self._client.check()
        async with self._request(address, tls, "PUT", PATH_PLAN, plan.encode()) as response:
            text = await _read(response)
            if response.status == 409:
                raise _refusal(text)
            if response.status != 200:
                raise UnreachableError(f"plan: HTTP {response.status}: {_short(text)}")

    @contextlib.asynccontextmanager
    async def _request(
        self,
        address: Address,
        tls: ssl.SSLContext | None,
        method: str,
        path: str,
        body: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            link = await self._connect(address, tls)
            async with link.session.request(
                method,
                f"https://{link.host}{path}",
                data=self._client.guarded(body.encode()) if body else None,
                server_hostname=address.server_name,
                headers={"Content-Type": "application/json"} if body else None,
            ) as response:
                yield response
        except aiohttp.ClientSSLError as error:
            await self.forget(address.pod.uid)
            raise PeerIdentityError(f"{type(error).__name__}: {error}") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            await self.forget(address.pod.uid)
            raise UnreachableError(f"{type(error).__name__}: {error}") from error

    async def _connect(self, address: Address, tls: ssl.SSLContext | None) -> _Connection:
        uid = address.pod.uid
        if uid in self._connections:
            self._connections.move_to_end(uid)
            return self._connections[uid]
        if tls is None:
            raise UnreachableError("no TLS context for a new connection")
        stack = contextlib.AsyncExitStack()
        host = await self._host(address, stack)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls, limit=1), timeout=TIMEOUT)
        )
        link = _Connection(key=address.key, host=host, session=session, stack=stack)
        self._connections[uid] = link
        if len(self._connections) > MAX_CONNECTIONS:
            _, oldest = self._connections.popitem(last=False)
            await oldest.stack.aclose()
        return link

    async def _host(self, address: Address, stack: contextlib.AsyncExitStack) -> str:
        if self._is_direct:
            return f"{address.pod.ip}:{COORDINATOR_PORT}"
        tunnel = forward(self._client, address.key.namespace, address.pod.name, COORDINATOR_PORT)
        return f"127.0.0.1:{await stack.enter_async_context(tunnel)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Connection:
    key: Key
    host: str
    session: aiohttp.ClientSession
    stack: contextlib.AsyncExitStack
    """Closes it, and the tunnel below it."""


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The whole body; raises UnreachableError if it is too long."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise UnreachableError(f"a response of more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _refusal(text: bytes) -> StalePlanError:
    try:
        current = msgspec.json.decode(text)
        return StalePlanError(
            min(int(current["generation"]), MAX_COUNT),
            min(int(current.get("fencingToken", 0)), MAX_COUNT),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UnreachableError(f"plan refused without a generation: {_short(text)}") from None


def _short(text: bytes) -> str:
    return text[:200].decode(errors="replace")
