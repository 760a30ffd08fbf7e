"""A DistributedJob's configuration: what its coordinator needs when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from trainyard_trainer.contract.encoding import decode, encode


class Direction(StrEnum):
    """Which way a target metric improves."""

    MAX = "Max"
    MIN = "Min"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Training ends early when `metric` reaches `value`."""

    metric: str
    value: float
    direction: Direction = Direction.MAX

    def reached(self, value: float) -> bool:
        """Whether `value` is at the target or beyond; NaN never is."""
        return value >= self.value if self.direction is Direction.MAX else value <= self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class JobConfig:
    """A DistributedJob's configuration; the coordinator passes it on to the workers."""

    task: str
    """`module:Class` of the Task."""
    args: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 256
    """Global batch in samples; every worker gets its share."""
    epochs: int = 1
    init: str = ""
    """A safetensors file (path in the image or below the state directory) to start from."""
    target: Target | None = None
    seed: int = 0
    checkpoint_seconds: float = 120.0
    checkpoint_keep: int = 3
    durable: bool = False
    """Whether `STATE_DIR` survives the coordinator's pod."""
    min_workers: int = 1
    silence_seconds: float = 5.0
    """A member that is silent for this long counts as dead."""
    stuck_seconds: float = 300.0
    """A member that keeps others waiting for this long, and for ten usual steps, is left out."""

    def encode(self) -> str:
        """The configuration as JSON."""
        return encode(self)

    @classmethod
    def decode(cls, text: str) -> JobConfig:
        """Parse; raises ValueError that names the field."""
        return decode(text, cls, "job configuration")
