"""What users, images and webhooks write reaches statuses and Events as any API server takes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.federations import (
    PARTIES,
    admission,
    aggregator,
    make_federation,
    parties,
)
from tests.support.jobs import (
    NOW,
    admitted,
    at,
    coordinator,
    ending,
    failing,
    has_run,
    make_job,
    observe,
    worker,
)
from tests.support.schemas import errors, status_schema
from trainyard.api.jobs import Job, Status
from trainyard.api.pods import Pod
from trainyard.api.report import CoordinatorReport, FederationReport, PartyReport
from trainyard.lifecycle.conditions import with_refusal, with_scheduling_failure
from trainyard.lifecycle.desired import DesiredState
from trainyard.lifecycle.observation import Observation
from trainyard.lifecycle.stages import evaluate
from trainyard.lifecycle.status import StatusInputs, status_of
from trainyard.render.events import EventSpec, event, events_for
from trainyard_trainer.contract.exits import Result, TerminationMessage
from trainyard_trainer.contract.text import encodable, printable

SCHEMA = status_schema()
SURROGATE, ESCAPE = "\ud8e9", "\x1b[2J"
NASTY = st.text(
    st.characters() | st.sampled_from([SURROGATE, "\udce9", "\x1b", "\x00", "\x9b", "\u202e"]),
    max_size=60,
) | st.sampled_from([SURROGATE * 40_000, "x" * 40_000, ESCAPE, f"caf{SURROGATE}.csv"])


def written(job: Job, desired: DesiredState, observed: Observation) -> Status:
    inputs = StatusInputs(
        desired=desired,
        pods=observed.pods,
        assignment=observed.assignment,
        report=observed.report,
        term=1,
        plan_generation=1,
        now=NOW,
    )
    return status_of(job, inputs)


def assert_clean(job: Job, status: Status) -> None:
    """By the encoder that the client uses; terminals show statuses and Events to people."""
    manifests = [event(job, spec, at(), "test") for spec in events_for(job.status, status)]
    encoded = msgspec.json.encode([msgspec.to_builtins(status), manifests])
    for text in strings(msgspec.json.decode(encoded)):
        assert text == printable(text)
        assert not set(text) & {"\x00", "\x1b", "\x9b", "\u202e"}


def strings(value: Any) -> Iterator[str]:
    """All strings in a document, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (key, *strings(item))
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


@given(error=NASTY, traceback=NASTY, reason=NASTY, metric=NASTY)
def test_a_pod_may_end_with_any_message(
    error: str, traceback: str, reason: str, metric: str
) -> None:
    raw = {"result": "Failed", "error": error, "traceback": traceback}
    complete = {"result": "Complete", "step": 3, "metrics": {metric: 1.0}}
    job = make_job({}, has_run())
    for fields in (
        failing(1, json.dumps(raw), reason=reason),
        failing(64, json.dumps(raw)),
        failing(137, error.encode("utf-8", "replace").decode(), reason=reason),
        {**ending(Result.COMPLETE), "termination_message": json.dumps(complete)},
    ):
        observed = observe(job, coordinator(), worker(0, **fields), assignment=admitted(1))
        status = written(job, evaluate(observed), observed)
        assert_clean(job, status)
        assert list(errors(SCHEMA, msgspec.to_builtins(status))) == []


@given(reason=NASTY, message=NASTY)
def test_a_kubelet_and_a_webhook_may_answer_anything(reason: str, message: str) -> None:
    job = make_job({}, has_run())
    waiting: dict[str, Any] = {"waiting_reason": reason, "waiting_message": message}
    pods: tuple[Pod, ...] = (coordinator(), worker(0, phase="Pending", **waiting))
    observed = observe(job, *pods, assignment=admitted(1, message=message))
    desired = evaluate(observed)
    for shown in (
        desired,
        with_refusal(desired, message),
        with_scheduling_failure(desired, message),
    ):
        status = written(job, shown, observed)
        assert_clean(job, status)
        assert list(errors(SCHEMA, msgspec.to_builtins(status))) == []


@given(state=NASTY, refusal=NASTY, metric=NASTY)
def test_an_aggregator_may_report_anything(state: str, refusal: str, metric: str) -> None:
    """As far as the parser of its metrics lets it, which cuts labels at 128 characters."""
    report = CoordinatorReport(
        at=NOW,
        term=1,
        evaluation={metric[:128]: 0.5},
        federation=FederationReport(
            round=1,
            parties={PARTIES[0]: PartyReport(state=state[:128], refused={refusal[:128]: 2})},
        ),
    )
    job = make_federation({}, has_run())
    observed = Observation.of(
        job,
        observe(job, aggregator(), *parties()).pods,
        admission(),
        report,
        observe(job).timeouts,
        NOW,
    )
    status = written(job, evaluate(observed), observed)
    assert_clean(job, status)
    [first, *_] = msgspec.to_builtins(status)["parties"]
    assert len(first["state"]) <= 32
    assert len(first.get("lastRefusal", "")) <= 128


@given(message=NASTY)
def test_an_event_may_say_anything(message: str) -> None:
    spec = EventSpec(type="Warning", reason="PodFailed", message=message)
    made = event(make_job(), spec, at(), "test")
    assert ESCAPE not in msgspec.json.decode(msgspec.json.encode(made))["message"]
    assert len(made["message"]) <= 1024


@given(NASTY, NASTY)
def test_a_trainer_writes_no_message_that_cannot_be_encoded(error: str, traceback: str) -> None:
    message = TerminationMessage(
        result=Result.FAILED, error=error, traceback=traceback, metrics={error[:50]: 1.0}
    )
    text = json.loads(message.encode())
    assert text == json.loads(json.dumps(text).encode("utf-8"))
    for value in (text.get("error", ""), text.get("traceback", ""), *text.get("metrics", {})):
        value.encode("utf-8")


@pytest.mark.parametrize("text", ["", "café", "数据\t\n", "👩‍💻", "a\u200db"])
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert (encodable(text), printable(text)) == (text, text)
