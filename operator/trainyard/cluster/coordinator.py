"""Talking to coordinators: metrics come in by GET, Plans go out by PUT, both over mTLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import aiohttp
import msgspec

from trainyard.api.names import Key
from trainyard.api.pods import Pod
from trainyard.api.report import CoordinatorReport
from trainyard.cluster.client import KubeClient
from trainyard.cluster.portforward import forward
from trainyard.cluster.scrape import ReportError, parse_report
from trainyard.render.network import Network
from trainyard.render.trainer_config import AnyPlan
from trainyard_trainer.contract.env import COORDINATOR_PORT, PATH_METRICS, PATH_PLAN
from trainyard_trainer.contract.text import one_line

SCRAPE_TIMEOUT = timedelta(seconds=2)
"""For a whole scrape, connecting included."""
PLAN_SECONDS = 5.0
"""For a Plan and its response, which waits two seconds for the workers to agree on a step."""
MAX_ANSWER_BYTES = 1 << 18
"""Some five times a genuine response of the largest job."""
MAX_QUOTE = 600
"""Characters quoted of a response."""
MAX_COUNT = 2**53
"""Far above any genuine generation or fencing token, and a number that a status can hold."""
KEEPALIVE_SECONDS = 600.0
"""An idle connection is kept for so long: longer than any interval between two scrapes."""


class UnreachableError(Exception):
    """The coordinator did not respond, or not as a coordinator does."""


class PeerIdentityError(UnreachableError):
    """The peer does not present the coordinator's certificate."""


