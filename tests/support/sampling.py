"""A random sample of the long tests that fits into a time budget."""

from __future__ import annotations

import random
from collections.abc import Mapping


def sample_within(minutes: Mapping[str, float], budget: float, seed: str) -> set[str]:
    """A sample of the names in `minutes` (name → duration) whose total duration fits `budget`.

    Names are taken in an order shuffled by `seed`; one that does not fit is skipped, so that the
    rest of the budget is used. Over many seeds every name that fits alone is sampled.
    """
    order = random.Random(seed).sample(sorted(minutes), len(minutes))
    sample: set[str] = set()
    remaining = budget
    for name in order:
        if minutes[name] <= remaining:
            sample.add(name)
            remaining -= minutes[name]
    return sample
