"""The Plan: what the operator wants of a running DistributedJob."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from trainyard_trainer.contract.decoding import build, parse_object
from trainyard_trainer.contract.env import WIRE_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the operator wants of a running job: whole, idempotent, ordered by `generation`.

    The coordinator refuses a generation below the one in force, announces the step at which a new
    one takes effect, and echoes both in its metrics.
    """

    generation: int
    workers: int
    """How many workers should step together; the pods come and go by the operator's hand."""
    batch_size: int | None = None
    """Global batch in samples; None keeps the job's own."""
    suspend: bool = False
    """Checkpoint at the next step boundary, then stop."""
    fencing_token: int = 0
    """The sending operator's term of office; one that a later operator has replaced is refused."""

    def __post_init__(self) -> None:
        """Refuse what no job could follow."""
        if self.generation < 1:
            raise ValueError(f"plan.generation must be at least 1, got {self.generation}")
        if self.workers < 0 or (self.workers == 0 and not self.suspend):
            raise ValueError(f"plan.workers must be at least 1, got {self.workers}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"plan.batch_size must be at least 1, got {self.batch_size}")

    def encode(self) -> str:
        """The plan as JSON."""
        return json.dumps({"wire": WIRE_VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def decode(cls, text: str) -> Plan:
        """Parse; raises ValueError that names the field or the wire version."""
        values = dict(parse_object(text, "plan"))
        wire = values.pop("wire", None)
        if wire != WIRE_VERSION:
            raise ValueError(f"plan has wire version {wire}, this trainer speaks {WIRE_VERSION}")
        return build(cls, values)
