"""The mirror: newer knowledge wins, whatever way and order it comes in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.jobs import KEY, UID, coordinator, failing, make_job, worker
from trainyard.api.cluster import Node
from trainyard.api.names import Key
from trainyard.api.pods import Pod
from trainyard.cluster.cache import ClusterCache, Names

NOTEBOOK = replace(
    worker(0, name="notebook", uid="notebook"), job=None, gpus=1, resource="nvidia.com/gpu"
)
OTHER = Key(KEY.kind, KEY.namespace, "other")


def version(pod: Pod, number: int, **fields: Any) -> Pod:
    return replace(pod, resource_version=number, **fields)


def place(pod: Pod) -> tuple[str, str]:
    return pod.namespace, pod.name


def listed(*pods: Pod, jobs: dict[Key, str] | None = None, nodes: tuple[str, ...] = ()) -> Names:
    return Names(jobs=jobs or {}, pods={place(p): p.uid for p in pods}, nodes=frozenset(nodes))


@pytest.mark.parametrize("older", [4, 5])
def test_an_older_pod_never_overwrites_a_newer_one(older: int) -> None:
    mirror = ClusterCache()
    assert mirror.put_pod(version(worker(), 5))
    assert not mirror.put_pod(version(worker(), older, phase="Pending"))
    assert mirror.pods_of(KEY) == (version(worker(), 5),)
    assert mirror.put_pod(version(worker(), 6))


def test_an_older_job_never_overwrites_a_newer_one() -> None:
    mirror, job = ClusterCache(), make_job(resourceVersion="5")
    assert mirror.put_job(job)
    assert not mirror.put_job(make_job({"suspend": True}, resourceVersion="5"))
    assert mirror.jobs[KEY] == job


def test_late_events_of_the_predecessor_do_not_take_a_namesakes_place() -> None:
    """kopf hands the events of two uids over in any order."""
    mirror = ClusterCache()
    old, new = make_job(resourceVersion="5"), make_job(uid="new", resourceVersion="9")
    assert mirror.put_job(old)
    assert mirror.put_job(new)
    assert not mirror.put_job(make_job(resourceVersion="6"))
    assert mirror.drop_job(KEY, UID) is None
    assert mirror.jobs[KEY] == new
    mirror.put_pod(version(worker(), 9, uid="new"))
    assert not mirror.put_pod(version(worker(), 8))
    assert [pod.uid for pod in mirror.pods_of(KEY)] == ["new"]


def test_a_namesake_takes_the_place_and_the_old_ones_deletion_leaves_it() -> None:
    mirror = ClusterCache()
    mirror.put_pod(worker())
    mirror.put_pod(version(worker(), 9, uid="new"))
    assert mirror.drop_pod(place(worker()), worker().uid) is None
    assert [p.uid for p in mirror.pods_of(KEY)] == ["new"]
    mirror.put_job(make_job())
    mirror.put_job(make_job(uid="new", resourceVersion="9"))
    assert mirror.drop_job(KEY, UID) is None
    assert mirror.jobs[KEY].uid == "new"


def test_the_answer_to_our_own_write_does_not_bring_a_deleted_job_back() -> None:
    mirror, job = ClusterCache(), make_job()
    mirror.put_job(job)
    mirror.drop_job(KEY, UID)
    assert not mirror.put_job(make_job(resourceVersion="8"), only_known=True)
    assert not mirror.put_job(make_job(resourceVersion="8"))
    assert KEY not in mirror.jobs


def test_a_change_of_the_spec_in_the_answer_to_our_own_write_is_left_to_its_event() -> None:
    """Taken from the answer it would be known, and its event would wake nobody."""
    mirror = ClusterCache()
    mirror.put_job(make_job())
    changed = make_job(resourceVersion="8", generation=2)
    assert not mirror.put_job(changed, only_known=True)
    assert mirror.put_job(changed)


def test_an_answer_that_was_under_way_does_not_bring_a_deleted_pod_back() -> None:
    mirror = ClusterCache()
    mirror.put_pod(worker())
    mirror.drop_pod(place(worker()), worker().uid)
    assert not mirror.put_pod(version(worker(), 2))
    assert mirror.pods_of(KEY) == ()


def test_a_pods_family_is_found_by_its_job() -> None:
    mirror = ClusterCache()
    for pod in (worker(0), worker(1, **failing()), coordinator()):
        mirror.put_pod(pod)
    assert set(mirror.pods_of(KEY)) == {worker(0), worker(1, **failing()), coordinator()}
    assert mirror.pods_of(OTHER) == ()


def test_a_pod_that_is_given_to_another_job_leaves_the_first() -> None:
    mirror = ClusterCache()
    mirror.put_pod(worker())
    mirror.put_pod(version(worker(), 2, job=OTHER))
    assert mirror.pods_of(KEY) == ()
    assert len(mirror.pods_of(OTHER)) == 1
    mirror.put_pod(version(worker(), 3, job=KEY))
    assert len(mirror.pods_of(KEY)) == 1


def test_a_strangers_pod_counts_while_it_holds_accelerators() -> None:
    mirror = ClusterCache()
    assert mirror.put_pod(NOTEBOOK)
    assert [p.name for p in mirror.cluster().pods] == ["notebook"]
    assert mirror.put_pod(version(NOTEBOOK, 2, phase="Succeeded"))
    assert mirror.cluster().pods == ()
    assert not mirror.put_pod(version(NOTEBOOK, 1, name="web", uid="web", gpus=0))


def test_our_finished_pods_hold_no_accelerators_but_are_remembered() -> None:
    mirror = ClusterCache()
    mirror.put_pod(worker(0, gpus=2, resource="nvidia.com/gpu", **failing()))
    assert mirror.cluster().pods == ()
    assert len(mirror.pods_of(KEY)) == 1


def test_a_node_that_says_nothing_new_is_no_news() -> None:
    mirror = ClusterCache()
    assert mirror.put_node(Node(name="n0", gpus={"nvidia.com/gpu": 8}, resource_version=1))
    assert not mirror.put_node(Node(name="n0", gpus={"nvidia.com/gpu": 8}, resource_version=2))
    assert mirror.put_node(Node(name="n0", gpus={"nvidia.com/gpu": 7}, resource_version=3))
    assert mirror.drop_node("n0")
    assert not mirror.drop_node("n0")


def test_a_listing_made_before_a_node_was_ready_does_not_undo_that() -> None:
    """It did, until the node's next event or listing: its GPUs were nobody's for minutes."""
    mirror = ClusterCache()
    ready = Node(name="n0", is_ready=True, resource_version=5)
    assert mirror.put_node(ready)
    assert not mirror.put_node(Node(name="n0", is_ready=False, resource_version=4))
    assert mirror.cluster().nodes == (ready,)
    assert mirror.drop_node("n0")
    assert mirror.put_node(Node(name="n0", is_ready=False, resource_version=6))


def test_ghosts_are_dropped_by_a_complete_listing() -> None:
    mirror = ClusterCache()
    for pod in (worker(0), worker(1), NOTEBOOK):
        mirror.put_pod(pod)
    mirror.put_job(make_job())
    mirror.put_node(Node(name="n0"))
    mirror.put_node(Node(name="n1"))
    before = mirror.names()
    left = listed(worker(1), jobs={KEY: "a namesake"}, nodes=("n1",))
    dirty = mirror.forget_missing(before, left)
    assert dirty == {KEY}
    assert mirror.pods_of(KEY) == (worker(1),)
    assert mirror.jobs == {}
    assert [n.name for n in mirror.cluster().nodes] == ["n1"]


def test_what_comes_while_a_listing_is_made_is_no_ghost() -> None:
    """It was: the pod was forgotten, and made again beside itself."""
    mirror = ClusterCache()
    before = mirror.names()
    mirror.put_pod(worker(0, 3))
    mirror.put_job(make_job())
    mirror.put_node(Node(name="n0"))
    assert mirror.forget_missing(before, listed()) == set()
    assert mirror.pods_of(KEY) == (worker(0, 3),)
    assert KEY in mirror.jobs
    assert len(mirror.cluster().nodes) == 1


def test_a_namesake_that_comes_while_a_listing_is_made_stays() -> None:
    mirror = ClusterCache()
    mirror.put_pod(worker())
    before = mirror.names()
    mirror.put_pod(version(worker(), 9, uid="new"))
    mirror.forget_missing(before, listed())
    assert [p.uid for p in mirror.pods_of(KEY)] == ["new"]
