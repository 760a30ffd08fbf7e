"""PURE: an allocation of all requests but those that make it fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from trainyard.api.names import Key
from trainyard.scheduling.decision import Allocation
from trainyard.scheduling.request import JobRequest

Allocate = Callable[[Sequence[JobRequest]], Allocation]


class Isolated(NamedTuple):
    """An allocation, and why some jobs are left out of it."""

    allocation: Allocation
    failed: Mapping[Key, Exception]


def allocate_isolated(allocate: Allocate, requests: Sequence[JobRequest]) -> Isolated:
    """Allocate without the requests that raise; raises if the others fail together."""
    try:
        return Isolated(allocate(requests), {})
    except Exception:
        failed = _failing(allocate, requests)
        if not failed:
            raise  # no single job is to blame
    rest = [request for request in requests if request.key not in failed]
    return Isolated(allocate(rest), failed)


def _failing(allocate: Allocate, requests: Sequence[JobRequest]) -> dict[Key, Exception]:
    """The requests that fail by themselves, found by halving; most cycles have none."""
    try:
        allocate(requests)
    except Exception as error:
        if len(requests) == 1:
            return {requests[0].key: error}
        half = len(requests) // 2
        return _failing(allocate, requests[:half]) | _failing(allocate, requests[half:])
    return {}
