"""Termination messages: they fit, survive the round trip, and nothing else is taken for one."""

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
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
    error=text,
    traceback=text,
    step=st.none() | st.integers(0, 2**62),
    metrics=st.dictionaries(st.text(max_size=200) | text, st.floats(), max_size=200),
)
@example(error="", traceback="", step=14, metrics={f"accuracy/{c:03d}": c / 7 for c in range(150)})
@example(error="", traceback="", step=14, metrics={"\N{SNOWMAN}" * 4096: 1.0, "accuracy": 2.0})
def test_metrics_are_cut_and_never_the_document(
    error: str, traceback: str, step: int | None, metrics: dict[str, float]
) -> None:
    encoded = TerminationMessage(
        result=Result.COMPLETE, error=error, traceback=traceback, step=step, metrics=metrics
    ).encode()
    assert len(encoded.encode()) <= TERMINATION_BYTES
    decoded = TerminationMessage.decode(encoded)
    assert decoded is not None
    assert (decoded.result, decoded.step) == (Result.COMPLETE, step)
    assert decoded.metrics.items() <= metrics.items()
    assert len(decoded.metrics) + decoded.metrics_left_out == len(metrics)
    assert error.endswith(decoded.error)


def test_the_metrics_of_the_shortest_names_are_kept() -> None:
    classes = {f"eval/accuracy/species-{c:03d}": c / 151 for c in range(150)}
    totals = {"eval/loss": 0.25, "eval/accuracy": 0.5, "eval/diverged": math.nan}
    message = TerminationMessage(result=Result.COMPLETE, metrics=classes | totals)
    decoded = TerminationMessage.decode(message.encode())
    assert decoded is not None
    count = len(decoded.metrics)
    assert list(decoded.metrics) == [*list(classes)[: count - 2], "eval/loss", "eval/accuracy"]
    assert decoded.metrics_left_out == len(classes) + len(totals) - count
    assert count > 60


def test_what_is_encoded_is_strict_json() -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    metrics = {"eval/loss": math.nan, "eval/perplexity": math.inf}
    message = TerminationMessage(result=Result.COMPLETE, metrics=metrics).encode()
    assert json.loads(message, parse_constant=refuse) == {
        "result": "Complete",
        "metrics_left_out": 2,
    }


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
