"""The store: of each object the newest version, whatever order versions arrive in."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from trainyard.cluster import store as store_module
from trainyard.cluster.store import ObjectKey, Store


@dataclass(frozen=True, kw_only=True)
class Thing:
    uid: str = "a"
    resource_version: int = 1
    name: str = "thing"
    namespace: str = "default"
    is_relevant: bool = True


class Things(Store[ObjectKey, Thing]):
    def __init__(self) -> None:
        super().__init__(lambda thing: ObjectKey(thing.namespace, thing.name))
        self.changes: list[tuple[Thing | None, Thing | None]] = []

    def is_relevant(self, thing: Thing) -> bool:
        return thing.is_relevant

    def index(self, old: Thing | None, new: Thing | None) -> None:
        self.changes.append((old, new))


KEY = ObjectKey("default", "thing")


def test_each_change_updates_the_index_once() -> None:
    things = Things()
    first, second = Thing(), Thing(resource_version=2)
    things.put(first)
    things.put(first)
    things.put(second)
    things.remove(KEY, "a")
    things.remove(KEY, "a")
    assert things.changes == [(None, first), (first, second), (second, None)]


def test_an_object_that_becomes_irrelevant_is_removed_and_its_older_versions_stay_out() -> None:
    """A listing begun before could otherwise bring back a pod that has released its GPUs."""
    things = Things()
    things.put(Thing())
    before = things.snapshot()
    assert things.put(Thing(resource_version=3, is_relevant=False))
    assert not things
    assert not things.put(Thing(resource_version=2), before=before)
    assert not things.put(Thing(resource_version=2))
    assert things.put(Thing(resource_version=4))


def test_an_object_that_never_was_relevant_is_no_change() -> None:
    things = Things()
    assert not things.put(Thing(is_relevant=False))
    assert things.changes == []


def test_the_predecessor_of_a_namesake_never_comes_back() -> None:
    things = Things()
    things.put(Thing())
    before = things.snapshot()
    things.put(Thing(uid="b", resource_version=5))
    things.remove(KEY, "b")
    assert not things.put(Thing(resource_version=3), before=before)
    assert not things.put(Thing(resource_version=3))


def test_a_deletion_without_a_known_object_is_remembered() -> None:
    things = Things()
    assert things.remove(KEY, "a") is None
    assert not things.put(Thing(resource_version=9))


def test_tombstones_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_TOMBSTONES", 2)
    things = Things()
    for uid in "abc":
        things.remove(KEY, uid)
    assert not things.put(Thing(uid="c"))
    assert things.put(Thing(uid="a"))


def test_what_a_complete_listing_did_not_contain_is_not_added_by_an_older_version() -> None:
    """The response to a creation may arrive after a listing that already lacks the object."""
    things = Things()
    things.complete_listing("default", 5)
    assert not things.put(Thing(resource_version=5))
    assert things.put(Thing(resource_version=6))
    assert things.put(Thing(namespace="other", resource_version=5))
    things.complete_listing("", 7)
    assert not things.put(Thing(namespace="another", resource_version=7))


def test_a_listing_adds_what_the_store_lacks_for_whatever_reason() -> None:
    things = Things()
    things.complete_listing("", 5)
    assert things.put(Thing(resource_version=3), before=things.snapshot())


def test_a_listing_of_one_namespace_removes_nothing_from_another() -> None:
    things = Things()
    mine, other = Thing(), Thing(uid="b", namespace="other")
    things.put(mine)
    things.put(other)
    assert things.remove_missing(things.uids("default"), {}) == [mine]
    assert list(things.values()) == [other]


def test_after_a_restore_of_the_server_what_a_listing_lacks_is_gone() -> None:
    """Its versions are higher than the server's: only what came meanwhile may be missing."""
    things = Things()
    old, new = Thing(resource_version=9), Thing(uid="b", name="new", resource_version=8)
    things.put(old)
    before = things.snapshot()
    things.put(new)
    assert things.remove_unlisted("", before, {}, version=5) == [old]
    assert list(things.values()) == [new]


def test_what_a_response_brought_during_a_listing_that_lacks_it_is_gone() -> None:
    things = Things()
    before = things.snapshot()
    things.put(Thing(resource_version=4))
    assert things.remove_unlisted("", before, {}, version=5) == [Thing(resource_version=4)]


def test_one_namespaces_listing_says_nothing_of_another() -> None:
    things = Things()
    things.put(Thing())
    assert things.remove_unlisted("other", things.snapshot(), {}, version=5) == []


def test_after_a_restore_of_the_server_a_listing_replaces_what_was_known_before_it() -> None:
    """Versions go back: the operator was blind to every change until they had caught up."""
    things = Things()
    things.put(Thing(resource_version=9000))
    things.complete_listing("", 9000)
    restored = Thing(resource_version=8000)
    assert things.put(restored, before=things.snapshot())
    things.complete_listing("", 8400)
    assert list(things.values()) == [restored]
    assert things.put(Thing(resource_version=8500)), "its next event counts"


@pytest.mark.parametrize("version", [8000, 9500])
def test_after_a_restore_of_the_server_what_was_deleted_since_is_back(version: int) -> None:
    things = Things()
    things.put(Thing(resource_version=9000))
    things.remove(KEY, "a")
    things.complete_listing("", 9001)
    restored = Thing(resource_version=version)
    assert things.put(restored, before=things.snapshot())
    things.complete_listing("", version)
    assert list(things.values()) == [restored]
    assert things.put(Thing(resource_version=version + 1))
    things.remove(KEY, "a")
    assert not things.put(Thing(resource_version=version + 2)), "and may be deleted again"


def test_after_a_restore_of_the_server_what_is_irrelevant_again_is_removed() -> None:
    things = Things()
    things.put(Thing(resource_version=9000))
    assert things.put(Thing(resource_version=8000, is_relevant=False), before=things.snapshot())
    assert not things
    assert things.put(Thing(resource_version=8001)), "only its older versions stay out"


def test_a_listing_does_not_bring_back_what_was_deleted_while_it_was_made() -> None:
    things = Things()
    things.put(Thing())
    before = things.snapshot()
    things.remove(KEY, "a")
    assert not things.put(Thing(), before=before)
    assert not things


def test_a_listing_that_knows_nothing_new_is_no_change() -> None:
    things = Things()
    things.put(Thing())
    assert not things.put(Thing(), before=things.snapshot())
