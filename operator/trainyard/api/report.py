"""A coordinator's metrics, as they were last read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from trainyard.api.status import Measurement
from trainyard_trainer.contract.env import WIRE_VERSION
from trainyard_trainer.contract.federated import PartyState


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """The exchanges of this operator with one pod of a coordinator so far."""

    pod_uid: str = ""
    """The pod; empty before the first exchange."""
    has_answered: bool = False
    failing_since: datetime | None = None
    """Since when it has not answered; None while it answers."""
    without_members_since: datetime | None = None
    """Since when no member has been connected to it though some run; None while any is."""
    trained: frozenset[str] = frozenset()
    """The uids of the members' pods that ran when all that ran were active, and still exist."""
    refusal: str = ""
    """Why it refused the last Plan; empty if it did not."""


NO_CONTACT = Contact()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyReport:
    """An aggregator's metrics of one party."""

    state: str = ""
    """A `contract.PartyState`; empty when unknown."""
    rounds: int = 0
    samples: int = 0
    seconds: float | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    """Updates refused, by `contract.Refusal`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationReport:
    """Metrics that only an aggregator has; see `contract.FederatedMetric`."""

    round: int = 0
    rounds_lost: int = 0
    best_round: int | None = None
    round_seconds: float | None = None
    parties: Mapping[str, PartyReport] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorReport:
    """All metrics of a coordinator at one time; `contract.Metric` has the meaning of each."""

    at: datetime
    wire: int = 0
    term: int = 0
    view: int = 0
    step: int = 0
    epoch: float = 0.0
    samples: int = 0
    loss: float | None = None
    non_finite_steps: int = 0
    last_step_at: datetime | None = None
    usual_step_seconds: float | None = None
    evaluation: Mapping[str, float] = field(default_factory=dict)
    members: Mapping[str, int] = field(default_factory=dict)
    """Workers by state."""
    profile: tuple[Measurement, ...] = ()
    rescales: int = 0
    stall_seconds: float | None = None
    cost_gpu_seconds: float | None = None
    plan_generation: int = 0
    checkpoint_step: int = -1
    consecutive_failed_writes: int = 0
    federation: FederationReport | None = None
    """None for a DistributedJob."""
    outcome: str = ""
    """`Complete` or `Suspended` once training has ended."""

    @property
    def active_workers(self) -> int:
        """Workers that step together."""
        return self.members.get("active", 0)

    @property
    def lacks_members(self) -> bool:
        """Whether it knows of members, and none is connected; unknown is False."""
        if self.outcome:
            return False  # they leave at the end
        if self.federation is not None:
            states = [party.state for party in self.federation.parties.values()]
            return bool(states) and all(state == PartyState.ABSENT for state in states)
        return bool(self.members) and not any(self.members.values())

    @property
    def is_mismatched(self) -> bool:
        """Whether the coordinator speaks another wire version, so that it could misread a Plan."""
        return self.wire not in (0, WIRE_VERSION)
