"""A party's HTTP client: polls for instructions, downloads models, uploads updates.

It uses blocking sockets: they transfer tensors over TLS more than twice as fast as an event loop,
and a party does one thing at a time. Every network error is `AggregatorUnavailable`; the next
request resolves the aggregator's name again.
"""

from __future__ import annotations

import http.client
import ssl
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from trainyard_trainer.contract.env import WIRE_VERSION
from trainyard_trainer.contract.federated import (
    PATH_EVALUATION,
    PATH_MODEL,
    PATH_ROUND,
    PATH_UPDATE,
)
from trainyard_trainer.federated.protocol.layout import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    Layout,
    MalformedLayout,
    parse_header,
)
from trainyard_trainer.federated.protocol.messages import (
    MESSAGE_BYTES,
    EvaluationReport,
    RoundAnnouncement,
    UpdateMetadata,
    UploadResult,
)
from trainyard_trainer.federated.protocol.wire import CHECKSUM_BYTES, trailer
from trainyard_trainer.runtime.exits import TaskInvalid, TrainerError, WireMismatch
from trainyard_trainer.transport.tls import Credentials, is_loopback

CHUNK_BYTES: Final = 4 << 20
TIMEOUT_SECONDS: Final = 60.0
"""Longer than any poll waits."""


class AggregatorUnavailable(Exception):
    """The aggregator cannot be reached, or its response is invalid."""


class Forbidden(TrainerError):
    """The aggregator refuses this party's certificate."""


