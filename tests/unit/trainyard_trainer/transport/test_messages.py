"""Nothing that a peer sends is taken on trust."""

import json
from typing import Any

import pytest

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership.events import MemberAddress, View, ViewId
from trainyard_trainer.transport import messages

SEAT = MemberAddress(member_id="w/1", address="10.0.0.1:999", node="n")
VIEW = View(id=ViewId(term=1, number=2), members=(SEAT,), source="w/1", transfer=True)


@pytest.mark.parametrize(
    "message",
    [
        messages.Hello(seat=SEAT, view=VIEW, progress=3, halted=Result.COMPLETE),
        messages.Begun(view=VIEW, progress=0),
        messages.Halt(heard=VIEW.id, view=None, progress=-1, digest=""),
        messages.Report(metrics={"eval/accuracy": None}, loss=None),
        messages.Goodbye(left_for=VIEW.id),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_of_workers_come_back_as_they_were(message: Any) -> None:
    assert messages.decode_from_worker(messages.encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        messages.Welcome(term=2, config=messages.as_json(JobConfig(task="m:C"))),
        messages.Announcement(view=VIEW),
        messages.Dismissal(result=Result.LEFT),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_of_coordinators_come_back_as_they_were(message: Any) -> None:
    assert messages.decode_from_coordinator(messages.encode(message)) == message


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "welcome"},
        {"kind": "nothing"},
        {"progress": -2},
        {"progress": "3"},
        {"term": 2**63},
        {"seat": {"ident": 3}},
        {"digest": "x" * 301},
        {"halted": "Maybe"},
        {"view": {"id": 1}},
    ],
    ids=str,
)
def test_a_message_with_a_wrong_field_is_refused(change: dict[str, Any]) -> None:
    good = json.loads(messages.encode(messages.Hello(seat=SEAT)))
    with pytest.raises(ValueError, match=r".+"):
        messages.decode_from_worker(json.dumps({**good, **change}))
