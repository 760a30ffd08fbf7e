"""Authorities that an earlier release stored, one Secret for each job.

A job that began under a stored authority finishes under it. This module and its uses can go as soon
as an upgrade no longer has to start from a release that stored them (0.1).
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final

from trainyard.api import names
from trainyard.api.names import Key
from trainyard.cluster.certificates import Authority, KeyPair, parse_authority
from trainyard.cluster.client import KubeClient, collection

log = logging.getLogger(__name__)

STORED: Final = "stored"
"""Takes the place of a version's name in what is recorded on leaf Secrets."""
_NAMESPACE = f"{names.GROUP}/namespace"
_UID = f"{names.GROUP}/job-uid"
_SELECTOR = f"{names.LABEL_MANAGED_BY}={names.MANAGER},{_NAMESPACE}"


class StoredAuthorities:
    """The Secrets `trainyard-ca-UID` in the operator's namespace, kept in memory."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._path = collection("v1", "secrets", namespace)
        self._by_uid: dict[str, tuple[Key, Authority]] = {}
        self._are_listed = False

    async def refresh(self) -> None:
        """List them; none are created any more, so that an empty listing is the last one."""
        if self._are_listed and not self._by_uid:
            return
        listed = self._client.list_all(self._path, label_selector=_SELECTOR)
        self._by_uid = {uid: stored async for secret in listed for uid, stored in _parse(secret)}
        self._are_listed = True

    def find(self, uid: str) -> Authority | None:
        """The job's stored authority, or None if it has none."""
        return self._by_uid[uid][1] if uid in self._by_uid else None

    def owners(self) -> Iterator[tuple[str, Key]]:
        """Uid and key of every job that has one."""
        return iter([(uid, key) for uid, (key, _) in self._by_uid.items()])

    async def delete(self, uid: str) -> None:
        """Delete the authority of a removed job, if it has one."""
        if uid in self._by_uid:
            await self._client.delete(f"{self._path}/trainyard-ca-{uid}")
            del self._by_uid[uid]


def _parse(secret: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Key, Authority]]]:
    """Uid, key and authority of one job; nothing where the Secret was damaged."""
    meta = secret["metadata"]
    try:
        labels, data = meta["labels"], secret["data"]
        key = Key(labels[names.LABEL_KIND], labels[_NAMESPACE], labels[names.LABEL_JOB])
        certificate, private = (base64.b64decode(data[name]) for name in ("ca.crt", "ca.key"))
        authority = parse_authority(KeyPair(certificate=certificate, key=private))
        yield meta["annotations"][_UID], (key, authority)
    except (KeyError, TypeError, ValueError) as error:
        log.error("Secret %s is no authority and is ignored: %r", meta["name"], error)