class AggregatorClient:
    """The connection of one party to its aggregator; reopened after each error."""

    def __init__(self, aggregator: str, party: str, credentials: Credentials) -> None:
        """`aggregator` is `host:port`, resolved for each connection."""
        host, _, port = aggregator.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        if not credentials.exist and not is_loopback(self._host):
            raise TrainerError(
                f"no certificates in {credentials.directory}: plain HTTP is for loopback, "
                f"and the aggregator is at {aggregator}"
            )
        self._party, self._credentials = party, credentials
        self._connection: http.client.HTTPConnection | None = None
        self.term = 0
        """The highest seen."""

    def poll(self, *, ready: bool) -> RoundAnnouncement | None:
        """The instruction, or None if there is none yet; answered at once unless `ready`."""
        with self._request("GET", PATH_ROUND, {"ready": int(ready)}) as response:
            if response.status == 204:
                return None
            body = response.read(MESSAGE_BYTES + 1)
        try:
            announcement = msgspec.json.decode(body, type=RoundAnnouncement)
        except msgspec.MsgspecError as error:
            raise AggregatorUnavailable(f"invalid announcement: {error}") from None
        if announcement.wire != WIRE_VERSION:
            raise WireMismatch(
                f"the aggregator speaks wire version {announcement.wire}, this party "
                f"{WIRE_VERSION}: use images of the same release"
            )
        if announcement.term < self.term:
            raise AggregatorUnavailable(
                f"it has term {announcement.term}; term {self.term} has replaced it"
            )
        self.term = announcement.term
        return announcement

    def download(self, layout: Layout, into: memoryview) -> None:
        """Download the global model into a buffer of `layout`."""
        with self._request("GET", PATH_MODEL) as response:
            checksum = self._receive_header(response, layout)
            _read_into(response, into)
            checksum = zlib.crc32(into, checksum)
            if response.read(CHECKSUM_BYTES + 1) != trailer(checksum):
                raise AggregatorUnavailable("the model was corrupted in transit")

    def download_file(self, max_bytes: int) -> bytes:
        """The job's starting model: any safetensors file of at most `max_bytes`.

        Raises TaskInvalid for a larger one, of which nothing is read.
        """
        with self._request("GET", PATH_MODEL) as response:
            size = int(response.headers.get("Content-Length") or 0) - CHECKSUM_BYTES
            if size > max_bytes:
                raise TaskInvalid(
                    f"training.init has {size} bytes; a model of this task has at most {max_bytes}"
                )
            body = response.read(max_bytes + CHECKSUM_BYTES)
        if len(body) < CHECKSUM_BYTES or body[-4:] != trailer(zlib.crc32(body[:-4])):
            raise AggregatorUnavailable("the model was corrupted in transit")
        return body[:-CHECKSUM_BYTES]

    def upload(self, layout: Layout, data: memoryview, metadata: UpdateMetadata) -> UploadResult:
        """Upload an update; returns whether the aggregator accepted it."""
        header = layout.header(msgspec.to_builtins(metadata))
        params = {"round": metadata.round, "term": metadata.term}
        size = len(header) + len(data) + CHECKSUM_BYTES

        def send(connection: http.client.HTTPConnection) -> None:
            connection.send(header)
            checksum = zlib.crc32(header)
            for start in range(0, len(data), CHUNK_BYTES):
                piece = data[start : start + CHUNK_BYTES]
                connection.send(piece)
                checksum = zlib.crc32(piece, checksum)
            connection.send(trailer(checksum))

        with self._request("PUT", PATH_UPDATE, params, size=size, send=send) as response:
            return msgspec.json.decode(response.read(MESSAGE_BYTES), type=UploadResult)

    def send_evaluation(self, report: EvaluationReport) -> UploadResult:
        """Send an evaluation of the global model; returns whether the aggregator accepted it."""
        body = msgspec.json.encode(report)
        with self._request(
            "POST", PATH_EVALUATION, size=len(body), send=lambda c: c.send(body)
        ) as response:
            text = response.read(MESSAGE_BYTES)
            if response.status != 422:
                return UploadResult()
            return msgspec.json.decode(text, type=UploadResult)

    def leave(self) -> None:
        """Leave the round, so that it does not wait for this party."""
        self.close()
        with self._request("DELETE", PATH_ROUND, timeout=2.0) as response:
            response.read(MESSAGE_BYTES)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _request(
        self,
        method: str,
        path: str,
        params: dict[str, Any] | None = None,
        *,
        size: int = 0,
        send: Any = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Iterator[http.client.HTTPResponse]:
        """One request and its response; raises AggregatorUnavailable for any network error."""
        common = {"party": self._party, "wire": WIRE_VERSION, "term": self.term}
        query = urlencode({**common, **(params or {})})
        try:
            connection = self._connect(timeout)
            connection.putrequest(method, f"{path}?{query}", skip_accept_encoding=True)
            connection.putheader("Content-Length", str(size))
            connection.endheaders()
            if send is not None:
                send(connection)
            response = connection.getresponse()
            if response.status not in (200, 204, 422):
                _raise_for_status(response)
            yield response
            response.read()  # To the end, so that the connection can be reused.
        except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
            self.close()
            raise AggregatorUnavailable(f"{type(error).__name__}: {error}") from None
        except BaseException:
            self.close()
            raise

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        if self._connection is None:
            self._connection = self._make(timeout)
        return self._connection

    def _make(self, timeout: float) -> http.client.HTTPConnection:
        if not self._credentials.exist:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        context: ssl.SSLContext = self._credentials.client()
        return http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=context)

    def _receive_header(self, response: http.client.HTTPResponse, layout: Layout) -> int:
        """Read the header; its checksum. Raises TaskInvalid if the model is not this party's."""
        start = _read_exactly(response, LENGTH_BYTES)
        length = int.from_bytes(start, "little")
        if length > MAX_HEADER_BYTES:
            raise AggregatorUnavailable("the model's header is invalid")
        text = _read_exactly(response, length)
        try:
            found, _ = parse_header(text)
        except MalformedLayout as error:
            raise AggregatorUnavailable(f"the model's header is invalid: {error}") from None
        if difference := layout.difference(found):
            raise TaskInvalid(f"the global model does not fit this party's: it {difference}")
        return zlib.crc32(text, zlib.crc32(start))


def _read_exactly(response: http.client.HTTPResponse, size: int) -> bytes:
    """The next `size` bytes of a body; raises AggregatorUnavailable if it ends before."""
    data = response.read(size)
    if len(data) < size:
        raise AggregatorUnavailable("the model ended early")
    return data


def _read_into(response: http.client.HTTPResponse, into: memoryview) -> None:
    done = 0
    while done < len(into):
        count = response.readinto(into[done : done + CHUNK_BYTES])
        if not count:
            raise AggregatorUnavailable("the model ended early")
        done += count


def _raise_for_status(response: http.client.HTTPResponse) -> None:
    text = response.read(1000).decode(errors="replace")
    if response.status == 426:
        raise WireMismatch(text)
    if response.status == 403:
        raise Forbidden(text)
    raise AggregatorUnavailable(f"it answers {response.status}: {text}")
