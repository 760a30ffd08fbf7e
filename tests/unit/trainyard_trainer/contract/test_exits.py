"""Termination messages: they fit, survive the round trip, and nothing else is taken for one."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard_trainer.contract.env import TERMINATION_BYTES
from trainyard_trainer.contract.exits import Result, TerminationMessage

text = st.text(max_size=6000)


@given(error=text, traceback=text, step=st.none() | st.integers(0, 10**12))
def test_a_message_is_truncated_to_fit(error: str, traceback: str, step: int | None) -> None:
    message = TerminationMessage(
        result=Result.FAILED, error=error, traceback=traceback, step=step
    ).encode()
    assert len(message.encode()) <= TERMINATION_BYTES
    decoded = TerminationMessage.decode(message)
    assert decoded is not None
    assert decoded.step == step
    assert traceback.endswith(decoded.traceback)
    assert error.endswith(decoded.error)


@given(
    st.builds(
        TerminationMessage,
        result=st.sampled_from(Result),
        error=st.text(max_size=50),
        traceback=st.text(max_size=50),
        step=st.none() | st.integers(0, 2**62),
        samples=st.none() | st.integers(0, 2**62),
        metrics=st.dictionaries(
            st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False), max_size=5
        ),
    )
)
def test_a_short_message_survives_the_round_trip(message: TerminationMessage) -> None:
    assert TerminationMessage.decode(message.encode()) == message


@pytest.mark.parametrize("message", ["", "Killed", "[]", "{}", '{"result": "Odd"}', "null", "3"])
def test_messages_of_other_processes_are_not_decoded(message: str) -> None:
    assert TerminationMessage.decode(message) is None


@pytest.mark.parametrize(
    "change",
    [
        {"result": 3},
        {"error": 3},
        {"error": None},
        {"traceback": ["a", "b"]},
        {"step": "3"},
        {"samples": True},
        {"metrics": {"loss": "low"}},
        {"metrics": [1.0]},
        {"metrics": {"loss": 10**400}},
    ],
    ids=str,
)
def test_a_message_with_an_ill_typed_field_is_not_decoded(change: dict[str, Any]) -> None:
    assert TerminationMessage.decode(json.dumps({"result": "Complete"} | change)) is None


@pytest.mark.parametrize(
    "message",
    [
        pytest.param('{"result": "Complete", "metrics": ' + "[" * 4000, id="nested too deeply"),
        pytest.param('{"result": "Complete", "step": ' + "9" * 5000 + "}", id="a huge number"),
        pytest.param('{"\\ud800": 1, "result": "Complete"}', id="half a surrogate pair"),
    ],
)
def test_malicious_json_is_not_decoded(message: str) -> None:
    assert TerminationMessage.decode(message) is None


def test_unknown_fields_are_ignored() -> None:
    message = {"result": "Left", "step": 7, "unknown": {"nested": [1, None]}}
    assert TerminationMessage.decode(json.dumps(message)) == TerminationMessage(
        result=Result.LEFT, step=7
    )


def test_metrics_that_are_not_finite_are_dropped() -> None:
    metrics = {"eval/loss": math.nan, "eval/perplexity": math.inf, "eval/accuracy": 1}
    decoded = TerminationMessage.decode(json.dumps({"result": "Complete", "metrics": metrics}))
    assert decoded is not None
    assert decoded.metrics == {"eval/accuracy": 1.0}
