"""How a process of a job ends: its exit code and its termination message."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum, StrEnum

import msgspec

from trainyard_trainer.contract.env import TERMINATION_BYTES
from trainyard_trainer.contract.text import encodable


class Exit(IntEnum):
    """Exit codes of the trainer's processes, from sysexits.h where one fits."""

    OK = 0
    TASK_FAILED = 1
    """An exception in the user's code; retried up to `failure.maxRestarts`."""
    TASK_INVALID = 64
    """The task cannot be loaded or refuses its arguments; a retry would fail the same way."""
    INTERNAL = 70
    """A bug in Trainyard; retried."""
    STATE_UNUSABLE = 74
    """The state directory cannot be read or written."""
    FENCED = 75
    """A coordinator of a higher term, or a newer member of this name, has replaced the process."""
    WIRE_MISMATCH = 76
    """The operator's and the trainer's image have different wire versions."""


class Result(StrEnum):
    """How a process ended, in its termination message."""

    COMPLETE = "Complete"
    SUSPENDED = "Suspended"
    LEFT = "Left"
    """The worker left on request (SIGTERM) at the agreed step."""
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminationMessage:
    """A pod's termination message: one JSON object of at most `TERMINATION_BYTES` bytes."""

    result: Result
    error: str = ""
    """One sentence for the user: what went wrong and, if known, what to do."""
    traceback: str = ""
    """The last lines of the traceback; truncated first if the message is too long."""
    step: int | None = None
    samples: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """Final evaluation metrics by name, for example `eval/accuracy`."""

    def encode(self) -> str:
        """The message as JSON; traceback, then error are truncated from the left until it fits."""
        values = {k: v for k, v in asdict(self._encodable()).items() if v not in (None, "", {})}
        text = json.dumps(values)
        for name in ("traceback", "error"):
            excess = len(text.encode()) - TERMINATION_BYTES
            if excess > 0 and name in values:
                # An escaped character is at most 12 bytes of JSON, so halving converges fast.
                while excess > 0 and values[name]:
                    values[name] = values[name][min(len(values[name]), max(excess // 2, 1)) :]
                    text = json.dumps(values)
                    excess = len(text.encode()) - TERMINATION_BYTES
        return text

    @classmethod
    def decode(cls, text: str) -> TerminationMessage | None:
        """Parse a termination message; None unless it is a trainer's.

        Any process may write one, so nothing in it is trusted; metrics that are not finite are
        dropped.
        """
        try:
            message = msgspec.convert(json.loads(text), cls)
        except (ValueError, RecursionError):
            return None
        finite = {k: v for k, v in message.metrics.items() if math.isfinite(v)}
        return replace(message, metrics=finite)._encodable()

    def _encodable(self) -> TerminationMessage:
        """The same message without text that no API takes, such as a file name that is no UTF-8."""
        return replace(
            self,
            error=encodable(self.error),
            traceback=encodable(self.traceback),
            metrics={encodable(name): value for name, value in self.metrics.items()},
        )
