"""The known objects of one kind: of each the newest version, in whatever order versions arrive.

Versions arrive as events, in listings and in responses to our own requests. Each may be older than
what is known by then: an event waits in its socket, a listing takes seconds, a response may be
overtaken by the deletion of its object. Only one thing is certain of a listing: it is not older
than anything that was known when it was requested, whatever the versions say. They go back when an
administrator restores an older state of the server.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

MAX_TOMBSTONES = 8192
"""Deleted objects to remember; only those of the last seconds matter."""


class ObjectKey(NamedTuple):
    """The name of an object; the namespace of a cluster-scoped one is empty."""

    namespace: str
    name: str


class Namespaced(Hashable, Protocol):
    """A key of an object."""

    @property
    def namespace(self) -> str:
        """Empty for a cluster-scoped object."""
        ...


class Versioned(Protocol):
    """An object as it was at one resource version."""

    @property
    def uid(self) -> str:
        """Unique among all objects there ever were, unlike the name."""
        ...

    @property
    def resource_version(self) -> int:
        """Grows with every change of any object of the kind."""
        ...


K = TypeVar("K", bound=Namespaced)
T = TypeVar("T", bound=Versioned)


class Tombstone(NamedTuple):
    """Up to which version an object is outdated, and when that became known."""

    version: float
    """Infinite for a deleted object."""
    sequence: int


class Snapshot(NamedTuple, Generic[K, T]):
    """What a store knew when a listing was requested."""

    objects: Mapping[K, T]
    sequence: int
    """The number of tombstones that there had ever been."""


class Store(Mapping[K, T], Generic[K, T]):
    """Objects by key. Reads never leave the process; newer versions replace older ones."""

    def __init__(self, key: Callable[[T], K]) -> None:
        """`key` returns an object's key."""
        self._key = key
        self._objects: dict[K, T] = {}
        self._tombstones: OrderedDict[str, Tombstone] = OrderedDict()
        """By uid."""
        self._sequence = 0
        self._listed_versions: dict[str, int] = {}
        """By namespace (empty: all), the version of its last complete listing."""

    def __getitem__(self, key: K) -> T:
        return self._objects[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)

    def snapshot(self) -> Snapshot[K, T]:
        """What is known now; to be taken before a listing is requested."""
        return Snapshot(dict(self._objects), self._sequence)

    def put(self, new: T, *, before: Snapshot[K, T] | None = None) -> bool:
        """Add or replace an object; False if it is outdated, or nothing but its version changed.

        `before` is what was known when the listing was requested that contains the object; None: an
        event or a response brought it.
        """
        key = self._key(new)
        old = self._objects.get(key)
        if before is None and self._is_outdated(key, old, new):
            return False
        if before is not None and self._is_overtaken(key, old, new, before):
            return False
        tombstone = self._tombstones.pop(new.uid, None)
        if old is not None and old.uid != new.uid:
            # A name is free again only after its object is gone.
            self._mark_outdated(old.uid, math.inf)
        if not self.is_relevant(new):
            if old is not None or tombstone is not None:
                self._mark_outdated(new.uid, new.resource_version)
            if old is not None:
                self._replace(key, old, None)
            return old is not None
        self._replace(key, old, new)
        return old != new

    def is_deleted(self, uid: str) -> bool:
        """Whether the object was there and has been deleted; of those of long ago nobody knows."""
        tombstone = self._tombstones.get(uid)
        return tombstone is not None and tombstone.version == math.inf

    def remove(self, key: K, uid: str = "", version: float = math.inf) -> T | None:
        """Remove a deleted object, unless another of the same name has replaced it.

        Versions of that `uid` up to `version` are never added again, even of one not known yet.
        """
        self._mark_outdated(uid, version)
        old = self._objects.get(key)
        if old is None or (uid and old.uid != uid):
            return None
        self._replace(key, old, None)
        return old

    def uids(self, namespace: str = "") -> dict[K, str]:
        """The uid of every object, or of every object in a namespace."""
        return {
            key: known.uid
            for key, known in self._objects.items()
            if namespace in ("", key.namespace)
        }

    def remove_missing(self, before: Mapping[K, str], listed: Mapping[K, str]) -> list[T]:
        """Remove what was known `before` a complete listing and is not in it; the removed objects.

        What became known while the listing was made may be missing for that reason, and stays.
        """
        missing = before.items() - listed.items()
        removed = (self.remove(key, uid) for key, uid in missing)
        return [known for known in removed if known is not None]

    def remove_unlisted(
        self, namespace: str, before: Snapshot[K, T], listed: Mapping[K, str], version: int
    ) -> list[T]:
        """Remove what a complete listing of that version lacks; the removed objects.

        `before` is what was known when it was requested, `listed` the listed uids by key. What is
        not newer than the listing is gone, even if a response brought it meanwhile. So is what has
        stayed as it was: its version is higher only if an older state of the server was restored.
        """
        outdated = [
            (key, known.uid)
            for key, known in self._objects.items()
            if namespace in ("", key.namespace)
            and listed.get(key) != known.uid
            and (known.resource_version <= version or before.objects.get(key) is known)
        ]
        removed = (self.remove(key, uid, version) for key, uid in outdated)
        return [known for known in removed if known is not None]

    def complete_listing(self, namespace: str, version: int) -> None:
        """Record that all relevant objects of that version, in a namespace or in all, were added.

        An unknown object that is not newer is then known to be deleted or irrelevant.
        """
        self._listed_versions[namespace] = version

    def is_relevant(self, _: T) -> bool:
        """Whether the object is worth keeping; overridden by stores that keep a part."""
        return True

    def index(self, old: T | None, new: T | None) -> None:
        """Update what is derived from the objects; overridden by stores that look up otherwise."""

    def _is_outdated(self, key: K, old: T | None, new: T) -> bool:
        """Whether an event or a response is older than what is known."""
        version = new.resource_version
        tombstone = self._tombstones.get(new.uid)
        if tombstone is not None and version <= tombstone.version:
            return True
        known = self._listed_version(key) if old is None else old.resource_version
        return version <= known

    def _is_overtaken(self, key: K, old: T | None, new: T, before: Snapshot[K, T]) -> bool:
        """Whether something newer became known while the listing was made, or nothing is new."""
        version = new.resource_version
        tombstone = self._tombstones.get(new.uid)
        is_recent = tombstone is not None and tombstone.sequence > before.sequence
        if tombstone is not None and is_recent and version <= tombstone.version:
            return True
        if old is None:
            return False
        if before.objects.get(key) is old:
            return (new.uid, version) == (old.uid, old.resource_version)
        return version <= old.resource_version

    def _listed_version(self, key: K) -> int:
        listed = self._listed_versions
        return listed.get(key.namespace, listed.get("", -1))

    def _replace(self, key: K, old: T | None, new: T | None) -> None:
        if new is None:
            del self._objects[key]
        else:
            self._objects[key] = new
        self.index(old, new)

    def _mark_outdated(self, uid: str, version: float) -> None:
        if uid:
            self._sequence += 1
            known = self._tombstones.get(uid)
            version = max(version, known.version) if known is not None else version
            self._tombstones[uid] = Tombstone(version, self._sequence)
            if len(self._tombstones) > MAX_TOMBSTONES:
                self._tombstones.popitem(last=False)
