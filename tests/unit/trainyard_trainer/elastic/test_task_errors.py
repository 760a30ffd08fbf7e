"""What a worker reports of an error of the user's code, and what it does with its state."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.trainyard_trainer.elastic.test_engine import RefusingConnection
from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.exits import Exit, Result
from trainyard_trainer.elastic.engine import ElasticReplicaGroup
from trainyard_trainer.elastic.process_group import Rendezvous
from trainyard_trainer.elastic.task_errors import task_raised
from trainyard_trainer.elastic.worker import _handed_over
from trainyard_trainer.membership import participant as protocol
from trainyard_trainer.membership.messages import (
    CollectState,
    CoordinatorMessage,
    Dismiss,
    TaskRaised,
)
from trainyard_trainer.membership.views import MemberAddress, View, ViewId
from trainyard_trainer.runtime.exits import JobFailed, TaskFailed, describe
from trainyard_trainer.tasks.digits import Digits
from trainyard_trainer.training.cursor import share
from trainyard_trainer.training.replica import Contribution, Replica

CONFIG = JobConfig(task="trainyard_trainer.tasks.digits:Digits", batch_size=30)


def failed(cause: Exception) -> TaskFailed:
    error = TaskFailed(f"the task raised {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error


@pytest.fixture(scope="module")
def replica() -> Replica:
    return Replica(Digits(), CONFIG, torch.device("cpu"))


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_report_has_the_samples_of_the_workers_part(replica: Replica, rank: int) -> None:
    message = task_raised(failed(ValueError("bad pixel")), replica, rank, 4)
    positions = replica.cursor.batch(30)
    expected = replica.cursor.ids(share(positions, rank, 4, replica.cursor.least))
    assert message.samples == tuple(expected.tolist())
    assert np.array_equal(positions[message.first : message.end], share(positions, rank, 4))
    assert message.data == "train_data"
    assert "bad pixel" in message.reason


def test_a_report_of_an_evaluation_has_the_samples_of_the_evaluation(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "is_evaluating", True)
    assert replica.eval_data is not None
    count = len(replica.eval_data)
    parts = [task_raised(failed(ValueError("bad")), replica, rank, 2) for rank in range(2)]
    assert [number for part in parts for number in part.samples] == list(range(count))
    assert parts[0].data == "eval_data"


def test_a_lack_of_memory_is_not_the_fault_of_samples(replica: Replica) -> None:
    for cause in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory")):
        message = task_raised(failed(cause), replica, 0, 2)
        assert message.first == message.end


def alone(inbox: list[CoordinatorMessage]) -> tuple[Any, ElasticReplicaGroup]:
    """A worker in a view of its own, and its connection."""
    connection: Any = RefusingConnection(refusals=0)
    peers = ElasticReplicaGroup(connection, Rendezvous("127.0.0.1"), "a", "node")
    peers.register(Replica(Digits(), CONFIG, torch.device("cpu")))
    here = MemberAddress(member_id=peers.session.participant.member_id)
    first = ViewId(term=1, number=1)
    view = View(id=first, members=(here,), source=here.member_id, transfer=False)
    peers.session._act(protocol.receive_view(peers.session.participant, view))
    peers.join()
    connection.sent.clear()
    connection.inbox = inbox
    return connection, peers


def test_the_state_before_the_error_is_handed_over_where_it_is_collected() -> None:
    leave: list[CoordinatorMessage] = [CollectState(result=Result.LEFT)]
    connection, peers = alone(leave)
    real = connection.upload

    def upload(kind: str, data: bytes) -> Any:
        connection.inbox.append(Dismiss(result=Result.LEFT))
        return real(kind, data)

    connection.upload = upload
    with pytest.raises(TaskFailed, match="bad pixel"), _handed_over(peers):
        raise failed(ValueError("bad pixel"))
    assert isinstance(connection.sent[0], TaskRaised)
    assert connection.uploads == 1
    assert peers.session.hello().raised == connection.sent[0]


def test_a_worker_ends_with_the_sentence_of_the_job_and_its_own_traceback() -> None:
    _, peers = alone([Dismiss(result=Result.FAILED, reason="bad pixel on two workers")])
    with pytest.raises(JobFailed) as raised, _handed_over(peers):
        raise failed(ValueError("bad pixel"))
    code, message = describe(raised.value)
    assert code is Exit.TASK_INVALID
    assert message.error == "bad pixel on two workers"
    assert "ValueError: bad pixel" in message.traceback


def test_a_state_that_a_commit_has_changed_in_part_is_not_handed_over() -> None:
    connection, peers = alone([])
    peers.synchronize(Contribution(totals=torch.zeros(2, dtype=torch.float64)))
    with pytest.raises(TaskFailed), _handed_over(peers):
        raise failed(ValueError("in the optimizer"))
    assert not connection.sent


def test_a_worker_without_a_coordinator_ends_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainyard_trainer.elastic.engine.ANSWER_SECONDS", 0.2)
    _, peers = alone([])
    with pytest.raises(TaskFailed, match="bad pixel"), _handed_over(peers):
        raise failed(ValueError("bad pixel"))
