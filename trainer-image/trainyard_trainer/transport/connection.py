"""A worker's connection to its coordinator, kept up by a thread of its own.

Training never waits for the network: messages go out through one queue and come in through another.
When the coordinator is lost, the thread resolves its name and reconnects for as long as it takes.
Each new connection begins with a `Hello` that holds all that the worker knows, so that no message
to an earlier coordinator has to be sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import queue
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any, Final

import aiohttp
from aiohttp import WSMsgType

from trainyard_trainer.contract.env import PATH_MEMBER, PATH_STATE
from trainyard_trainer.membership.messages import (
    CoordinatorMessage,
    Exclude,
    Fence,
    Hello,
    LeaveRequest,
    Message,
    Welcome,
)
from trainyard_trainer.runtime.exits import TrainerError
from trainyard_trainer.transport import codec
from trainyard_trainer.transport.tls import Credentials, is_loopback

log = logging.getLogger(__name__)

CHUNK_BYTES: Final = 1 << 20
ERROR_BYTES: Final = 1000
"""Of a refusal's body, for the log."""
RETRY_SECONDS: Final = (0.05, 2.0)
"""The first and the longest pause between attempts to connect."""
CONNECT_SECONDS: Final = 10.0
"""How long a connection may take to be made, the handshakes included."""
TRANSFER_IDLE_SECONDS: Final = 60.0
"""How long a transfer may stand still, whatever its length: the coordinator is gone, or its disk
hangs. The answer to an upload comes once it is stored."""
EXCLUDE_SECONDS: Final = 10.0
"""How long the training thread may ignore that it is left out; the others found it responsive, or
standing still for long."""
FENCE_SECONDS: Final = 300.0
"""The same for a `Fence`, which may find it in the midst of a long iteration."""
HEADER_TERM: Final = "X-Trainyard-Term"
HEADER_DIGEST: Final = "X-Trainyard-SHA256"
HEADER_SIZE: Final = "X-Trainyard-Size"
"""The bytes of an upload, which is sent in chunks; optional."""


