"""What every part of the controller works with, and the options it runs under."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from trainyard.cluster.authorities import Authorities
from trainyard.cluster.cache import ClusterCache
from trainyard.cluster.client import KubeClient
from trainyard.cluster.coordinator import Coordinators
from trainyard.cluster.lease import Election
from trainyard.lifecycle.timeouts import Timeouts
from trainyard.reconcile.metrics import OperatorMetrics
from trainyard.reconcile.state import Clock, JobCache


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How this operator runs."""

    operator_namespace: str = "trainyard-system"
    """Where job authorities live."""
    namespaces: tuple[str, ...] = ()
    """Namespaces to serve; none means all."""
    cluster_domain: str = "cluster.local"
    scrape_interval: timedelta = timedelta(seconds=5)
    resync_interval: timedelta = timedelta(minutes=5)
    """A deletion during a disconnect sends no event; a full listing finds it."""
    workers: int = 32
    """Reconciles under way at once; each mostly waits for the API server."""
    exchanges: int = 32
    """Coordinators talked to at once."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    identity: str = "trainyard"
    """This process, in Events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """The parts, wired once by the composition root."""

    client: KubeClient
    cache: ClusterCache
    authorities: Authorities
    coordinators: Coordinators
    clock: Clock
    options: Options
    states: JobCache = field(default_factory=JobCache)
    metrics: OperatorMetrics = field(default_factory=OperatorMetrics)
    election: Election | None = None
    """By which one of several operators acts; None where this one is alone."""

    @property
    def is_leader(self) -> bool:
        """Whether this process acts."""
        return self.election is None or self.election.is_leader

    @property
    def fencing_token(self) -> int:
        """This process' term of office; 0 without an election."""
        return 0 if self.election is None else self.election.fencing_token
