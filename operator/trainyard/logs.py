"""Structured logs of the operator: one line for each event, as JSON or as `key=value` text.

Callers pass fields by `extra`. They name what an event is about and never carry objects of the API,
so that no Secret can reach a log.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum

from trainyard.api.names import Key
from trainyard.api.pods import Pod

Scalar = str | int | float | bool

MAX_FIELD = 1024
"""Characters of a message or a field; users and API servers write some of them."""
MAX_TRACEBACK = 8192
"""Characters of a traceback, whose end is kept: container runtimes split lines above 16 KiB."""

_STANDARD = vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName"}
"""The attributes that every record has; all others come from `extra`."""
_KOPF = {"settings", "k8s_skip", "k8s_ref"}
"""What kopf adds for its own formatters and handlers."""


class LogFormat(StrEnum):
    """How log lines are written."""

    JSON = "json"
    """For log collectors: one object a line."""
    TEXT = "text"
    """For terminals: time, level, logger and message, then `key=value` pairs."""


def configure(level: str, style: LogFormat) -> None:
    """Write the records of all loggers from `level` up to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style is LogFormat.JSON else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def job_fields(key: Key) -> dict[str, str]:
    """The fields that name a job."""
    return {"kind": key.kind, "namespace": key.namespace, "job": key.name}


def pod_fields(key: Key, pod: Pod) -> dict[str, str | int]:
    """The fields that name a pod of a job."""
    return {**job_fields(key), "pod": pod.name, "role": pod.role, "attempt": pod.attempt}


class JsonFormatter(logging.Formatter):
    """One JSON object for each record: time, level, logger, msg, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record in one line of ASCII."""
        entry: dict[str, Scalar] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": _shortened(record.getMessage()),
        }
        for name, value in _fields(self, record):
            entry.setdefault(name, value)
        return json.dumps(entry)


class TextFormatter(logging.Formatter):
    """One line of text for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record in one line."""
        message = _escaped(_shortened(record.getMessage()))
        fields = "".join(f" {name}={_quoted(value)}" for name, value in _fields(self, record))
        return f"{_time(record)} {record.levelname} {record.name}: {message}{fields}"


def _fields(
    formatter: logging.Formatter, record: logging.LogRecord
) -> Iterator[tuple[str, Scalar]]:
    for name, value in vars(record).items():
        if name not in _STANDARD and name not in _KOPF and value is not None:
            yield name, _scalar(value)
    if record.exc_info:
        traceback = formatter.formatException(record.exc_info)
        cut = len(traceback) > MAX_TRACEBACK
        yield "traceback", f"…{traceback[-MAX_TRACEBACK:]}" if cut else traceback


def _scalar(value: object) -> Scalar:
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _shortened(str(value))


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_FIELD else f"{text[:MAX_FIELD]}…"


def _quoted(value: Scalar) -> str:
    """The value, in quotes where it would not read as one word otherwise."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    escaped = _escaped(text.replace("\\", "\\\\").replace('"', '\\"'))
    is_word = escaped == text and text and " " not in text and "=" not in text
    return text if is_word else f'"{escaped}"'


def _escaped(text: str) -> str:
    """The text without line breaks and control characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
