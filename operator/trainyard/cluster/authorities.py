"""The jobs' certificate authorities: Secrets in the operator's namespace."""

from __future__ import annotations

import base64
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from trainyard.api import names
from trainyard.api.jobs import Job, parse_time
from trainyard.api.names import Key
from trainyard.cluster.certificates import (
    RENEW_AFTER,
    KeyPair,
    client_context,
    issue,
    make_authority,
)
from trainyard.cluster.client import ApiError, KubeClient, collection
from trainyard.render.secrets import authority_secret
from trainyard_trainer.contract.env import Role

MAX_CACHED = 512
"""Authorities kept in memory; any other is read again when it is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A job's authority, and when the leaves that it signed are due for renewal."""

    pair: KeyPair
    renew_at: datetime
    parties: frozenset[str] = frozenset()
    """The parties whose certificates are in the job's leaf Secret."""
    version: str = ""
    """The Secret's resource version when it was read or written."""


class Authorities:
    """One Secret per job in the operator's own namespace."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._path = collection("v1", "secrets", namespace)
        self._namespace = namespace
        self._cached: OrderedDict[str, Authority] = OrderedDict()

    async def ensure(
        self, job: Job, now: datetime, parties: frozenset[str] = frozenset()
    ) -> Authority:
        """The job's authority, created if there is none; a new one covers `parties`."""
        found = await self.find(job.uid) if job.status.term else self._cached_authority(job.uid)
        return found or await self.keep(job, self.propose(job, now, parties))

    def is_cached(self, uid: str) -> bool:
        """Whether the job's authority is in memory, so that `ensure` sends no request."""
        return uid in self._cached

    def propose(self, job: Job, now: datetime, parties: frozenset[str]) -> Authority:
        """Create an authority for a job that has none, to be used only if `keep` returns it.

        The leaves of a job that has run were signed by an authority that was lost: they stay due
        until `renewed`, even if another operator takes over.
        """
        renew_at = now if job.status.term else now + RENEW_AFTER
        return Authority(pair=make_authority(job.key, now), renew_at=renew_at, parties=parties)

    async def keep(self, job: Job, proposed: Authority) -> Authority:
        """Store the authority; returns the stored one if there is one already."""
        try:
            stored = await self._client.create(self._path, self._manifest(job, proposed))
        except ApiError as error:
            # An exhausted quota refuses the creation of an existing object, too.
            may_exist = error.is_conflict or error.is_forbidden
            if not may_exist or (found := await self.find(job.uid)) is None:
                raise
            return found
        return self._cache(job.uid, replace(proposed, version=_version(stored)))

    async def find(self, uid: str) -> Authority | None:
        """The job's authority, or None if there is none."""
        if found := self._cached_authority(uid):
            return found
        try:
            return self._cache(uid, await self._read(uid))
        except ApiError as error:
            if error.is_missing:
                return None
            raise

    async def renewed(
        self, job: Job, now: datetime, parties: frozenset[str] = frozenset()
    ) -> Authority:
        """Record that new leaves have been issued, and for which parties."""
        authority = await self.ensure(job, now)
        fresh = Authority(pair=authority.pair, renew_at=now + RENEW_AFTER, parties=parties)
        manifest = self._manifest(job, fresh)
        if authority.version:  # must not overwrite one that was replaced meanwhile
            manifest["metadata"]["resourceVersion"] = authority.version
        self._cached.pop(job.uid, None)
        path = f"{self._path}/{names.ca_secret_name(job.uid)}"
        fresh = replace(fresh, version=_version(await self._client.apply(path, manifest)))
        return self._cache(job.uid, fresh)

    async def delete(self, uid: str) -> None:
        """Delete the authority of a removed job."""
        self._cached.pop(uid, None)
        await self._client.delete(f"{self._path}/{names.ca_secret_name(uid)}")

    async def list_owners(self) -> AsyncIterator[tuple[str, Key]]:
        """Yield uid and key of every job that has an authority."""
        selector = f"{names.LABEL_MANAGED_BY}={names.MANAGER},{names.LABEL_NAMESPACE}"
        async for secret in self._client.list_all(self._path, label_selector=selector):
            labels = secret["metadata"]["labels"]
            uid = secret["metadata"].get("annotations", {}).get(names.ANNOTATION_JOB_UID, "")
            key = Key(
                labels[names.LABEL_KIND], labels[names.LABEL_NAMESPACE], labels[names.LABEL_JOB]
            )
            yield uid, key

    async def operator_context(self, key: Key, uid: str, now: datetime) -> ssl.SSLContext | None:
        """A TLS context for connections to the job's coordinator; None without an authority."""
        authority = await self.find(uid)
        if authority is None:
            return None
        leaf = issue(authority.pair, key, Role.OPERATOR, now)
        return client_context(authority.pair.certificate, leaf)

    async def _read(self, uid: str) -> Authority:
        secret = await self._client.get(f"{self._path}/{names.ca_secret_name(uid)}")
        return _parse(secret)

    def _manifest(self, job: Job, authority: Authority) -> dict[str, Any]:
        pair = authority.pair
        return authority_secret(
            job,
            self._namespace,
            pair.certificate,
            pair.key,
            authority.renew_at,
            authority.parties,
        )

    def _cached_authority(self, uid: str) -> Authority | None:
        if uid in self._cached:
            self._cached.move_to_end(uid)
        return self._cached.get(uid)

    def _cache(self, uid: str, authority: Authority) -> Authority:
        self._cached[uid] = authority
        if len(self._cached) > MAX_CACHED:
            self._cached.popitem(last=False)
        return authority


def _parse(secret: Mapping[str, Any]) -> Authority:
    data = secret["data"]
    pair = KeyPair(
        certificate=base64.b64decode(data["ca.crt"]), key=base64.b64decode(data["ca.key"])
    )
    annotations = secret["metadata"]["annotations"]
    parties = annotations.get(names.ANNOTATION_PARTIES, "")
    return Authority(
        pair=pair,
        renew_at=parse_time(annotations[names.ANNOTATION_RENEW_AT]),
        parties=frozenset(parties.split(",")) if parties else frozenset(),
        version=_version(secret),
    )


def _version(secret: Mapping[str, Any]) -> str:
    return str(secret["metadata"].get("resourceVersion", ""))
