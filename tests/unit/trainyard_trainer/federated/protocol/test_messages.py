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
    parse_metadata,
)
from trainyard_trainer.federated.rounds.events import Instruction

CONFIG = TrainConfig(task="m:C", args={"k": 1}, seed=1, batch_size=2, local_epochs=3)
METADATA = UpdateMetadata(term=1, round=2, samples=3, weight=4.0, loss=0.5)


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
