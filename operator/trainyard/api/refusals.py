"""What the API server refuses to create, as the rules see it."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple


class Refusal(NamedTuple):
    """That the API server refuses a child of the job, as it will until somebody changes that."""

    message: str
    """Its answer."""
    since: datetime
