"""The controller's dependencies, and the options it runs under."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from trainyard import __version__
from trainyard.api.jobs import Job
from trainyard.api.names import Key
from trainyard.cluster.activity import Activity
from trainyard.cluster.authorities import Authorities
from trainyard.cluster.cache import ClusterCache
from trainyard.cluster.client import KubeClient
from trainyard.cluster.clock import SteadyClock
from trainyard.cluster.coordinator import SCRAPE_TIMEOUT, Coordinators
from trainyard.cluster.election_thread import ElectionThread
from trainyard.cluster.installations import Installations
from trainyard.lifecycle.timeouts import Timeouts
from trainyard.reconcile.metrics import OperatorMetrics
from trainyard.reconcile.namespace_service import NamespaceServices
from trainyard.reconcile.rates import RateLimiter
from trainyard.reconcile.state import AssignmentState, Clock, CoordinatorLink, JobState
from trainyard.render.base_pod import USER
from trainyard.scheduling.assignment import initial_assignment
from trainyard.scheduling.proposal import SchedulerSettings

DEFAULT_TRAINER_IMAGE = f"trainyard-trainer:{__version__}"
FIGURES_PER_SECOND = 20
"""Writes of statuses that differ only in figures, of some 10 KB each."""
MAX_SCRAPES_PER_SECOND = 50
"""Each costs some 5 ms with the reconcile that follows: a quarter of a core."""
EVENT_SLOTS = 4
"""Listings of Events at a time: each makes the API server read all Events of a namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one operator process."""

    operator_namespace: str = "trainyard-system"
    """Namespace of the master secret and the Lease."""
    namespaces: tuple[str, ...] = ()
    """Namespaces to serve; empty for all."""
    trainer_image: str = DEFAULT_TRAINER_IMAGE
    """Of jobs that name no image."""
    cluster_domain: str = "cluster.local"
    service_name: str = "trainyard"
    """The headless Service of each namespace with jobs."""
    run_as_user: int | None = USER
    """User and group of pods whose template has none; None leaves them to the platform."""
    scrape_interval: timedelta = timedelta(seconds=5)
    scrape_timeout: timedelta = SCRAPE_TIMEOUT
    resync_interval: timedelta = timedelta(minutes=5)
    """How often our own kinds are listed: kopf does not report what was deleted meanwhile."""
    relist_interval: timedelta = timedelta(hours=1)
    """How often pods and nodes are listed beyond need: their watches lose nothing, and know when a
    listing is due (an expired version, an older state of the server, an event too large)."""
    workers: int = 32
    """Maximum concurrent reconciles; each mostly waits for the API server."""
    exchanges: int = 32
    """Maximum concurrent exchanges with coordinators."""
    exchanges_per_namespace: int = 8
    """Of these, for the jobs of one namespace: its slow coordinators delay nobody else's."""
    priority_class_namespaces: Mapping[str, Collection[str]] = field(default_factory=dict)
    """The namespaces whose jobs may use a priority class; of a class without, all but for those
    that Kubernetes reserves."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    scheduling: SchedulerSettings = field(default_factory=SchedulerSettings)
    """`stale_after` follows from the scrape interval."""
    identity: str = "trainyard"
    """The name of this process in Events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """Wired once by the composition root."""

    client: KubeClient
    cache: ClusterCache
    authorities: Authorities
    coordinators: Coordinators
    services: NamespaceServices
    clock: Clock
    options: Options
    job_states: dict[Key, JobState] = field(default_factory=dict)
    """What this process knows of each job; `job_state` makes the entries."""
    activity: Activity = field(default_factory=Activity)
    """Of the watches and the scheduler."""
    figures: RateLimiter = field(default_factory=lambda: RateLimiter(FIGURES_PER_SECOND))
    """When statuses are written that differ only in figures."""
    event_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(EVENT_SLOTS))
    """Taken while the Events of a pod are listed."""
    metrics: OperatorMetrics = field(default_factory=OperatorMetrics)
    steady_clock: SteadyClock | None = None
    """Says whether `clock` agrees with the API server's; None where nothing compares them."""
    election: ElectionThread | None = None
    """Elects the one of several operators that acts; None where this process runs alone."""
    installations: Installations | None = None
    """Keeps a second installation from serving the same; None where that is not checked."""

    @property
    def is_clock_trusted(self) -> bool:
        """Whether deadlines may be enforced, which ends and deletes jobs for good."""
        return self.steady_clock is None or self.steady_clock.is_trusted

    @property
    def is_leader(self) -> bool:
        """Whether this process may act."""
        return self.election is None or self.election.is_leader

    @property
    def scrape_interval(self) -> timedelta:
        """How often each coordinator is scraped: less often, the more are connected."""
        least = timedelta(seconds=self.coordinators.connected / MAX_SCRAPES_PER_SECOND)
        return max(self.options.scrape_interval, least)

    @property
    def fencing_token(self) -> int:
        """What this process' Plans carry; 0 without an election."""
        return 0 if self.election is None else self.election.fencing_token

    def job_state(self, job: Job) -> JobState:
        """What this process knows of the job; at first what its status and its pods show."""
        state = self.job_states.get(job.key)
        if state is None or state.uid != job.uid:
            assignment = initial_assignment(job, self.cache.pods_of(job.key))
            state = self.job_states[job.key] = JobState(
                uid=job.uid,
                assignment=AssignmentState(assignment),
                coordinator=CoordinatorLink(plan_generation=job.status.plan_generation),
            )
        return state