class PlanRefusedError(Exception):
    """The coordinator does not accept the Plan, and says why."""


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
    """The connections to all coordinators, kept open between scrapes.

    A coordinator runs an image of the user's: it gets a bounded time and space for each response,
    and no redirect, cookie or compression of it is followed.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        is_direct: bool,
        scrape_timeout: timedelta = SCRAPE_TIMEOUT,
    ) -> None:
        self._client = client
        self._is_direct = is_direct
        self._scrape_seconds = scrape_timeout.total_seconds()
        self._connections: dict[str, _Connection] = {}
        # One thread: however many coordinators answer at once, the event loop has its share.
        self._parser = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics-parser")

    @property
    def connected(self) -> int:
        """Number of coordinators that are connected."""
        return len(self._connections)

    async def close(self) -> None:
        """Close every connection."""
        for uid in list(self._connections):
            await self.forget(uid)
        self._parser.shutdown(wait=False, cancel_futures=True)

    async def forget(self, pod_uid: str) -> None:
        """Close the connection to a pod, for example after a failure."""
        if link := self._connections.pop(pod_uid, None):
            await link.stack.aclose()

    async def forget_job(self, key: Key) -> None:
        """Close the connections to the pods of a job that has ended or was removed."""
        for uid in [uid for uid, link in self._connections.items() if link.key == key]:
            await self.forget(uid)

    def is_open(self, pod_uid: str) -> bool:
        """Whether a connection is open, so that no certificate is needed for a new one."""
        return pod_uid in self._connections

    async def probe(self, address: Address) -> None:
        """Check that the port accepts connections before issuing a certificate.

        Raises UnreachableError. A coordinator listens a moment after its pod runs, and TLS costs a
        hundred times as much as this check, which makes no stream for the same reason.
        """
        if not self._is_direct:
            return
        family = socket.AF_INET6 if ":" in address.pod.ip else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                async with asyncio.timeout(self._scrape_seconds):
                    loop = asyncio.get_running_loop()
                    await loop.sock_connect(probe, (address.pod.ip, COORDINATOR_PORT))
        except OSError as error:  # TimeoutError is one
            raise UnreachableError(f"{type(error).__name__}: {error}") from error

    async def scrape(
        self, address: Address, tls: ssl.SSLContext | None, now: datetime
    ) -> CoordinatorReport:
        """Read the metrics; raises UnreachableError."""
        seconds = self._scrape_seconds
        answer = await self._request(address, tls, "GET", PATH_METRICS, seconds=seconds)
        if answer.status != 200:
            raise UnreachableError(f"metrics: {answer}")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._parser, _parse, answer.body, now)
        except ReportError as error:
            raise UnreachableError(f"metrics are not OpenMetrics: {error}") from error

    async def put_plan(self, address: Address, tls: ssl.SSLContext | None, plan: AnyPlan) -> None:
        """Send the Plan; raises StalePlanError, PlanRefusedError or UnreachableError."""
        self._client.check()
        body, seconds = plan.encode(), PLAN_SECONDS
        answer = await self._request(address, tls, "PUT", PATH_PLAN, body, seconds=seconds)
        match answer.status:
            case 400:
                raise PlanRefusedError(_reason(answer.body))
            case 409:
                raise _stale_plan(answer.body)

    async def _request(
        self,
        address: Address,
        tls: ssl.SSLContext | None,
        method: str,
        path: str,
        body: str | None = None,
        *,
        seconds: float,
    ) -> _Answer:
        """The response, if it is one that a coordinator gives; raises UnreachableError."""
        try:
            async with asyncio.timeout(seconds):
                link = await self._connect(address, tls)
                async with link.session.request(
                    method,
                    f"https://{link.host}{path}",
                    data=self._client.guarded(body.encode()) if body else None,
                    server_hostname=address.server_name,
                    headers={"Content-Type": "application/json"} if body else None,
                    allow_redirects=False,
                ) as response:
                    if response.status not in (200, 400, 409):
                        raise UnreachableError(f"{path}: HTTP {response.status}")
                    return _Answer(response.status, await _read(response))
        except aiohttp.ClientSSLError as error:
            await self.forget(address.pod.uid)
            raise PeerIdentityError(f"{type(error).__name__}: {error}") from error
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            await self.forget(address.pod.uid)
            raise UnreachableError(f"{type(error).__name__}: {error}") from error

    async def _connect(self, address: Address, tls: ssl.SSLContext | None) -> _Connection:
        uid = address.pod.uid
        if uid in self._connections:
            return self._connections[uid]
        if tls is None:
            raise UnreachableError("no TLS context for a new connection")
        await self.forget_job(address.key)  # an earlier coordinator of the job has ended
        stack = contextlib.AsyncExitStack()
        host = await self._host(address, stack)
        session = await stack.enter_async_context(_session(tls))
        link = _Connection(key=address.key, host=host, session=session, stack=stack)
        self._connections[uid] = link
        return link

    async def _host(self, address: Address, stack: contextlib.AsyncExitStack) -> str:
        if self._is_direct:
            ip = f"[{address.pod.ip}]" if ":" in address.pod.ip else address.pod.ip
            return f"{ip}:{COORDINATOR_PORT}"
        tunnel = forward(self._client, address.key.namespace, address.pod.name, COORDINATOR_PORT)
        return f"127.0.0.1:{await stack.enter_async_context(tunnel)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Connection:
    key: Key
    host: str
    session: aiohttp.ClientSession
    stack: contextlib.AsyncExitStack
    """Closes it, and the tunnel below it."""


class _Answer(NamedTuple):
    status: int
    body: bytes

    def __str__(self) -> str:
        return f"HTTP {self.status}: {_quote(self.body)}"


def _session(tls: ssl.SSLContext) -> aiohttp.ClientSession:
    """A session of one connection that keeps and unpacks nothing of what the peer sends."""
    connector = aiohttp.TCPConnector(ssl=tls, limit=1, keepalive_timeout=KEEPALIVE_SECONDS)
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None),  # each request has its own
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
    )


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The whole body; raises UnreachableError if it is too long."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise UnreachableError(f"a response of more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _parse(body: bytes, now: datetime) -> CoordinatorReport:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise ReportError(str(error)) from error
    return parse_report(text, now)


def _stale_plan(body: bytes) -> StalePlanError:
    try:
        current = msgspec.json.decode(body)
        return StalePlanError(_count(current["generation"]), _count(current.get("fencingToken", 0)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UnreachableError(f"plan refused without a generation: {_quote(body)}") from None


def _count(value: object) -> int:
    """A count within what a status can hold, whatever the coordinator says."""
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not a count")
    return max(0, min(value, MAX_COUNT))


def _reason(body: bytes) -> str:
    """Why a Plan was refused, in the coordinator's words."""
    try:
        error = msgspec.json.decode(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        error = None
    return one_line(error, MAX_QUOTE) if isinstance(error, str) else _quote(body)


def _quote(body: bytes) -> str:
    return one_line(body[:MAX_QUOTE].decode(errors="replace"), MAX_QUOTE)
