"""What one job should have by itself: the seam between policies and the allocation of GPUs.

Policies know one job and no GPUs; the allocation compares the proposals of all jobs under the
GPUs that are free. A later policy (`Goodput`) brings another curve through the same `Proposal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from trainyard.api.pools import NodePool
from trainyard.api.reasons import Reason
from trainyard.scheduling.basis import Basis
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.speedup import SpeedUp


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """Settings that apply to every job of the cluster."""

    stale_after: timedelta = timedelta(seconds=15)
    """Metrics older than three scrape intervals (of 5 s) decide nothing."""
    min_steps: int = 10
    """Steps behind a measurement before it counts: the first ones after a change are slow."""
    retry_after: timedelta = timedelta(minutes=30)
    """Pause before a growth that did not pay is tried again; doubled after each failed retry."""
    trial_limit: timedelta = timedelta(minutes=5)
    """Longest trial of a growth whose gain is not clear: a trainer's figures cover some minutes, so
    that they get no surer after that."""
    bind_timeout: timedelta = timedelta(seconds=60)
    """How long workers may lack a node before the job shrinks to what has one."""
    volume_timeout: timedelta = timedelta(minutes=10)
    """The same while a volume is provisioned for them; kube-scheduler waits as long."""
    provision_timeout: timedelta = timedelta(minutes=15)
    """How long an autoscaler may take to add the nodes of a declared pool."""
    not_placed_backoff: timedelta = timedelta(minutes=5)
    """Pause before a size that was not placed is asked for again; doubled by each attempt."""
    pools: tuple[NodePool, ...] = ()
    """Pools to which an autoscaler adds nodes for pods that are Pending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The size that one admitted job should have; GPUs are not counted yet."""

    workers: int
    """The desired size; the present one to stay."""
    at_least: int
    """The smallest growth worth its while; with fewer free GPUs the job stays as it is."""
    reason: Reason
    basis: Basis
    """The figures behind it."""
    curve: SpeedUp | None = None
    """None where nothing was measured, or where it does not matter."""
    requeue_at: datetime | None = None
    is_mandatory: bool = False
    """Requested by people or forced by the cluster: applied under `mode: Recommend` too."""

    def is_applied(self, job: JobRequest) -> bool:
        """Whether the proposal takes effect, rather than being recommended only."""
        return self.is_mandatory or job.mode == "Apply"
