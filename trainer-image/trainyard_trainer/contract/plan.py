"""The Plan: the operator's instructions for a running DistributedJob."""

from __future__ import annotations

from dataclasses import Field, dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

from trainyard_trainer.contract.encoding import decode_versioned, encode_versioned


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The operator's instructions for a running job: complete, idempotent, ordered by `generation`.

    The coordinator refuses a generation below the one in force, announces the step at which a new
    one takes effect, and echoes both in its metrics.
    """

    generation: int
    workers: int
    """How many workers should step together; the operator creates and deletes their pods."""
    batch_size: int | None = None
    """Global batch in samples; None keeps the job's own."""
    suspend: bool = False
    """Checkpoint at the next step boundary, then stop."""
    fencing_token: int = 0
    """Of the sending operator; a Plan with a lower token than the one in force is refused."""

    def __post_init__(self) -> None:
        """Refuse instructions that no job could follow."""
        if self.generation < 1:
            raise ValueError(f"plan.generation must be at least 1, got {self.generation}")
        if self.workers < 0 or (self.workers == 0 and not self.suspend):
            raise ValueError(f"plan.workers must be at least 1, got {self.workers}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"plan.batch_size must be at least 1, got {self.batch_size}")

    def encode(self) -> str:
        """The Plan as JSON."""
        return encode_versioned(self)

    @classmethod
    def decode(cls, text: str) -> Plan:
        """Parse; raises ValueError that names the field or the wire version."""
        return decode_versioned(text, cls, "plan")


class AnyPlan(Protocol):
    """What the Plans of both kinds of job have in common; they are dataclasses."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def generation(self) -> int:
        """The order of a job's Plans."""

    @property
    def fencing_token(self) -> int:
        """The order of the operators that send them."""


P = TypeVar("P", bound=AnyPlan)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptPlan:
    """The Plan may take effect."""

    is_new: bool
    """False for the very Plan that is in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StalePlan:
    """The Plan is refused; what is in force instead."""

    generation: int
    fencing_token: int


def plan_precedence(
    current: P | None, new: P, *, generation_floor: int = 0, token_floor: int = 0
) -> AcceptPlan | StalePlan:
    """Whether `new` may replace `current`, the Plan in force.

    A Plan is stale if its generation or its fencing token is below the one in force, or if it
    differs from the one in force under the same generation. A new operator repeats its
    predecessor's Plan under its own token, which is not a difference. The floors are what durable
    state knows of Plans that an earlier term had in force.
    """
    generation, token = generation_floor, token_floor
    is_changed = False
    if current is not None:
        generation = max(generation, current.generation)
        token = max(token, current.fencing_token)
        is_repeated = replace(new, fencing_token=current.fencing_token) == current
        is_changed = new.generation == current.generation and not is_repeated
    if new.generation < generation or new.fencing_token < token or is_changed:
        return StalePlan(generation=generation, fencing_token=token)
    return AcceptPlan(is_new=new != current)
