"""One installation for each namespace: a ConfigMap with all those of the cluster.

Two releases that serve the same namespace would both place, create and delete the pods of its jobs,
each with certificate authorities of its own. No Lease shows that: each has its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

import msgspec

from trainyard.cluster.client import KubeClient, Object, collection
from trainyard.cluster.errors import ApiError
from trainyard.cluster.lease import boottime
from trainyard.cluster.objects import get_or_create

log = logging.getLogger(__name__)

CONFIG_MAP = "trainyard-installations"
HEARTBEAT_SECONDS = 10.0
DURATION_SECONDS = 45.0
"""An installation whose record has not changed for so long, as observed, is gone."""
CONFLICT_SECONDS = 0.5


class SecondInstallationError(Exception):
    """Another installation serves a namespace of this one, and lives."""


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one installation, renewed by its leader."""

    namespaces: tuple[str, ...] = ()
    """Those it serves; empty for all."""
    heartbeats: int = 0

    def overlaps(self, other: Self) -> bool:
        """Whether both serve the same namespace."""
        serves_all = not self.namespaces or not other.namespaces
        return serves_all or not frozenset(self.namespaces).isdisjoint(other.namespaces)

    def __str__(self) -> str:
        return ", ".join(self.namespaces) or "all namespaces"


class _Observed(NamedTuple):
    record: Installation
    since: float


class Installations:
    """This installation among all of the cluster; used by the leader alone."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        namespaces: tuple[str, ...],
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`namespace` is that of the ConfigMap, `name` tells this installation from the others."""
        self._client, self._namespace, self._name = client, namespace, name
        self._own, self._clock = Installation(namespaces=namespaces), clock
        self._path = collection("v1", "configmaps", namespace)
        self._observed: dict[str, _Observed] = {}
        """Other records that overlap, and since when they have been as they are."""
        self.confirmed = asyncio.Event()
        """Set when this installation may act."""

    async def run(self) -> None:
        """Renew the record until cancelled; raises SecondInstallationError."""
        while True:
            pause = HEARTBEAT_SECONDS
            try:
                await self.renew()
            except ApiError as error:
                if error.is_forbidden or error.is_missing:
                    log.warning("cannot see whether other installations serve the same: %s", error)
                    return self.confirmed.set()
                pause = CONFLICT_SECONDS if error.is_conflict else HEARTBEAT_SECONDS
                log.info("the record of this installation was not renewed: %s", error)
            await asyncio.sleep(pause)

    async def renew(self) -> None:
        """Renew the record once, unless another one that overlaps may be alive."""
        meta = {"name": CONFIG_MAP, "namespace": self._namespace}
        found, _ = await get_or_create(self._client, self._path, {"metadata": meta, "data": {}})
        records = _records(found)
        others = {name: other for name, other in records.items() if self._is_rival(name, other)}
        alive = {name for name, other in others.items() if not self._is_gone(name, other)}
        if alive and self.confirmed.is_set() and self._name not in records:
            raise self._second(min(alive), others[min(alive)])  # it took our place meanwhile
        if alive and not self.confirmed.is_set():
            log.warning("%s serves the same; waiting to see whether it is gone", min(alive))
            return
        self._own = msgspec.structs.replace(self._own, heartbeats=self._own.heartbeats + 1)
        gone = others.keys() - alive
        kept = {name: record for name, record in records.items() if name not in gone}
        data = {
            name: msgspec.json.encode(record).decode()
            for name, record in {**kept, self._name: self._own}.items()
        }
        version = found["metadata"]["resourceVersion"]
        body: Object = {"metadata": {**meta, "resourceVersion": version}, "data": data}
        await self._client.request("PUT", f"{self._path}/{CONFIG_MAP}", body=body)
        self.confirmed.set()

    def _is_rival(self, name: str, other: Installation) -> bool:
        return name != self._name and other.overlaps(self._own)

    def _is_gone(self, name: str, other: Installation) -> bool:
        """Whether the record has not changed for its duration; raises if it has changed at all."""
        observed = self._observed.setdefault(name, _Observed(other, self._clock()))
        if observed.record != other:
            raise self._second(name, other)
        return self._clock() - observed.since >= DURATION_SECONDS

    def _second(self, name: str, other: Installation) -> SecondInstallationError:
        return SecondInstallationError(
            f"the installation {name} serves {other}, this one ({self._name}) {self._own}: "
            "uninstall one of them, or let them serve different namespaces (watchNamespaces)"
        )


def _records(found: Mapping[str, object]) -> dict[str, Installation]:
    """The records that can be read; others are dropped with the next renewal."""
    data, records = found.get("data"), {}
    for name, text in data.items() if isinstance(data, dict) else ():
        try:
            records[name] = msgspec.json.decode(text, type=Installation)
        except msgspec.DecodeError:
            log.warning("the record of the installation %s cannot be read", name)
    return records
