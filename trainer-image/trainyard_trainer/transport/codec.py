"""Messages of `membership.messages` as JSON, decoded and validated in one pass."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.membership.messages import CoordinatorMessage, Message, WorkerMessage

MESSAGE_BYTES: Final = 1 << 20
"""The longest message: a view of a thousand members is about 100 KB."""

_encoder = msgspec.json.Encoder()
_worker: msgspec.json.Decoder[WorkerMessage] = msgspec.json.Decoder(WorkerMessage)
_coordinator: msgspec.json.Decoder[CoordinatorMessage] = msgspec.json.Decoder(CoordinatorMessage)


def encode(message: Message) -> str:
    """The message as JSON."""
    return _encoder.encode(message).decode()


def decode_from_worker(text: str) -> WorkerMessage:
    """Parse a worker's message; raises ValueError that names the wrong field."""
    return _worker.decode(text)


def decode_from_coordinator(text: str) -> CoordinatorMessage:
    """Parse a coordinator's message; raises ValueError that names the wrong field."""
    return _coordinator.decode(text)


def encode_config(config: JobConfig) -> dict[str, Any]:
    """The job's configuration as a JSON object, for `Welcome`."""
    values: dict[str, Any] = json.loads(config.encode())
    return values


def decode_config(values: dict[str, Any]) -> JobConfig:
    """The job's configuration in a `Welcome`; raises ValueError that names the field."""
    return JobConfig.decode(json.dumps(values))
