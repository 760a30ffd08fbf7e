"""One line for each event, whatever users, API servers and tracebacks put into it."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import kopf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard.logs import (
    MAX_FIELD,
    MAX_TRACEBACK,
    JsonFormatter,
    LogFormat,
    TextFormatter,
    configure,
)

MOMENT = datetime(2026, 7, 1, 12, 0, 0, 250_000, tzinfo=UTC)
BOTH = pytest.mark.parametrize(
    "formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"]
)


def record_of(message: str, *args: object, level: int = logging.INFO, **fields: Any) -> Any:
    logger = logging.getLogger("trainyard.test")
    record = logger.makeRecord(logger.name, level, "", 0, message, args, None, extra=fields)
    record.created = MOMENT.timestamp()
    return record


def as_json(record: logging.LogRecord) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(JsonFormatter().format(record))
    return decoded


def failed_record(error: Exception) -> logging.LogRecord:
    record: logging.LogRecord = record_of("it failed", level=logging.ERROR)
    try:
        raise error
    except Exception:
        record.exc_info = sys.exc_info()
    return record


def test_json_has_time_level_logger_message_and_the_fields() -> None:
    record = record_of("pod %s", "created", job="digits", attempt=2, ratio=1.5, done=True)
    assert list(as_json(record).items()) == [
        ("time", "2026-07-01T12:00:00.250Z"),
        ("level", "info"),
        ("logger", "trainyard.test"),
        ("msg", "pod created"),
        ("job", "digits"),
        ("attempt", 2),
        ("ratio", 1.5),
        ("done", True),
    ]


def test_the_text_format_has_the_same_fields_in_one_line() -> None:
    record = record_of("pod %s", "created", job="digits", attempt=2, ratio=1.5, done=True)
    assert TextFormatter().format(record) == (
        "2026-07-01T12:00:00.250Z INFO trainyard.test: "
        "pod created job=digits attempt=2 ratio=1.5 done=true"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    {
        "a word": ("digits", "digits"),
        "nothing": ("", '""'),
        "a sentence": ("needs 4 GPUs", '"needs 4 GPUs"'),
        "an equals sign": ("a=b", '"a=b"'),
        "quotes and backslashes": ('say "\\"', '"say \\"\\\\\\""'),
        "line breaks of all kinds": ("a\r\nb\x85c\u2028d", '"a\\r\\nb\\x85c\\u2028d"'),
        "an escape sequence for the terminal": ("\x1b[31mred", '"\\x1b[31mred"'),
        "a broken surrogate": ("\udc80", '"\\udc80"'),
        "letters of any language": ("größer→", "größer→"),
        "a number that JSON does not know": (float("nan"), "nan"),
    }.values(),
)
def test_text_quotes_and_escapes_what_would_not_be_one_word(value: object, shown: str) -> None:
    assert TextFormatter().format(record_of("m", key=value)).endswith(f": m key={shown}")


@BOTH
@given(message=st.text(), value=st.text())
def test_every_event_is_one_line(formatter: logging.Formatter, message: str, value: str) -> None:
    line = formatter.format(record_of("%s", message, key=value))
    assert len(line.splitlines()) == 1
    assert line.isprintable()


@given(message=st.text(max_size=MAX_FIELD), value=st.text(max_size=MAX_FIELD))
def test_json_keeps_the_text_as_it_was(message: str, value: str) -> None:
    entry = as_json(record_of("%s", message, key=value))
    assert (entry["msg"], entry["key"]) == (message, value)


@BOTH
def test_long_messages_and_fields_are_cut(formatter: logging.Formatter) -> None:
    line = formatter.format(record_of("x" * 10_000, key="z" * 10_000))
    assert (line.count("x"), line.count("z")) == (MAX_FIELD, MAX_FIELD)


def test_json_replaces_no_field_of_its_own() -> None:
    entry = as_json(record_of("m", time="never", logger="another"))
    assert (entry["time"], entry["logger"]) == ("2026-07-01T12:00:00.250Z", "trainyard.test")


def test_a_field_without_a_value_is_left_out() -> None:
    assert "speedup" not in as_json(record_of("m", speedup=None))


def test_other_values_are_shown_as_text_and_cut_too() -> None:
    assert as_json(record_of("m", seconds=float("inf"), key=("a", 1)))["seconds"] == "inf"
    assert as_json(record_of("m", key=("a", 1)))["key"] == "('a', 1)"
    assert len(as_json(record_of("m", key=["x"] * 10_000))["key"]) == MAX_FIELD + 1


@BOTH
def test_a_traceback_stays_in_the_line(formatter: logging.Formatter) -> None:
    line = formatter.format(failed_record(ValueError("first\nsecond")))
    assert len(line.splitlines()) == 1
    assert "Traceback (most recent call last)" in line
    assert "ValueError: first\\nsecond" in line


def test_the_end_of_a_long_traceback_is_kept() -> None:
    traceback = as_json(failed_record(ValueError("x" * 10_000 + " the cause")))["traceback"]
    assert len(traceback) == MAX_TRACEBACK + 1
    assert traceback.endswith("x the cause")


def test_what_kopf_adds_for_itself_is_left_out() -> None:
    record = record_of("m", settings=kopf.OperatorSettings(), k8s_skip=True, k8s_ref={"uid": "u"})
    assert set(as_json(record)) == {"time", "level", "logger", "msg"}


@pytest.mark.parametrize("style", LogFormat)
def test_all_loggers_write_to_standard_error_from_the_level_up(
    style: LogFormat, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    configure("warning", style)
    logging.getLogger("some.library").warning("careful", extra={"job": "digits"})
    logging.getLogger("some.library").info("not shown")
    written = capsys.readouterr()
    [line] = written.err.splitlines()
    assert written.out == ""
    assert line.startswith("{") is (style is LogFormat.JSON)
    assert "careful" in line
    assert "digits" in line
