"""Invariants of the operator's replicas, observed from outside."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from tests.faults.history import History
from tests.faults.operators import FORBIDDEN_MESSAGES
from tests.support.manifests import Object
from tests.support.process import OperatorProcess
from tests.support.replicas import lease
from trainyard.cluster.client import KubeClient

VALUES = Path(__file__).parents[2] / "manifests" / "charts" / "trainyard" / "values.yaml"
MEBIBYTE: Final = 2**20
POLL_SECONDS = 1.0


def memory_limit_bytes() -> int:
    """The memory limit of a replica in the chart."""
    values = yaml.safe_load(VALUES.read_text())
    return int(values["resources"]["limits"]["memory"].removesuffix("Mi")) * MEBIBYTE


@dataclass(slots=True)
class _Figures:
    first_bytes: int = 0
    most_bytes: int = 0
    slowest_health_seconds: float = 0.0


@dataclass(slots=True)
class Observer:
    """Checks again and again that every replica lives, is healthy and stays small.

    The Lease stays with its holder, too, as the test takes it from nobody.
    """

    client: KubeClient
    operator_namespace: str
    replicas: dict[str, OperatorProcess]
    history: History
    figures: dict[str, _Figures] = field(default_factory=dict)
    _limit: int = field(default_factory=memory_limit_bytes)
    _lease: Object = field(default_factory=dict)

    async def observe(self) -> None:
        """Observe until cancelled; a replica that has ended is a violation once."""
        living = dict(self.replicas)
        while True:
            for name, replica in list(living.items()):
                if (code := replica.poll()) is not None:
                    del living[name]
                    self.history.record_violation(f"{name} exited with {code}:\n{replica.tail()}")
                else:
                    await self._check(name, replica)
            await self._check_lease()
            await asyncio.sleep(POLL_SECONDS)

    def check_logs(self) -> None:
        """Record a violation for each message in the logs that means a defect."""
        for name, replica in self.replicas.items():
            text = replica.log.read_text(errors="replace")
            for message in FORBIDDEN_MESSAGES:
                if message in text:
                    self.history.record_violation(f"{name} logged: {message} ({replica.log})")

    async def _check(self, name: str, replica: OperatorProcess) -> None:
        size = replica.memory_bytes()
        figures = self.figures.setdefault(name, _Figures(first_bytes=size))
        figures.most_bytes = max(figures.most_bytes, size)
        if size > self._limit:
            self.history.record_violation(f"{name} takes {size / MEBIBYTE:.0f} MiB")
        started = time.monotonic()
        status = await asyncio.to_thread(replica.health)
        seconds = time.monotonic() - started
        figures.slowest_health_seconds = max(figures.slowest_health_seconds, seconds)
        if status != 200:
            self.history.record_violation(f"/healthz of {name} returns {status}")

    async def _check_lease(self) -> None:
        found = await lease(self.client, self.operator_namespace)
        fields = {name: found.get(name) for name in ("holderIdentity", "leaseTransitions")}
        if self._lease and fields != self._lease:
            self.history.record_violation(f"the Lease went from {self._lease} to {fields}")
        self._lease = fields

    def __str__(self) -> str:
        return "; ".join(
            f"{name}: {f.first_bytes / MEBIBYTE:.0f} MiB at first, {f.most_bytes / MEBIBYTE:.0f} "
            f"MiB at most, /healthz within {f.slowest_health_seconds:.2f} s"
            for name, f in self.figures.items()
        )
