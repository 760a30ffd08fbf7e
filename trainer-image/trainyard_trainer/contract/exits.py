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
    """The task cannot be loaded, refuses its arguments, or raises on the same samples on two
    workers; a retry would fail the same way."""
    MEMBER_UNFIT = 69
    """This worker alone cannot take part while others train: another image, other data, out of
    memory, no device, no way to reach the others, or it hangs. Its own fault and not the job's."""
    INTERNAL = 70
    """A bug in Trainyard; retried."""
    NO_DEVICE = 71
    """The pod requests a GPU, and PyTorch finds none in its container; retried, as a driver may be
    about to start."""
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
    metrics_left_out: int = 0
    """Number of metrics that `metrics` lacks: they did not fit, or are not finite."""

    def encode(self) -> str:
        """The message as strict JSON that fits: all of it, or what matters most to a reader.

        The traceback is truncated from the left, then metrics are left out, those of the longest
        names first, then the error is truncated from the left.
        """
        message = self._encodable()._truncated("traceback")
        if message._excess > 0:
            message = message._with_fitting_metrics()
        return message._truncated("error")._to_json()

    def _to_json(self) -> str:
        values = {k: v for k, v in asdict(self).items() if v not in (None, "", {})}
        if not self.metrics_left_out:
            del values["metrics_left_out"]
        return json.dumps(values, allow_nan=False)

    @property
    def _excess(self) -> int:
        """By how many bytes the message is too long."""
        return len(self._to_json()) - TERMINATION_BYTES

    def _truncated(self, name: str) -> TerminationMessage:
        """The message with as much of the end of a text as fits."""
        message = self
        # An escaped character is at most 12 bytes of JSON, so halving converges fast.
        while (excess := message._excess) > 0 and (text := getattr(message, name)):
            message = replace(message, **{name: text[min(len(text), max(excess // 2, 1)) :]})
        return message

    def _with_fitting_metrics(self) -> TerminationMessage:
        """The message with as many metrics as fit, those of the shortest names.

        Totals such as `eval/accuracy` have shorter names than their parts by class.
        """
        total = len(self.metrics) + self.metrics_left_out
        space = -replace(self, metrics={"": 0.0}, metrics_left_out=total)._excess
        kept = set[str]()
        for name in sorted(self.metrics, key=lambda name: (len(json.dumps(name)), name)):
            space -= len(json.dumps({name: self.metrics[name]}))
            if space < 0:
                break
            kept.add(name)
        metrics = {k: v for k, v in self.metrics.items() if k in kept}
        return replace(self, metrics=metrics, metrics_left_out=total - len(metrics))

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
        return message._encodable()

    def _encodable(self) -> TerminationMessage:
        """The same message without text and figures that no API takes.

        Such text is for example a file name that is not UTF-8.
        """
        finite = {encodable(k): v for k, v in self.metrics.items() if math.isfinite(v)}
        return replace(
            self,
            error=encodable(self.error),
            traceback=encodable(self.traceback),
            metrics=finite,
            metrics_left_out=self.metrics_left_out + len(self.metrics) - len(finite),
        )
