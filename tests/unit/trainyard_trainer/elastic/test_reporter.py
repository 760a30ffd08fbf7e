"""A worker's snapshots, which may fail to be stored."""

import itertools
from concurrent.futures import Future
from typing import Any

import pytest

from tests.processes.tasks import Line
from tests.unit.trainyard_trainer.elastic.test_engine import ScriptedConnection
from tests.unit.trainyard_trainer.training.test_replica import make, turn
from trainyard_trainer.elastic.engine import ElasticReplicaGroup
from trainyard_trainer.elastic.process_group import Rendezvous
from trainyard_trainer.elastic.reporter import Reporter


class UploadingConnection(ScriptedConnection):
    """Keeps the uploads, which a test ends."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads: list[Future[bool]] = []

    def upload(self, kind: str, data: bytes) -> Future[bool]:
        assert (kind, bool(data)) == ("snapshot", True)
        self.uploads.append(Future())
        return self.uploads[-1]


def test_a_snapshot_that_is_not_stored_is_uploaded_again_after_longer_and_longer_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    connection: Any = UploadingConnection()
    peers = ElasticReplicaGroup(connection, Rendezvous("127.0.0.1"), "a", "node")
    reporter, replica = Reporter(peers, now), make(Line())
    peers.session.wants_snapshot = True
    starts: list[float] = []

    def commit() -> None:
        nonlocal now
        turn([replica])
        now += 1.0
        reporter.committed(replica, 0.1)

    while len(starts) < 5:
        count = len(connection.uploads)
        commit()
        if len(connection.uploads) > count:
            starts.append(now)
            for _ in range(3):
                commit()  # It is in flight, and another one is not begun.
            assert len(connection.uploads) == count + 1
            connection.uploads[-1].set_result(False)
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert gaps[0] >= 10.0
    assert all(later >= 1.5 * earlier for earlier, later in itertools.pairwise(gaps))


def test_a_snapshot_that_is_stored_is_not_uploaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    connection: Any = UploadingConnection()
    peers = ElasticReplicaGroup(connection, Rendezvous("127.0.0.1"), "a", "node")
    reporter, replica = Reporter(peers, now), make(Line())
    for wants in (True, False, True):
        peers.session.wants_snapshot |= wants
        turn([replica])
        now += 1.0
        reporter.committed(replica, 0.1)
    assert len(connection.uploads) == 1, "the second waits for the first"
    connection.uploads[0].set_result(True)
    for _ in range(30):
        now += 1.0
        reporter.committed(replica, 0.1)
    assert len(connection.uploads) == 2
