"""The job authorities in the operator's namespace: made once, read back after a restart."""

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

REMEMBERED = 512
"""Authorities kept in memory; any other is read again when needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A job's authority, and when the leaves it signed should be renewed."""

    pair: KeyPair
    renew_at: datetime
    parties: frozenset[str] = frozenset()
    """The parties that the job's leaf Secret has certificates for."""
    version: str = ""
    """The Secret's resource version when it was read or written."""


class Authorities:
    """One Secret per job in the operator's own namespace."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._path = collection("v1", "secrets", namespace)
        self._namespace = namespace
        self._known: OrderedDict[str, Authority] = OrderedDict()

    async def ensure(
        self, job: Job, now: datetime, parties: frozenset[str] = frozenset()
    ) -> Authority:
        """The job's authority, made if there is none yet; `parties` get leaves of a new one."""
        found = await self.find(job.uid) if job.status.term else self._recall(job.uid)
        return found or await self.keep(job, self.propose(job, now, parties))

    def is_known(self, uid: str) -> bool:
        """Whether the job's authority is at hand, so that `ensure` asks nobody."""
        return uid in self._known

    def propose(self, job: Job, now: datetime, parties: frozenset[str]) -> Authority:
        """An authority for a job that has none, to be used only if `keep` returns it.

        A job that has run has leaves of an authority that was lost: they are due until `renewed`,
        whoever comes to replace them.
        """
        renew_at = now if job.status.term else now + RENEW_AFTER
        return Authority(pair=make_authority(job.key, now), renew_at=renew_at, parties=parties)

    async def keep(self, job: Job, proposed: Authority) -> Authority:
        """Store the authority; the one that is stored already where there is one."""
        try:
            stored = await self._client.create(self._path, self._manifest(job, proposed))
        except ApiError as error:
            # A full quota refuses the creation of what is there already, too.
            is_there = error.is_conflict or error.is_forbidden
            if not is_there or (found := await self.find(job.uid)) is None:
                raise
            return found
        return self._remember(job.uid, replace(proposed, version=_version(stored)))

    async def find(self, uid: str) -> Authority | None:
        """The job's authority, or None when there is none."""
        if found := self._recall(uid):
            return found
        try:
            return self._remember(uid, await self._read(uid))
        except ApiError as error:
            if error.is_missing:
                return None
            raise

    async def renewed(
        self, job: Job, now: datetime, parties: frozenset[str] = frozenset()
    ) -> Authority:
        """Note that new leaves have been issued, and for which parties."""
        authority = await self.ensure(job, now)
        fresh = Authority(pair=authority.pair, renew_at=now + RENEW_AFTER, parties=parties)
        manifest = self._manifest(job, fresh)
        if authority.version:  # one that somebody has replaced meanwhile is not put back
            manifest["metadata"]["resourceVersion"] = authority.version
        self._known.pop(job.uid, None)
        path = f"{self._path}/{names.ca_secret_name(job.uid)}"
        fresh = replace(fresh, version=_version(await self._client.apply(path, manifest)))
        return self._remember(job.uid, fresh)

    async def delete(self, uid: str) -> None:
        """Delete the authority of a job that is gone."""
        self._known.pop(uid, None)
        await self._client.delete(f"{self._path}/{names.ca_secret_name(uid)}")

    async def list_owners(self) -> AsyncIterator[tuple[str, Key]]:
        """The uid and key of every job that has an authority."""
        selector = f"{names.LABEL_MANAGED_BY}={names.MANAGER},{names.LABEL_NAMESPACE}"
        async for secret in self._client.list_all(self._path, label_selector=selector):
            labels = secret["metadata"]["labels"]
            uid = secret["metadata"].get("annotations", {}).get(names.ANNOTATION_JOB_UID, "")
            key = Key(
                labels[names.LABEL_KIND], labels[names.LABEL_NAMESPACE], labels[names.LABEL_JOB]
            )
            yield uid, key

    async def operator_context(self, key: Key, uid: str, now: datetime) -> ssl.SSLContext | None:
        """A TLS context by which the operator speaks to the job's coordinator."""
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

    def _recall(self, uid: str) -> Authority | None:
        if uid in self._known:
            self._known.move_to_end(uid)
        return self._known.get(uid)

    def _remember(self, uid: str, authority: Authority) -> Authority:
        self._known[uid] = authority
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
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
