"""How a process of a job ends: its exit code and its termination message."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from enum import IntEnum, StrEnum

from trainyard_trainer.contract.env import TERMINATION_BYTES


class Exit(IntEnum):
    """Exit codes of the trainer's processes, from sysexits.h where one fits."""

    OK = 0
    TASK_FAILED = 1
    """An exception in the user's code; retried up to `failure.maxRestarts`."""
    TASK_INVALID = 64
    """The task cannot be loaded or refuses its arguments; a retry would fail the same way."""
    INTERNAL = 70
    """A defect of ours; retried."""
    STATE_UNUSABLE = 74
    """The state directory cannot be read or written."""
    FENCED = 75
    """A higher term, or a newer member of the same name, has taken this process' place."""
    WIRE_MISMATCH = 76
    """Operator and trainer images do not speak the same wire version."""


class Result(StrEnum):
    """How a process ended, in its termination message."""

    COMPLETE = "Complete"
    SUSPENDED = "Suspended"
    LEFT = "Left"
    """The worker left on request (SIGTERM) after its agreed step."""
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminationMessage:
    """A pod's termination message: one JSON object of at most `TERMINATION_BYTES` bytes."""

    result: Result
    error: str = ""
    """One sentence for a person: what went wrong and, where known, what to do."""
    traceback: str = ""
    """The last lines of the traceback; cut first when the message is too long."""
    step: int | None = None
    samples: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """Final evaluation metrics by name, for example `eval/accuracy`."""

    def encode(self) -> str:
        """The message, its traceback and then its error cut from the left until it fits."""
        words = {k: v for k, v in asdict(self).items() if v not in (None, "", {})}
        text = json.dumps(words)
        for name in ("traceback", "error"):
            excess = len(text.encode()) - TERMINATION_BYTES
            if excess > 0 and name in words:
                # An escaped character is at most 12 bytes of JSON, so halving converges fast.
                while excess > 0 and words[name]:
                    words[name] = words[name][min(len(words[name]), max(excess // 2, 1)) :]
                    text = json.dumps(words)
                    excess = len(text.encode()) - TERMINATION_BYTES
        return text

    @classmethod
    def decode(cls, message: str) -> TerminationMessage | None:
        """Parse a termination message; None when a process other than ours wrote it.

        Anyone may write one, so nothing is taken on trust; metrics that are not finite are dropped.
        """
        try:
            words = json.loads(message)
            known = {f.name for f in fields(cls)}
            picked = {k: v for k, v in words.items() if k in known}
            said = cls(**{**picked, "result": Result(words["result"])})
            if not isinstance(said.error, str) or not isinstance(said.traceback, str):
                return None
            finite = {k: float(v) for k, v in said.metrics.items() if math.isfinite(v)}
            return replace(said, metrics=finite)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return None
