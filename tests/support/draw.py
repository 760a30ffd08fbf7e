"""Which long tests a run takes: a share drawn by a seed that fits into the minutes given."""

from __future__ import annotations

import random
from collections.abc import Mapping


def draw(minutes: Mapping[str, float], budget: float, seed: str) -> set[str]:
    """Names drawn from `minutes` (name → minutes it takes) that fit into `budget` together.

    The order is drawn by `seed`; a name that no longer fits is passed over for the next, so that a
    budget is used as far as it goes. Over many seeds every name that fits alone is drawn.
    """
    order = random.Random(seed).sample(sorted(minutes), len(minutes))
    drawn: set[str] = set()
    left = budget
    for name in order:
        if minutes[name] <= left:
            drawn.add(name)
            left -= minutes[name]
    return drawn
