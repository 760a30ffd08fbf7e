"""A DistributedJob's configuration: what its coordinator needs to know at its start."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from trainyard_trainer.contract.decoding import build, parse_object


class Direction(StrEnum):
    """Which way a target metric improves."""

    MAX = "Max"
    MIN = "Min"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Training ends early when `metric` reaches `goal`."""

    metric: str
    value: float
    direction: Direction = Direction.MAX

    def reached(self, value: float) -> bool:
        """Whether `value` is at the goal or beyond; NaN never is."""
        return value >= self.value if self.direction is Direction.MAX else value <= self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class JobConfig:
    """What a coordinator needs to know of its job at its start; it passes it on to the workers."""

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
    """A member not heard of for so long is dead."""

    def encode(self) -> str:
        """The configuration as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def decode(cls, text: str) -> JobConfig:
        """Parse; raises ValueError that names the field."""
        values = parse_object(text, "job configuration")
        if (target := values.get("target")) is not None:
            target = build(
                Target, {**target, "direction": Direction(target.get("direction", Direction.MAX))}
            )
        return build(cls, {**values, "target": target})
