"""Leader election: acquiring, renewing and releasing the Lease, and fencing every request by it.

Uses a client of its own, so that no burst of the controller's requests delays a renewal.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from trainyard.cluster.client import KubeClient, collection
from trainyard.cluster.errors import ApiError
from trainyard.cluster.leaderelection import (
    JITTER,
    LeaderElectionRecord,
    LeaseTimings,
    ObservedRecord,
    acquired,
    may_take,
    observe,
    released,
)
from trainyard.cluster.objects import find

log = logging.getLogger(__name__)

API_VERSION = "coordination.k8s.io/v1"
ATTEMPTS = 2
"""Attempts at a renewal that fit before the renew deadline, even if each hangs."""
NEVER = float("-inf")


class LeadershipLost(BaseException):
    """This process is no longer the leader; not an Exception, so that nothing handles it."""


def boottime() -> float:
    """Seconds on a clock that includes time in suspension, where the system has one."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


class Election:
    """This process's part in the election of the leader."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        timing: LeaseTimings,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._client, self._clock = client, clock
        self._collection = collection(API_VERSION, "leases", namespace)
        self._namespace, self._name = namespace, name
        self._identity, self._timing = identity, timing
        self._observed: ObservedRecord | None = None
        self._is_current = False
        """Whether the observed record is the newest one, as far as this process can know."""
        self._leads_until = NEVER
        self.elected = asyncio.Event()
        """Set when this process has become the leader; it exits when it loses leadership."""
        self.fencing_token = 0
        """Higher than that of all previous leaders; 0 before this process is elected."""

    @property
    def is_leader(self) -> bool:
        """Whether this process is the leader now, by its own clock."""
        return self._clock() < self._leads_until

    def check(self) -> None:
        """Raise LeadershipLost unless this process is the leader; called right before it acts."""
        if not self.is_leader:
            seconds = self._timing.renew_deadline.total_seconds()
            raise LeadershipLost(f"the Lease {self} has not been renewed for {seconds:g} s")

    async def run(self) -> None:
        """Acquire the Lease, then renew it; raises LeadershipLost when that fails for too long."""
        while not await self._try_acquire_or_renew():
            await self._pause()
        log.info("became the leader", extra=self._fields | {"fencing_token": self.fencing_token})
        self.elected.set()
        while True:
            await self._pause()
            self.check()  # a process that was suspended must not even send a renewal
            await self._try_acquire_or_renew()
            self.check()

    async def confirm(self) -> None:
        """Read the Lease to see if it is still ours; raises LeadershipLost or ApiError."""
        record = await self._read()
        if record.holder != self._identity:
            self._leads_until = NEVER
            raise LeadershipLost(f"the Lease {self} is held by {record.holder or 'nobody'}")

    async def release(self) -> None:
        """Release the Lease, so that another process takes over immediately; never raises."""
        if not self.is_leader:
            return
        self._leads_until = NEVER
        try:
            async with asyncio.timeout(self._timing.renew_deadline.total_seconds() / ATTEMPTS):
                record = await self._read()  # a renewal may have been in flight
                if record.holder == self._identity:
                    await self._write(released(record, _now()))
        except (ApiError, TimeoutError) as error:
            log.warning("the Lease %s could not be released and will expire: %s", self, error)
        else:
            log.info("released the Lease", extra=self._fields)

    @property
    def _fields(self) -> dict[str, str | int]:
        return {"lease": str(self), "identity": self._identity}

    def __str__(self) -> str:
        return f"{self._namespace}/{self._name}"

    async def _try_acquire_or_renew(self) -> bool:
        """Try once; False if another process holds the Lease, or no response came in time."""
        limit = self._timing.renew_deadline.total_seconds() / ATTEMPTS
        if self.elected.is_set():
            limit = min(limit, self._leads_until - self._clock())
        try:
            async with asyncio.timeout(limit):
                return await self._acquire_or_renew()
        except (ApiError, TimeoutError) as error:
            self._is_current = False  # the write may have succeeded all the same
            log.warning("the Lease %s: %s", self, str(error) or "no response in time")
            return False

    async def _acquire_or_renew(self) -> bool:
        if self._observed is None or not self._is_current or not self.elected.is_set():
            self._observed = observe(self._observed, await self._read(), self._clock())
        record, asked_at = self._observed.record, self._clock()
        if record.holder != self._identity:
            # A deleted Lease is created again; one that was taken ends this process.
            if self.elected.is_set() and record.version:
                self._leads_until = NEVER
                raise LeadershipLost(f"the Lease {self} was taken by {record.holder or 'nobody'}")
            if not may_take(self._observed, asked_at):
                return False
        wanted = acquired(record, self._identity, self._timing, _now(), self.fencing_token)
        stored = await self._write(wanted)
        self._observed, self._is_current = ObservedRecord(record=stored, since=asked_at), True
        self.fencing_token = stored.fencing_token
        # Counted from the request: the response may have taken long.
        self._leads_until = asked_at + self._timing.renew_deadline.total_seconds()
        return True

    async def _pause(self) -> None:
        seconds = self._timing.retry.total_seconds()
        await asyncio.sleep(seconds * random.uniform(1.0, JITTER))  # noqa: S311 - jitter

    async def _read(self) -> LeaderElectionRecord:
        lease = await find(self._client, f"{self._collection}/{self._name}")
        return LeaderElectionRecord() if lease is None else _parse(lease)

    async def _write(self, record: LeaderElectionRecord) -> LeaderElectionRecord:
        """Create or replace the Lease; one that was written meanwhile is a conflict."""
        body = _manifest(record, self._namespace, self._name)
        if not record.version:
            return _parse(await self._client.create(self._collection, body))
        path = f"{self._collection}/{self._name}"
        return _parse(await self._client.request("PUT", path, body=body))


def _parse(lease: dict[str, Any]) -> LeaderElectionRecord:
    spec = lease.get("spec", {})
    return LeaderElectionRecord(
        version=lease["metadata"]["resourceVersion"],
        holder=spec.get("holderIdentity", ""),
        duration_seconds=spec.get("leaseDurationSeconds", 0),
        acquired_at=spec.get("acquireTime", ""),
        renewed_at=spec.get("renewTime", ""),
        transitions=spec.get("leaseTransitions", 0),
    )


def _manifest(record: LeaderElectionRecord, namespace: str, name: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace}
    if record.version:
        meta["resourceVersion"] = record.version
    spec = {
        "leaseDurationSeconds": record.duration_seconds,
        "acquireTime": record.acquired_at,
        "renewTime": record.renewed_at,
        "leaseTransitions": record.transitions,
    }
    if record.holder:
        spec["holderIdentity"] = record.holder
    return {"apiVersion": API_VERSION, "kind": "Lease", "metadata": meta, "spec": spec}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
