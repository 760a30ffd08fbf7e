"""The Plan: the operator's instructions for a running DistributedJob."""

from __future__ import annotations

from dataclasses import dataclass

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
