"""The history of a run: its operations, faults, observed events and violations, in order."""

from __future__ import annotations

import time
from collections import Counter, deque
from pathlib import Path

MAX_EVENTS = 300
"""Events that a report shows."""


class Violation(AssertionError):
    """An invariant was broken, or the final state is wrong."""


class History:
    """A log of events with the seconds since its start."""

    def __init__(self, seed: int, log: Path, *, is_verbose: bool = False) -> None:
        self.seed, self._log = seed, log
        self._is_verbose = is_verbose
        self._start = time.monotonic()
        self._tail: deque[str] = deque(maxlen=MAX_EVENTS)
        self.counts: Counter[str] = Counter()
        """The number of operations and faults by kind."""
        self.violations: list[str] = []

    def record(self, kind: str, target: str = "") -> None:
        """Record an operation or a fault, and count it."""
        self.counts[kind] += 1
        self.log(f"{kind} {target}".strip(), prints=self._is_verbose)

    def log(self, text: str, *, prints: bool = False) -> None:
        """Record an event."""
        line = f"{time.monotonic() - self._start:8.3f} {text}"
        self._tail.append(line)
        with self._log.open("a") as file:
            file.write(f"{line}\n")
        if prints:
            print(line, flush=True)

    def record_violation(self, text: str) -> None:
        """Record a broken invariant or a wrong final state."""
        self.violations.append(text)
        self.log(f"VIOLATION {text}", prints=True)

    def tail(self) -> str:
        """The last events."""
        return "\n".join(self._tail)

    def report(self, problem: str) -> str:
        """The violations with what is needed to reproduce them."""
        violations = "\n".join(self.violations[:20])
        return (
            f"seed {self.seed}: {problem}\n{violations}\n"
            f"--- the last events (all are in {self._log}):\n{self.tail()}"
        )
