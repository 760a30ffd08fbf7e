"""Nothing that a peer sends is trusted."""

import json
from typing import Any

import pytest

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership.messages import (
    BuildFailed,
    Dismiss,
    Goodbye,
    Hello,
    ProgressReport,
    Stopped,
    TaskRaised,
    ViewAnnouncement,
    ViewEntered,
    Welcome,
)
from trainyard_trainer.membership.views import MemberAddress, View, ViewId
from trainyard_trainer.transport import codec

ADDRESS = MemberAddress(member_id="w/1", rendezvous="10.0.0.1:999", node="n")
VIEW = View(id=ViewId(term=1, number=2), members=(ADDRESS,), source="w/1", transfer=True)
RAISED = TaskRaised(iteration=3, first=0, end=2, samples=(7, 9), data="train_data", reason="bad")


@pytest.mark.parametrize(
    "message",
    [
        Hello(address=ADDRESS, state_view=VIEW, progress=3, finished=Result.COMPLETE),
        ViewEntered(view=VIEW, progress=0),
        Stopped(announced=VIEW.id, state_view=None, progress=-1, digest=""),
        ProgressReport(metrics={"eval/accuracy": None}, loss=None),
        Goodbye(left_for=VIEW.id),
        BuildFailed(view=VIEW.id, reason="timed out"),
        RAISED,
        Hello(address=ADDRESS, progress=3, raised=RAISED),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_workers_message_is_decoded_as_it_was_encoded(message: Any) -> None:
    assert codec.decode_from_worker(codec.encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Welcome(term=2, config=codec.encode_config(JobConfig(task="m:C"))),
        ViewAnnouncement(view=VIEW),
        Dismiss(result=Result.LEFT),
        Dismiss(result=Result.FAILED, reason="bad pixel"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_coordinators_message_is_decoded_as_it_was_encoded(message: Any) -> None:
    assert codec.decode_from_coordinator(codec.encode(message)) == message


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"kind": "Welcome"}, "kind"),
        ({"kind": "Nothing"}, "kind"),
        ({"progress": -2}, "progress"),
        ({"progress": "3"}, "progress"),
        ({"term": 2**63}, "term"),
        ({"address": {"member_id": 3}}, r"address\.member_id"),
        ({"address": {}}, "member_id"),
        ({"digest": "x" * 301}, "digest"),
        ({"finished": "Maybe"}, "finished"),
        ({"state_view": {"id": 1}}, r"state_view\.id"),
    ],
    ids=str,
)
def test_a_message_with_a_wrong_field_is_refused(change: dict[str, Any], names: str) -> None:
    good = json.loads(codec.encode(Hello(address=ADDRESS)))
    with pytest.raises(ValueError, match=names):
        codec.decode_from_worker(json.dumps({**good, **change}))


def test_unknown_fields_of_a_worker_are_ignored() -> None:
    hello = Hello(address=ADDRESS, state_view=VIEW, report=ProgressReport(step=3))
    values = json.loads(codec.encode(hello))
    view = values["state_view"]
    for known in (values, values["address"], view, view["id"], values["report"]):
        known["unknown"] = {"nested": [1]}
    assert codec.decode_from_worker(json.dumps(values)) == hello


def test_unknown_fields_of_a_coordinator_are_ignored() -> None:
    welcome = Welcome(term=2, config=codec.encode_config(JobConfig(task="m:C")))
    values = json.loads(codec.encode(welcome))
    for known in (values, values["config"]):
        known["unknown"] = {"nested": [1]}
    decoded = codec.decode_from_coordinator(json.dumps(values))
    assert isinstance(decoded, Welcome)
    assert decoded.term == 2
    assert codec.decode_config(decoded.config) == JobConfig(task="m:C")
