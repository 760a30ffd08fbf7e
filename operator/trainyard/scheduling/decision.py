"""What the scheduler answers: a decision for every job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from trainyard.api.names import Key
from trainyard.api.reasons import Reason
from trainyard.api.status import NotPlaced, Provisioning
from trainyard.scheduling.explain import explain
from trainyard.scheduling.facts import Facts
from trainyard.scheduling.shapes import PodShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How many workers a job should have now, and why."""

    workers: int
    """0 keeps the job waiting."""
    parties: tuple[str, ...] = ()
    """The assigned parties of a gang."""
    recommended: int
    """What the policy would choose; differs from `workers` only under `mode: Recommend`."""
    reason: Reason
    facts: Facts
    """The figures behind it."""
    expected_speedup: float | None = None
    """Samples per second after ÷ before that a change should bring."""
    nodes: tuple[str, ...] = ()
    """Hostnames of the nodes that pods without a node should prefer; empty: any."""
    not_placed: NotPlaced | None = None
    """The size that is not asked for again yet, from now on."""
    provisioning: Provisioning | None = None
    """The pool that has yet to add nodes, or added none in time, from now on."""
    left_out: tuple[int, ...] = ()
    """Indices of workers that the job goes on without, from now on."""
    room_since: Mapping[PodShape, datetime] = field(default_factory=dict)
    """Since when pods that have no node could have been bound, for the next allocation."""
    requeue_at: datetime | None = None
    """When time alone may change this decision; None when only events can."""

    @property
    def message(self) -> str:
        """The facts as one sentence for people."""
        return explain(self.facts)


Allocation = Mapping[Key, Decision]
