"""Messages between aggregator and parties: fields of a later version are ignored."""

from typing import Any

import msgspec
import pytest

from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.federated import RefusalReason
from trainyard_trainer.federated.protocol.layout import LENGTH_BYTES, Entry, Layout, parse_header
from trainyard_trainer.federated.protocol.messages import (
    EvaluationReport,
    RoundAnnouncement,
    TrainConfig,
    UpdateMetadata,
    UploadResult,
    bounded_or_none,
    parse_evaluation,
    parse_metadata,
)
from trainyard_trainer.federated.protocol.wire import UpdateRefused
from trainyard_trainer.federated.rounds.events import Instruction

CONFIG = TrainConfig(task="m:C", args={"k": 1}, seed=1, batch_size=2, local_epochs=3)
METADATA = UpdateMetadata(term=1, round=2, samples=4, weight=4.0, loss=0.5)


@pytest.mark.parametrize(
    "message",
    [
        RoundAnnouncement(
            term=1, instruction=Instruction.TRAIN, round=2, config=CONFIG, result=Result.COMPLETE
        ),
        UploadResult(refusal=RefusalReason.SHAPE, message="m"),
        EvaluationReport(term=1, round=2, samples=3, metrics={"eval/accuracy": 0.5}),
    ],
    ids=lambda message: type(message).__name__,
)
def test_unknown_fields_of_a_message_are_ignored(message: Any) -> None:
    values = msgspec.to_builtins(message)
    if "config" in values:
        values["config"]["unknown"] = 1
    body = msgspec.json.encode({**values, "unknown": {"nested": [1]}})
    assert msgspec.json.decode(body, type=type(message)) == message


def test_unknown_fields_of_an_updates_header_are_ignored() -> None:
    layout = Layout((Entry(name="w", dtype="F32", shape=(2,)),))
    header = layout.header({**msgspec.to_builtins(METADATA), "unknown": [1]})
    fields = msgspec.json.decode(header[LENGTH_BYTES:])
    fields["__metadata__"]["unknown"] = "1"
    fields["w"]["unknown"] = 1
    found, document = parse_header(msgspec.json.encode(fields))
    assert found == layout
    assert parse_metadata(document) == METADATA


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"samples": 1 << 62}, "samples"),
        ({"samples": -1}, "samples"),
        ({"metrics": {"m": 1e308}}, "metrics"),
        ({"metrics": {"m": -1e308}}, "metrics"),
        ({"metrics": {"m" * 129: 0.5}}, "key"),
        ({"metrics": {f"m{number}": 0.5 for number in range(101)}}, "metrics"),
    ],
    ids=str,
)
def test_an_evaluation_beyond_the_limits_is_refused_by_name(
    change: dict[str, Any], field: str
) -> None:
    body = msgspec.json.encode({"term": 1, "round": 2, "samples": 3, "metrics": {}, **change})
    with pytest.raises(UpdateRefused, match=f"invalid evaluation: .*{field}") as refused:
        parse_evaluation(body)
    assert refused.value.reason is RefusalReason.EVALUATION


def test_a_body_that_is_no_json_is_no_evaluation() -> None:
    with pytest.raises(UpdateRefused):
        parse_evaluation(b"\xff{")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weight": 1e300}, RefusalReason.WEIGHT),
        ({"weight": 5.0}, RefusalReason.WEIGHT),
        ({"samples": 1 << 62}, RefusalReason.HEADER),
        ({"loss": float("nan")}, RefusalReason.HEADER),
        ({"loss": float("inf")}, RefusalReason.HEADER),
        ({"loss": 1e300}, RefusalReason.HEADER),
    ],
    ids=str,
)
def test_an_updates_figures_are_bounded(change: dict[str, Any], reason: RefusalReason) -> None:
    with pytest.raises(UpdateRefused) as refused:
        parse_metadata({**msgspec.to_builtins(METADATA), **change})
    assert refused.value.reason is reason


@pytest.mark.parametrize(
    ("value", "sent"),
    [(None, None), (float("nan"), None), (1e306, None), (float("-inf"), None), (0.5, 0.5)],
)
def test_a_party_leaves_out_figures_that_would_be_refused(
    value: float | None, sent: float | None
) -> None:
    assert bounded_or_none(value) == sent
