"""Numbers and times in sentences for people."""

from __future__ import annotations

from datetime import datetime


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 job`, `2 jobs`, `3 parties`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def clock_time(moment: datetime) -> str:
    """`12:00:05`."""
    return f"{moment:%H:%M:%S}"
