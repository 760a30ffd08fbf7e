"""The throughput profile of a job: what reports add to it, and what of it is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from trainyard.api.status import Measurement, SampleTimes

MAX_PROFILE: Final = 64
"""Measurements that the schema of the status allows."""
MIN_STEPS: Final = 5
"""Steps behind a measurement before a speed-up is computed from it."""

_Configuration = tuple[int, int, int]


def merge_profiles(old: Iterable[Measurement], new: Iterable[Measurement]) -> list[Measurement]:
    """Replace measurements of the same configuration by newer ones.

    A restarted coordinator knows only what it has measured itself, so a few steps do not replace a
    good measurement.
    """
    merged = {_configuration(m): m for m in old}
    reported = {_configuration(m): order for order, m in enumerate(new)}
    for m in new:
        known = merged.get(_configuration(m))
        if known is None or m.steps >= min(MIN_STEPS, known.steps):
            merged[_configuration(m)] = msgspec.structs.replace(
                m,
                samples_per_second=round(m.samples_per_second, 2),
                sample_times=_rounded_times(m.sample_times),
            )
    kept = _bounded(list(merged.values()), reported)
    return sorted(kept, key=lambda m: (m.workers, m.nodes, m.local_batch))


def _bounded(
    profile: list[Measurement], reported: Mapping[_Configuration, int]
) -> list[Measurement]:
    """The smallest and the largest size, by which speed-ups are reckoned, and then the newest.

    A coordinator reports in the order in which it measured first; what is not `reported` is older.
    """
    if len(profile) <= MAX_PROFILE:
        return profile
    ends = {
        _configuration(max((m for m in profile if m.workers == size), key=_by_steps))
        for size in (min(m.workers for m in profile), max(m.workers for m in profile))
    }

    def rank(m: Measurement) -> tuple[bool, int, tuple[int, _Configuration]]:
        configuration = _configuration(m)
        return configuration in ends, reported.get(configuration, -1), _by_steps(m)

    return sorted(profile, key=rank, reverse=True)[:MAX_PROFILE]


def _configuration(m: Measurement) -> _Configuration:
    return m.nodes, m.workers, m.local_batch


def _by_steps(m: Measurement) -> tuple[int, _Configuration]:
    return m.steps, _configuration(m)


def _rounded_times(times: SampleTimes | None) -> SampleTimes | None:
    """To six significant digits: seconds per sample may be microseconds."""
    if times is None:
        return None
    mean, deviation = (float(f"{value:.6g}") for value in (times.mean, times.deviation))
    return SampleTimes(blocks=times.blocks, mean=mean, deviation=deviation)