class CoordinatorConnection:
    """Reconnects by itself; its methods are called from the training thread."""

    def __init__(self, coordinator: str, credentials: Credentials) -> None:
        """`coordinator` is `host:port`; the host is resolved again for each connection."""
        host = coordinator.rpartition(":")[0].strip("[]")
        if not credentials.exist and not is_loopback(host):
            raise TrainerError(
                f"no certificates in {credentials.directory}: plain HTTP is for loopback, "
                f"and the coordinator is at {coordinator}"
            )
        scheme = "https" if credentials.exist else "http"
        self._url = f"{scheme}://{coordinator}"
        self._credentials = credentials
        self._inbox: queue.SimpleQueue[CoordinatorMessage | LeaveRequest] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._hello: Callable[[], Hello] | None = None
        self._outbox: asyncio.Queue[Message | None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, name="coordinator-connection", daemon=True
        )
        self._closing = False
        self._on_ignored: Callable[[str], None] = lambda _: None
        self._unread: CoordinatorMessage | LeaveRequest | None = None
        """An Exclude or a Fence that the training thread has not received yet."""
        self._uploads: set[asyncio.Task[str]] = set()
        self.term = 0
        """Of the newest coordinator connected to; uploads carry it."""

    @property
    def is_connected(self) -> bool:
        """Whether a coordinator is connected."""
        return self._outbox is not None

    def start(
        self, hello: Callable[[], Hello], on_ignored: Callable[[str], None] | None = None
    ) -> None:
        """Connect, and keep connected; `hello` is called for each connection, locked.

        `on_ignored` is called with a reason, in the connection's thread, when the training thread
        does not receive that it is to exit or to start again: it hangs.
        """
        self._hello = hello
        self._on_ignored = on_ignored or self._on_ignored
        self._thread.start()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold off new connections while the content of `hello` is changed and sent."""
        with self._lock:
            yield

    def send(self, message: Message) -> None:
        """Send a message; without a connection it is dropped, because the next `Hello` covers it.

        Call it within `locked` together with the change that the message reports.
        """
        outbox = self._outbox
        if outbox is not None:
            self._loop.call_soon_threadsafe(outbox.put_nowait, message)

    def receive(self, timeout: float = 0.0) -> CoordinatorMessage | LeaveRequest | None:
        """The next message, waiting up to `timeout` seconds for one."""
        try:
            message = self._inbox.get(timeout=timeout) if timeout > 0 else self._inbox.get_nowait()
        except queue.Empty:
            return None
        if message is self._unread:
            self._unread = None
        return message

    def inject(self, message: LeaveRequest) -> None:
        """Have `receive` return `message`; safe in a signal handler."""
        self._inbox.put(message)

    def upload(self, kind: str, data: bytes) -> Future[bool]:
        """Upload a state file in the background; the result is whether it was stored."""
        return asyncio.run_coroutine_threadsafe(self._upload(kind, data), self._loop)

    def download(self, kind: str) -> bytes | None:
        """The coordinator's newest checkpoint, or the `init` model; None when there is none.

        Raises OSError or aiohttp.ClientError when the coordinator cannot be reached, and
        TimeoutError, an OSError, when it stands still for `TRANSFER_IDLE_SECONDS`.
        """
        return asyncio.run_coroutine_threadsafe(self._download(kind), self._loop).result()

    def close(self, timeout: float = 2.0) -> None:
        """Send what is queued and close the connection."""
        self._closing = True
        with self._lock:
            if self._outbox is not None:
                self._loop.call_soon_threadsafe(self._outbox.put_nowait, None)
        self._thread.join(timeout)

    # --- in the connection's own thread ---------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._keep_connected())

    async def _keep_connected(self) -> None:
        pause = RETRY_SECONDS[0]
        while not self._closing:
            started = time.monotonic()
            try:
                await self._connect_once()
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass
            except Exception:
                log.exception("the connection to the coordinator has failed")
            if time.monotonic() - started > RETRY_SECONDS[1]:
                pause = RETRY_SECONDS[0]
            # Jitter, so that the workers of a large job do not reconnect all at once.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(2 * pause, RETRY_SECONDS[1])

    def _session(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0)
        # Nothing of what the peer sends is followed, kept or unpacked.
        return aiohttp.ClientSession(
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
            middlewares=(_refuse_redirects,),
        )

    def _tls(self) -> Any:
        return self._credentials.client() if self._credentials.exist else False

    async def _connect_once(self) -> None:
        """Serve one connection, from `Hello` to its end; raises when it cannot be made."""
        async with self._session() as session:
            async with asyncio.timeout(CONNECT_SECONDS):
                socket = await session.ws_connect(
                    self._url + PATH_MEMBER,
                    ssl=self._tls(),
                    heartbeat=5.0,
                    max_msg_size=codec.MESSAGE_BYTES,
                )
            async with socket:
                await self._serve(socket)

    async def _serve(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        outbox = self._open()
        sender = asyncio.create_task(self._send_all(socket, outbox))
        try:
            await self._receive_all(socket)
        finally:
            with self._lock:
                self._outbox = None
            if not self._closing:
                sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await sender

    def _open(self) -> asyncio.Queue[Message | None]:
        outbox: asyncio.Queue[Message | None] = asyncio.Queue()
        with self._lock:
            assert self._hello is not None  # noqa: S101 -- set by `start`
            outbox.put_nowait(self._hello())
            self._outbox = outbox
        return outbox

    async def _send_all(
        self, socket: aiohttp.ClientWebSocketResponse, outbox: asyncio.Queue[Message | None]
    ) -> None:
        while (message := await outbox.get()) is not None:
            await socket.send_str(codec.encode(message))
        await socket.close()

    async def _receive_all(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for frame in socket:
            if frame.type is not WSMsgType.TEXT:
                continue
            try:
                message = codec.decode_from_coordinator(frame.data)
            except ValueError as error:
                log.warning("ignoring a message of the coordinator: %s", error)
                continue
            if isinstance(message, Welcome):
                self._met(message.term)
            self._expect_receipt(message)
            self._inbox.put(message)

    def _expect_receipt(self, message: CoordinatorMessage) -> None:
        """Call `on_ignored` unless the training thread soon receives what ends or resets it."""
        match message:
            case Exclude(is_own_fault=True):
                seconds, reason = EXCLUDE_SECONDS, message.reason
            case Fence() if self._unread is None:  # Each reconnect brings another one.
                seconds = FENCE_SECONDS
                reason = "the others train on without this worker, whose training thread hangs"
            case _:
                return
        self._unread = message
        self._loop.call_later(seconds, self._check_receipt, message, reason)

    def _check_receipt(self, message: CoordinatorMessage, reason: str) -> None:
        if self._unread is message:
            self._on_ignored(reason)

    def _met(self, term: int) -> None:
        """Cut short what goes to an earlier coordinator: this one would not learn of it."""
        if term > self.term:
            for transfer in self._uploads:
                transfer.cancel()
        self.term = term

    async def _upload(self, kind: str, data: bytes) -> bool:
        """Upload once; an upload to a coordinator that has been replaced is cut short."""
        transfer = asyncio.create_task(self._put(kind, data))
        self._uploads.add(transfer)
        try:
            await asyncio.wait([transfer])
            failure = "the coordinator has been replaced"
            if not transfer.cancelled():
                failure = transfer.result()
        finally:
            self._uploads.discard(transfer)
        if failure:
            log.warning("the %s (%d bytes) is not stored: %s", kind, len(data), failure)
        return not failure

    async def _put(self, kind: str, data: bytes) -> str:
        """What went wrong with an upload; empty when it is stored."""
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        headers = {
            HEADER_TERM: str(self.term),
            HEADER_DIGEST: digest,
            HEADER_SIZE: str(len(data)),
        }
        url = f"{self._url}{PATH_STATE}?kind={kind}"
        try:
            async with (
                _progressing() as progressed,
                self._session() as session,
                session.put(
                    url, data=_chunks(data, progressed), headers=headers, ssl=self._tls()
                ) as response,
            ):
                if response.status == 200:
                    return ""
                text = (await response.content.read(ERROR_BYTES)).decode(errors="replace")
                return f"HTTP {response.status} {text}".strip()
        except TimeoutError:
            return f"the coordinator did not answer for {TRANSFER_IDLE_SECONDS:.0f} s"
        except (aiohttp.ClientError, OSError) as error:
            return f"{type(error).__name__}: {error}"

    async def _download(self, kind: str) -> bytes | None:
        url = f"{self._url}{PATH_STATE}?kind={kind}"
        async with (
            _progressing() as progressed,
            self._session() as session,
            session.get(url, ssl=self._tls()) as response,
        ):
            if response.status == 404:
                return None
            if response.status != 200:
                raise aiohttp.ClientPayloadError(f"{PATH_STATE}: HTTP {response.status}")
            data = bytearray()
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                data += chunk
                progressed()
        if hashlib.sha256(data).hexdigest() != response.headers.get(HEADER_DIGEST):
            raise aiohttp.ClientPayloadError("the checkpoint does not match its checksum")
        return bytes(data)


@contextlib.asynccontextmanager
async def _progressing() -> AsyncIterator[Callable[[], None]]:
    """Raise TimeoutError once what is yielded was not called for `TRANSFER_IDLE_SECONDS`."""
    async with asyncio.timeout(TRANSFER_IDLE_SECONDS) as deadline:
        loop = asyncio.get_running_loop()

        def progressed() -> None:
            if not deadline.expired():
                deadline.reschedule(loop.time() + TRANSFER_IDLE_SECONDS)

        yield progressed


async def _chunks(data: bytes, progressed: Callable[[], None]) -> AsyncIterator[bytes]:
    view = memoryview(data)
    for start in range(0, len(view), CHUNK_BYTES):
        yield bytes(view[start : start + CHUNK_BYTES])
        progressed()


async def _refuse_redirects(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Fail instead of following a redirect, in WebSocket handshakes as well."""
    response = await send(request)
    if 300 <= response.status < 400:
        response.close()
        raise aiohttp.ClientPayloadError(f"{request.url.path}: HTTP {response.status}")
    return response
