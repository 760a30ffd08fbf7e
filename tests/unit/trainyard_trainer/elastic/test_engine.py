"""A replica group whose members change."""

import contextlib
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from msgspec import structs

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.elastic.engine import ElasticReplicaGroup
from trainyard_trainer.elastic.process_group import Rendezvous
from trainyard_trainer.membership import participant as protocol
from trainyard_trainer.membership.messages import (
    BuildFailed,
    CoordinatorMessage,
    Message,
    Stopped,
    StopRequest,
    ViewAnnouncement,
)
from trainyard_trainer.membership.participant import Participant
from trainyard_trainer.membership.views import MemberAddress, View, ViewId
from trainyard_trainer.tasks.digits import Digits
from trainyard_trainer.training.loop import CollectiveError
from trainyard_trainer.training.replica import Contribution, Replica


class ScriptedConnection:
    """Returns the given messages one by one, and keeps what is sent."""

    def __init__(self) -> None:
        self.inbox: list[CoordinatorMessage] = []
        self.sent: list[Message] = []

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        yield

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def receive(self, timeout: float = 0.0) -> CoordinatorMessage | None:  # noqa: ARG002
        return self.inbox.pop(0) if self.inbox else None


def test_no_iteration_is_committed_after_the_progress_was_reported() -> None:
    """The stop and the next view may arrive while the iteration is being computed."""
    connection: Any = ScriptedConnection()
    peers = ElasticReplicaGroup(connection, Rendezvous("127.0.0.1"), "a", "node")
    config = JobConfig(task="trainyard_trainer.tasks.digits:Digits")
    peers.register(Replica(Digits(), config, torch.device("cpu")))
    member_id = peers.session.participant.member_id
    views = [
        View(
            id=ViewId(term=1, number=number),
            members=(MemberAddress(member_id=member_id),),
            source=member_id,
            transfer=False,
        )
        for number in (1, 2)
    ]
    me = Participant(member_id=member_id, announced=views[0].id, view=views[0], term=1)
    peers.session.update(protocol.begin(me, 4))
    connection.inbox = [StopRequest(), ViewAnnouncement(view=views[1])]
    work = Contribution(totals=torch.zeros(2, dtype=torch.float64))
    with pytest.raises(CollectiveError, match="the view has ended"):
        peers.synchronize(work)
    assert [m.progress for m in connection.sent if isinstance(m, Stopped)] == [4]


def reported(connection: ScriptedConnection) -> list[BuildFailed]:
    return [message for message in connection.sent if isinstance(message, BuildFailed)]


def test_a_view_that_only_this_worker_cannot_prepare_is_reported_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection: Any = ScriptedConnection()
    rendezvous = Rendezvous("127.0.0.1")
    peers = ElasticReplicaGroup(connection, rendezvous, "a", "node")
    config = JobConfig(task="trainyard_trainer.tasks.digits:Digits")
    peers.register(Replica(Digits(), config, torch.device("cpu")))
    here = MemberAddress(member_id=peers.session.participant.member_id)
    there = MemberAddress(member_id="b/0")
    first = View(
        id=ViewId(term=1, number=1), members=(here,), source=here.member_id, transfer=False
    )
    second = structs.replace(
        first, id=ViewId(term=1, number=2), members=(here, there), after=first.id
    )
    me = Participant(member_id=here.member_id, announced=first.id, view=first, term=1)
    peers.session.update(protocol.begin(me, 4))

    def create_group(*_: Any) -> Any:
        raise RuntimeError("Gloo connectFullMesh failed with: no error")

    monkeypatch.setattr(rendezvous, "create_group", create_group)
    connection.inbox = [ViewAnnouncement(view=second)]
    deadline = time.monotonic() + 10
    while not reported(connection) and time.monotonic() < deadline:
        peers.synchronize(Contribution(totals=torch.zeros(2, dtype=torch.float64)))
    peers.synchronize(Contribution(totals=torch.zeros(2, dtype=torch.float64)))
    failed = reported(connection)
    assert [message.view for message in failed] == [second.id]
    assert "connectFullMesh failed" in failed[0].reason


class RefusingConnection(ScriptedConnection):
    """Stores no upload until the given number of them was refused."""

    def __init__(self, refusals: int) -> None:
        super().__init__()
        self.refusals, self.uploads = refusals, 0

    def upload(self, kind: str, data: bytes) -> Future[bool]:  # noqa: ARG002
        self.uploads += 1
        result: Future[bool] = Future()
        result.set_result(self.uploads > self.refusals)
        return result


def test_a_refused_final_upload_is_retried_with_longer_and_longer_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection: Any = RefusingConnection(refusals=3)
    peers = ElasticReplicaGroup(connection, Rendezvous("127.0.0.1"), "a", "node")
    now, starts = 0.0, []
    monkeypatch.setattr("time.monotonic", lambda: now)
    peers.session.collecting = Result.COMPLETE
    while peers.session.collecting is not None and now < 100:
        before = connection.uploads
        peers._wait(lambda: b"model")
        if connection.uploads > before:
            starts.append(now)
        now += 0.5
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert connection.uploads == 4
    assert gaps == sorted(gaps)
    assert gaps[0] >= 1.0
    assert gaps[-1] >= 4.0
