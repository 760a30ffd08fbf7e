"""What happened, in order: every fault, every wish, and what was found wrong."""

from __future__ import annotations

import time
from collections import Counter, deque
from pathlib import Path

SHOWN = 300
"""Events that a violation shows."""


class Violation(AssertionError):
    """Something was that must never be, or is not as it has to be in the end."""


class Chronicle:
    """A log with the seconds since its beginning."""

    def __init__(self, seed: int, log: Path, *, is_loud: bool = False) -> None:
        self.seed, self._log = seed, log
        self._is_loud = is_loud
        self._start = time.monotonic()
        self._tail: deque[str] = deque(maxlen=SHOWN)
        self.counts: Counter[str] = Counter()
        """How often each kind of thing was done."""
        self.violations: list[str] = []

    def did(self, what: str, to: str = "") -> None:
        """Note something that was done."""
        self.counts[what] += 1
        self.saw(f"{what} {to}".strip(), is_loud=self._is_loud)

    def saw(self, text: str, *, is_loud: bool = False) -> None:
        """Note something that was seen."""
        line = f"{time.monotonic() - self._start:8.3f} {text}"
        self._tail.append(line)
        with self._log.open("a") as log:
            log.write(f"{line}\n")
        if is_loud:
            print(line, flush=True)

    def violated(self, text: str) -> None:
        """Note what must never be."""
        self.violations.append(text)
        self.saw(f"VIOLATION {text}", is_loud=True)

    def tail(self) -> str:
        """The last lines."""
        return "\n".join(self._tail)

    def report(self, problem: str) -> str:
        """A violation as somebody needs it who wants to see it again."""
        found = "\n".join(self.violations[:20])
        return (
            f"seed {self.seed}: {problem}\n{found}\n"
            f"--- the last events (all are in {self._log}):\n{self.tail()}"
        )
