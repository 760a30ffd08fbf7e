"""The master secret that every job's authority is derived from: a Secret of the operator's own.

It holds one random value for each *version*, by the UTC moment from which that version may sign.
All its versions are trusted.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from trainyard.api import names
from trainyard.cluster.client import KubeClient, collection
from trainyard.cluster.errors import ApiError
from trainyard.cluster.objects import get_or_create

SECRET_BYTES: Final = 32
VERSION_FORMAT: Final = "%Y%m%dT%H%M%SZ"

FINGERPRINT: Final = b"trainyard.dev/master-fingerprint/1"


class MasterError(ApiError):
    """The master secret cannot be used; nothing is overwritten, an administrator must mend it."""

    def __init__(self, path: str, problem: str) -> None:
        namespace = path.split("/")[4]
        message = f"Secret {namespace}/{names.master_secret_name()} {problem}"
        super().__init__(422, "Invalid", message)


def name_of(moment: datetime) -> str:
    """The name of a version that may sign from that moment."""
    return moment.astimezone(UTC).strftime(VERSION_FORMAT)


def parse_name(name: str) -> datetime:
    """The moment that a version is named after; raises ValueError if it is not so named."""
    moment = datetime.strptime(name, VERSION_FORMAT).replace(tzinfo=UTC)
    if moment.strftime(VERSION_FORMAT) != name:  # strptime takes fewer digits, too
        raise ValueError(name)
    return moment


def begins_at(identifier: str) -> datetime:
    """The moment from which the version of that identifier may sign."""
    return parse_name(identifier.partition("-")[0])


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class MasterVersion:
    """One version of the master secret; versions sort by age."""

    name: str
    """The UTC moment from which it may sign, for example `20261128T215000Z`."""
    secret: bytes

    @property
    def begins_at(self) -> datetime:
        """The moment that its name stands for."""
        return parse_name(self.name)

    @property
    def identifier(self) -> str:
        """Name and fingerprint: two versions may have one name if a lost master is replaced."""
        return f"{self.name}-{hashlib.sha256(FINGERPRINT + self.secret).hexdigest()[:8]}"

    def __repr__(self) -> str:
        return f"MasterVersion({self.identifier})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Master:
    """The master secret as it was read."""

    versions: tuple[MasterVersion, ...]
    """Oldest first; at least one."""
    resource_version: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_rotation_requested(self) -> bool:
        """Whether an administrator wants a new version."""
        return names.ANNOTATION_ROTATE in self.annotations

    @property
    def identifiers(self) -> tuple[str, ...]:
        """Which versions these are, oldest first."""
        return tuple(version.identifier for version in self.versions)

    @property
    def newest(self) -> MasterVersion:
        """The version that signs once all pods trust it."""
        return self.versions[-1]


def new_version(now: datetime, versions: Iterable[MasterVersion] = ()) -> MasterVersion:
    """A random version that may sign from now on, and sorts after all others."""
    moment = max((now, *(v.begins_at + timedelta(seconds=1) for v in versions)))
    return MasterVersion(name=name_of(moment), secret=secrets.token_bytes(SECRET_BYTES))


class MasterStore:
    """The master's Secret in the operator's namespace."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._collection = collection("v1", "secrets", namespace)
        self._path = f"{self._collection}/{names.master_secret_name()}"

    async def ensure(self, now: datetime) -> Master:
        """The master, created if there is none; raises MasterError if it cannot be used."""
        secret, _ = await get_or_create(self._client, self._collection, _manifest(now))
        return self._parse(secret)

    async def rotate(self, master: Master, now: datetime) -> Master:
        """Add a version, and take back the request for it; a conflict if the Secret has changed."""
        added = new_version(now, master.versions)
        return await self._replace(master, (*master.versions, added))

    async def retire(self, master: Master) -> Master:
        """Remove all versions but the newest; a conflict if the Secret has changed."""
        return await self._replace(master, (master.newest,))

    async def _replace(self, master: Master, versions: tuple[MasterVersion, ...]) -> Master:
        annotations = {**master.annotations}
        annotations.pop(names.ANNOTATION_ROTATE, None)
        fields = {"/data": _encode(versions), "/metadata/annotations": annotations}
        meta = await self._client.replace_fields(self._path, master.resource_version, fields)
        version = _resource_version(meta)
        return Master(versions=versions, resource_version=version, annotations=annotations)

    def _parse(self, secret: Mapping[str, Any]) -> Master:
        meta = secret["metadata"]
        labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
        if labels.get(names.LABEL_MANAGED_BY) != names.MANAGER:
            problem = f"is not Trainyard's: it lacks the label {names.LABEL_MANAGED_BY}="
            raise MasterError(self._path, f"{problem}{names.MANAGER}; rename or delete it")
        data = secret.get("data") or {}
        if not data:
            raise MasterError(self._path, "holds no version: delete it, and a new one is created")
        versions = sorted(self._parse_version(name, value) for name, value in data.items())
        return Master(
            versions=tuple(versions),
            resource_version=_resource_version(meta),
            annotations=annotations,
        )

    def _parse_version(self, name: str, value: str) -> MasterVersion:
        try:
            parse_name(name)
        except ValueError:
            problem = f"has the key {name!r}, which is no UTC moment such as 20261128T215000Z"
            raise MasterError(self._path, f"{problem}: remove that key") from None
        secret = base64.b64decode(value)
        if len(secret) != SECRET_BYTES:
            problem = f"holds {len(secret)} bytes under {name!r}, not {SECRET_BYTES}"
            raise MasterError(self._path, f"{problem}: restore that value, or remove the key")
        return MasterVersion(name=name, secret=secret)


def _manifest(now: datetime) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": names.master_secret_name(),
            "labels": {names.LABEL_MANAGED_BY: names.MANAGER},
        },
        "type": "Opaque",
        "data": _encode((new_version(now),)),
    }


def _encode(versions: Iterable[MasterVersion]) -> dict[str, str]:
    return {version.name: base64.b64encode(version.secret).decode() for version in versions}


def _resource_version(meta: Mapping[str, Any]) -> str:
    return str(meta.get("resourceVersion", ""))
