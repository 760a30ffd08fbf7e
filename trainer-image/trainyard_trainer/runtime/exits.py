"""How a trainer process ends: its exit codes as exceptions, and its termination message.

Free of torch, because the coordinator raises these as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from trainyard_trainer.contract.env import ENV_WIRE, WIRE_VERSION
from trainyard_trainer.contract.exits import Exit, Result, TerminationMessage


class TrainerError(Exception):
    """Ends the process with `code`; the message is a sentence for a person."""

    code = Exit.INTERNAL


class TaskInvalid(TrainerError):
    """The task cannot be loaded, refuses its arguments or is of a kind that is not supported."""

    code = Exit.TASK_INVALID


class TaskFailed(TrainerError):
    """The user's code raised; the cause is chained."""

    code = Exit.TASK_FAILED


class JobFailed(TrainerError):
    """The whole job cannot go on: a retry would fail in the same way."""

    code = Exit.TASK_INVALID


class MemberUnfit(TrainerError):
    """This worker alone cannot take part, while others train."""

    code = Exit.MEMBER_UNFIT


class NoDevice(TrainerError):
    """The pod requests a GPU, and PyTorch finds none."""

    code = Exit.NO_DEVICE


class Diverged(TrainerError):
    """Training goes nowhere any more; the last good model is kept."""

    code = Exit.TASK_FAILED


class StateUnusable(TrainerError):
    """The state directory cannot be read or written."""

    code = Exit.STATE_UNUSABLE


class Fenced(TrainerError):
    """A higher term, or a newer worker of the same name, has taken this process' place."""

    code = Exit.FENCED


class WireMismatch(TrainerError):
    """The peer speaks another wire version."""

    code = Exit.WIRE_MISMATCH


def check_wire(environ: Mapping[str, str]) -> None:
    """Raise WireMismatch when the operator that made this pod speaks another wire version."""
    theirs = environ.get(ENV_WIRE, str(WIRE_VERSION))
    if theirs != str(WIRE_VERSION):
        raise WireMismatch(
            f"the operator speaks wire version {theirs}, this trainer {WIRE_VERSION}: "
            "use images of the same release"
        )


def describe(error: BaseException) -> tuple[Exit, TerminationMessage]:
    """The exit code and termination message for an exception that ends the process."""
    code = error.code if isinstance(error, TrainerError) else Exit.INTERNAL
    sentence = str(error) or type(error).__name__
    if not isinstance(error, TrainerError):
        sentence = f"{type(error).__name__}: {sentence}"
    cause = error.__cause__ if isinstance(error, TrainerError) else error
    trace = "" if cause is None else "".join(traceback.format_exception(cause))
    return code, TerminationMessage(result=Result.FAILED, error=sentence, traceback=trace)


def divergence(result: Mapping[str, object]) -> str:
    """What a person must know of a result whose model is not finite; empty for any other."""
    if result.get("finite", True):
        return ""
    steps = result.get("non_finite_steps", 0)
    return (
        f"training has diverged: the loss of the last {steps} steps or the model is not finite, "
        "so that the model cannot be used; try a lower learning rate, or clip_norm"
    )


def write_termination_message(path: str, message: TerminationMessage) -> None:
    """Write the termination message; a path that cannot be written to is ignored."""
    with contextlib.suppress(OSError):
        Path(path).write_text(message.encode(), encoding="utf-8")


def exit_at_once_on_sigterm(termination_log: str) -> None:
    """Exit on SIGTERM without delay, for as long as there is no state to hand over."""

    def leave(_signal: int, _frame: FrameType | None) -> None:
        write_termination_message(termination_log, TerminationMessage(result=Result.LEFT))
        os._exit(Exit.OK)

    signal.signal(signal.SIGTERM, leave)
