"""Counts the uploads of state that are not stored, and ends what cannot get its final state."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Final

from aiohttp import web

from trainyard_trainer.coordinator.progress import Progress
from trainyard_trainer.runtime.exits import Fenced, StateUnusable, TrainerError

log = logging.getLogger(__name__)

FINAL_ATTEMPTS: Final = 10
"""Failed uploads of the final state in a row; workers pause for up to 30 s between them."""
LATE_SECONDS: Final = 60.0
"""A requested snapshot that has not begun to arrive after this long has failed to."""


class UploadMonitor:
    """Watches the uploads of one coordinator."""

    def __init__(self, progress: Progress, end: Callable[[Exception], None]) -> None:
        """Failures are counted in `progress`; `end` ends the process with an error."""
        self._progress, self._end = progress, end
        self._arriving = 0
        self._final_failures = 0
        """In a row."""
        self._requested: tuple[float, int] | None = None
        """When a snapshot was requested that has not arrived, and the step reported then."""

    @contextlib.contextmanager
    def counted(self, kind: str) -> Iterator[None]:
        """Count an upload that fails in here, unless it is meant for another term.

        Ends the process if the state is needed now and another upload would fail as well.
        """
        self._arriving += 1
        try:
            yield
        except (Fenced, web.HTTPConflict):
            raise
        except Exception as error:
            self._failed(kind, error)
            raise
        else:
            self._progress.consecutive_failed_writes = self._final_failures = 0
        finally:
            self._arriving -= 1
            if kind == "snapshot":
                self._requested = None

    def _failed(self, kind: str, error: Exception) -> None:
        reason = str(error.text if isinstance(error, web.HTTPException) else error)
        reason = reason or type(error).__name__
        log.error("a %s was not stored: %s", kind, reason)
        self._progress.write_failed()
        if kind == "snapshot":
            return
        self._final_failures += 1
        if isinstance(error, StateUnusable):
            self._end(error)
        elif self._final_failures == FINAL_ATTEMPTS:
            text = f"the final state could not be stored in {FINAL_ATTEMPTS} uploads: {reason}"
            self._end(TrainerError(text))

    def requested(self) -> None:
        """A snapshot was requested."""
        if self._requested is None:
            self._requested = time.monotonic(), self._progress.report.step

    def check_requested(self) -> None:
        """Count a requested snapshot that has not begun to arrive while training went on."""
        report = self._progress.report
        if self._requested is None or self._arriving or report.non_finite_steps:
            return  # A state that is not finite is not uploaded.
        at, step = self._requested
        if time.monotonic() - at < LATE_SECONDS or report.step <= step:
            return
        self._requested = None
        self._progress.write_failed()
        log.error("no checkpoint has arrived since step %d, when one was requested", step)
