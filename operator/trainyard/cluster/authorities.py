"""The jobs' certificate authorities, derived from the master secret whenever they are needed."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from trainyard.api.names import Key
from trainyard.cluster.certificates import Authority, client_context, issue
from trainyard.cluster.client import KubeClient
from trainyard.cluster.derivation import derive_authority
from trainyard.cluster.master import Master, MasterStore
from trainyard.cluster.stored_authorities import STORED, StoredAuthorities
from trainyard_trainer.contract.env import Role

CONTEXT_LIFE = timedelta(days=1)
"""How long a TLS context is reused; its leaf is valid for much longer."""


@dataclass(frozen=True, slots=True)
class JobAuthorities:
    """One job's authorities by version, oldest first; all of them are trusted."""

    by_version: Mapping[str, Authority]

    @property
    def bundle(self) -> bytes:
        """The certificates of all of them, PEM-encoded."""
        return b"".join(authority.pem for authority in self.by_version.values())

    @property
    def oldest(self) -> Authority:
        """The one that every process of the job trusts, however old its copy of the bundle."""
        return next(iter(self.by_version.values()))


class Authorities:
    """The authorities of all jobs, of the master secret in the operator's namespace."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self.store = MasterStore(client, namespace)
        self.stored = StoredAuthorities(client, namespace)
        self._master: Master | None = None
        self._trusted: tuple[str, ...] = ()
        self._derived: dict[str, JobAuthorities] = {}
        self._contexts: dict[str, tuple[datetime, JobAuthorities, ssl.SSLContext]] = {}
        """When each was made, and of which authorities."""

    async def master(self, now: datetime) -> Master:
        """The master as it was last read; read now, or created, if it never was."""
        return self._master or await self.refresh(now)

    async def refresh(self, now: datetime) -> Master:
        """Read the master, or create it if there is none; raises MasterError."""
        return self.keep(await self.store.ensure(now))

    def keep(self, master: Master) -> Master:
        """Use this master from now on."""
        if self._master is None or self._master.versions != master.versions:
            self._derived.clear()
        self._master, self._trusted = master, master.identifiers
        return master

    async def trusted(self, uid: str, now: datetime) -> tuple[str, ...]:
        """The identifiers of the versions that the job's processes trust, oldest first."""
        if self.stored.find(uid):
            return (STORED,)
        await self.master(now)
        return self._trusted

    async def of_job(self, key: Key, uid: str, now: datetime) -> JobAuthorities:
        """The job's authorities; derived, which takes no request once the master is read."""
        if stored := self.stored.find(uid):
            return JobAuthorities({STORED: stored})
        master = await self.master(now)
        found = self._derived.get(uid)
        if found is None:
            versions = {v.identifier: derive_authority(v, key, uid) for v in master.versions}
            found = self._derived[uid] = JobAuthorities(versions)
        return found

    def forget(self, uid: str) -> None:
        """Drop what is kept of a removed job."""
        self._derived.pop(uid, None)
        self._contexts.pop(uid, None)

    async def operator_context(self, key: Key, uid: str, now: datetime) -> ssl.SSLContext:
        """A TLS context for connections to the job's coordinator, kept for a day."""
        authorities = await self.of_job(key, uid, now)
        if uid in self._contexts:
            made_at, of, context = self._contexts[uid]
            if of == authorities and now < made_at + CONTEXT_LIFE:
                return context
        leaf = issue(authorities.oldest, key, Role.OPERATOR, now)
        context = client_context(authorities.bundle, leaf)
        self._contexts[uid] = now, authorities, context
        return context
