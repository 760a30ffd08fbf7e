"""A party's client of an aggregator that dies, or sends what it should not."""

import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.unit.trainyard_trainer.federated.models import FLAT, random_model
from trainyard_trainer.federated.party.client import AggregatorClient, AggregatorUnavailable
from trainyard_trainer.federated.protocol.layout import Entry, Layout
from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.transport.tls import Credentials

MODEL = FLAT.header({"round": 1}) + random_model(FLAT, 1).tobytes()
WHOLE = MODEL + zlib.crc32(MODEL).to_bytes(4, "little")


@contextmanager
def client_of(body: bytes, announced: int | None = None) -> Iterator[AggregatorClient]:
    """A client of a server that answers one request with `body` and closes the connection."""
    size = len(body) if announced is None else announced
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"
                connection.sendall(head.encode() + body)

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        client = AggregatorClient(address, "a", Credentials(namespace="n", job="j", directory=""))
        try:
            yield client
        finally:
            client.close()
            thread.join()


@pytest.mark.parametrize("received", [0, 4, 8, 60, len(WHOLE) - 30, len(WHOLE) - 2])
def test_a_model_cut_anywhere_is_a_failure_of_the_wire(received: int) -> None:
    memory = bytearray(FLAT.size)
    with (
        client_of(WHOLE[:received], len(WHOLE)) as client,
        pytest.raises(AggregatorUnavailable),
    ):
        client.download(FLAT, memoryview(memory))


def test_a_garbled_header_is_a_failure_of_the_wire() -> None:
    garbled = WHOLE[:8] + b"?" + WHOLE[9:]
    with client_of(garbled) as client, pytest.raises(AggregatorUnavailable, match="header"):
        client.download(FLAT, memoryview(bytearray(FLAT.size)))


def test_a_model_of_another_layout_is_the_partys_own_fault() -> None:
    other = Layout.of([Entry(name="w", dtype="F32", shape=(24,))])
    with client_of(WHOLE) as client, pytest.raises(TaskInvalid, match="has b"):
        client.download(other, memoryview(bytearray(FLAT.size)))


def test_a_starting_model_larger_than_the_tasks_is_not_read() -> None:
    with client_of(WHOLE) as client, pytest.raises(TaskInvalid, match=r"training\.init has"):
        client.download_file(len(MODEL) - 1)
    with client_of(WHOLE) as client:
        assert client.download_file(len(MODEL)) == MODEL
