"""The cache: what is kept of jobs, pods and nodes, and how it is looked up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.jobs import KEY, UID, coordinator, failing, make_job, worker
from trainyard.api.cluster import Node
from trainyard.api.names import LABEL_SIMULATED_GPUS, Key
from trainyard.api.pods import Pod
from trainyard.cluster.cache import MAX_SELECTORS, ClusterCache, pod_key
from trainyard.cluster.store import ObjectKey

ONE_GPU = {"nvidia.com/gpu": 1, "pods": 1}
NOTEBOOK = replace(worker(0, name="notebook", uid="notebook"), job=None, requests=ONE_GPU)
OTHER = Key(KEY.kind, KEY.namespace, "other")
N0 = ObjectKey("", "n0")


def version(pod: Pod, number: int, **fields: Any) -> Pod:
    return replace(pod, resource_version=number, **fields)


@pytest.mark.parametrize("older", [4, 5])
def test_an_older_pod_never_overwrites_a_newer_one(older: int) -> None:
    cache = ClusterCache()
    assert cache.put_pod(version(worker(), 5))
    assert not cache.put_pod(version(worker(), older, phase="Pending"))
    assert cache.pods_of(KEY) == (version(worker(), 5),)
    assert cache.put_pod(version(worker(), 6))


def test_an_older_job_never_overwrites_a_newer_one() -> None:
    cache, job = ClusterCache(), make_job(resourceVersion="5")
    assert cache.put_job(job)
    assert not cache.put_job(make_job({"suspend": True}, resourceVersion="5"))
    assert cache.jobs[KEY] == job


def test_late_events_of_a_deleted_object_do_not_replace_its_namesake() -> None:
    """kopf delivers the events of two uids in any order."""
    cache = ClusterCache()
    old, new = make_job(resourceVersion="5"), make_job(uid="new", resourceVersion="9")
    assert cache.put_job(old)
    assert cache.put_job(new)
    assert not cache.put_job(make_job(resourceVersion="6"))
    assert cache.drop_job(KEY, UID) is None
    assert cache.jobs[KEY] == new
    cache.put_pod(version(worker(), 9, uid="new"))
    assert not cache.put_pod(version(worker(), 8))
    assert [pod.uid for pod in cache.pods_of(KEY)] == ["new"]


def test_a_namesake_replaces_an_object_and_the_late_deletion_leaves_it() -> None:
    cache = ClusterCache()
    cache.put_pod(worker())
    cache.put_pod(version(worker(), 9, uid="new"))
    assert cache.pods.remove(pod_key(worker()), worker().uid) is None
    assert [p.uid for p in cache.pods_of(KEY)] == ["new"]
    cache.put_job(make_job())
    cache.put_job(make_job(uid="new", resourceVersion="9"))
    assert cache.drop_job(KEY, UID) is None
    assert cache.jobs[KEY].uid == "new"


def test_the_response_to_our_own_write_does_not_bring_a_deleted_job_back() -> None:
    cache, job = ClusterCache(), make_job()
    cache.put_job(job)
    cache.drop_job(KEY, UID)
    assert not cache.put_job(make_job(resourceVersion="8"), only_known=True)
    assert not cache.put_job(make_job(resourceVersion="8"))
    assert KEY not in cache.jobs


def test_a_change_of_the_spec_in_the_response_to_our_own_write_is_left_to_its_event() -> None:
    """Taken from the response it would be known, and its event would trigger nothing."""
    cache = ClusterCache()
    cache.put_job(make_job())
    changed = make_job(resourceVersion="8", generation=2)
    assert not cache.put_job(changed, only_known=True)
    assert cache.put_job(changed)


def test_a_late_response_does_not_bring_a_deleted_pod_back() -> None:
    cache = ClusterCache()
    cache.put_pod(worker())
    cache.pods.remove(pod_key(worker()), worker().uid)
    assert not cache.put_pod(version(worker(), 2))
    assert cache.pods_of(KEY) == ()


def test_pods_are_found_by_their_job() -> None:
    cache = ClusterCache()
    for pod in (worker(0), worker(1, **failing()), coordinator()):
        cache.put_pod(pod)
    assert set(cache.pods_of(KEY)) == {worker(0), worker(1, **failing()), coordinator()}
    assert cache.pods_of(OTHER) == ()


def test_a_pod_that_is_relabelled_leaves_its_first_job() -> None:
    cache = ClusterCache()
    cache.put_pod(worker())
    cache.put_pod(version(worker(), 2, job=OTHER))
    assert cache.pods_of(KEY) == ()
    assert len(cache.pods_of(OTHER)) == 1
    cache.put_pod(version(worker(), 3, job=KEY))
    assert len(cache.pods_of(KEY)) == 1


def test_a_foreign_pod_counts_while_it_holds_resources() -> None:
    cache = ClusterCache()
    assert cache.put_pod(NOTEBOOK)
    assert [p.name for p in cache.cluster().pods] == ["notebook"]
    assert cache.put_pod(version(NOTEBOOK, 2, phase="Succeeded"))
    assert cache.cluster().pods == ()
    assert not cache.put_pod(version(NOTEBOOK, 1, name="web", uid="web", phase="Failed"))


def test_our_finished_pods_hold_no_resources_but_are_kept() -> None:
    cache = ClusterCache()
    cache.put_pod(worker(0, requests={"nvidia.com/gpu": 2}, **failing()))
    assert cache.cluster().pods == ()
    assert len(cache.pods_of(KEY)) == 1


def test_our_pods_hold_their_resources_until_their_sidecars_have_ended_too() -> None:
    cache = ClusterCache()
    lingering = {**failing(), "phase": "Running", "outcome": "Failed", "lingers": True}
    cache.put_pod(worker(0, requests={"nvidia.com/gpu": 2}, **lingering))
    assert [(p.requests, p.is_deleting) for p in cache.cluster().pods] == [
        ({"nvidia.com/gpu": 2}, True)
    ]


def test_a_pod_belongs_to_a_job_that_exists_and_that_its_owner_reference_names() -> None:
    """Its labels were enough, which anyone can set: its GPUs counted as the job's."""
    cache = ClusterCache()
    cache.put_job(make_job())
    cache.put_pod(worker(0))
    cache.put_pod(worker(1, owner_uid="of an earlier job"))
    cache.put_pod(worker(2, owner_uid=""))
    cache.put_pod(worker(3, job=OTHER))
    assert [pod.job for pod in cache.cluster().pods] == [KEY, None, None, None]


def test_the_pods_of_a_deleted_job_are_in_nobodys_way() -> None:
    """They passed for pods of no job until the garbage collector deleted them, and jobs behind the
    first in the queue started in its place."""
    cache = ClusterCache()
    job = make_job()
    cache.put_job(job)
    cache.put_pod(worker(0))
    cache.put_pod(worker(1, owner_uid="of nobody"))
    cache.drop_job(KEY, job.uid)
    released, forged = cache.cluster().pods
    assert (released.job, released.is_deleting) == (None, True)
    assert (forged.job, forged.is_deleting) == (None, False)


def test_foreign_pods_without_accelerators_count_too() -> None:
    """A DaemonSet's pods take CPU of every node."""
    cache = ClusterCache()
    cache.put_pod(replace(NOTEBOOK, requests={"cpu": 100, "pods": 1}))
    assert [pod.requests for pod in cache.cluster().pods] == [{"cpu": 100, "pods": 1}]


def test_the_nodes_are_one_object_until_one_of_them_changes() -> None:
    """What is known of them is remembered for so long."""
    cache = ClusterCache()
    cache.nodes.put(Node(name="n0", allocatable={"cpu": 1}, resource_version=1))
    first = cache.cluster().nodes
    cache.nodes.put(Node(name="n0", allocatable={"cpu": 1}, resource_version=2))
    assert cache.cluster().nodes is first
    cache.nodes.put(Node(name="n0", allocatable={"cpu": 2}, resource_version=3))
    assert cache.cluster().nodes != first
    cache.nodes.remove(N0)
    assert cache.cluster().nodes == ()


def test_a_heartbeat_of_a_node_is_no_change() -> None:
    nodes = ClusterCache().nodes
    assert nodes.put(Node(name="n0", allocatable={"nvidia.com/gpu": 8}, resource_version=1))
    assert not nodes.put(Node(name="n0", allocatable={"nvidia.com/gpu": 8}, resource_version=2))
    assert nodes.put(Node(name="n0", allocatable={"nvidia.com/gpu": 7}, resource_version=3))
    assert nodes.remove(N0)
    assert not nodes.remove(N0)


def test_whether_devices_are_real_follows_the_nodes() -> None:
    nodes, resource = ClusterCache().nodes, "nvidia.com/gpu"
    labels = {LABEL_SIMULATED_GPUS: "true"}
    nodes.put(Node(name="n0", allocatable={resource: 8}, labels=labels, resource_version=1))
    assert not nodes.have_real_devices(resource, {})
    nodes.put(Node(name="n0", allocatable={resource: 8}, resource_version=2))
    assert nodes.have_real_devices(resource, {})


def test_as_many_selectors_are_remembered_as_fit() -> None:
    nodes = ClusterCache().nodes
    for number in range(2 * MAX_SELECTORS):
        assert nodes.have_real_devices("nvidia.com/gpu", {"zone": str(number)})
        assert len(nodes._have_real_devices) <= MAX_SELECTORS


def test_a_listing_made_before_a_node_was_ready_does_not_undo_that() -> None:
    """It did until the node's next event or listing, and its GPUs were not used for minutes."""
    cache = ClusterCache()
    before = cache.nodes.snapshot()
    ready = Node(name="n0", is_ready=True, resource_version=5)
    unready = Node(name="n0", is_ready=False, resource_version=4)
    assert cache.nodes.put(ready)
    assert not cache.nodes.put(unready, before=before)
    assert cache.cluster().nodes == (ready,)
    assert cache.nodes.remove(N0)
    assert cache.nodes.put(Node(name="n0", is_ready=False, resource_version=6))


def test_what_a_complete_listing_lacks_is_removed() -> None:
    cache = ClusterCache()
    for pod in (worker(0), worker(1), NOTEBOOK):
        cache.put_pod(pod)
    cache.put_job(make_job())
    cache.nodes.put(Node(name="n0"))
    cache.nodes.put(Node(name="n1"))
    pods, jobs, nodes = cache.pods.uids(), cache.jobs.uids(), cache.nodes.uids()
    removed = cache.pods.remove_missing(pods, {pod_key(worker(1)): worker(1).uid})
    assert {pod.job for pod in removed} == {KEY, None}
    assert [j.key for j in cache.jobs.remove_missing(jobs, {KEY: "a namesake"})] == [KEY]
    cache.nodes.remove_missing(nodes, {ObjectKey("", "n1"): ""})
    assert cache.pods_of(KEY) == (worker(1),)
    assert cache.jobs == {}
    assert [n.name for n in cache.cluster().nodes] == ["n1"]


def test_what_appears_while_a_listing_is_made_is_not_removed() -> None:
    """It was: the pod was removed from the cache, and created again beside itself."""
    cache = ClusterCache()
    pods, jobs, nodes = cache.pods.uids(), cache.jobs.uids(), cache.nodes.uids()
    cache.put_pod(worker(0, 3))
    cache.put_job(make_job())
    cache.nodes.put(Node(name="n0"))
    assert cache.pods.remove_missing(pods, {}) == []
    assert cache.jobs.remove_missing(jobs, {}) == []
    assert cache.nodes.remove_missing(nodes, {}) == []
    assert cache.pods_of(KEY) == (worker(0, 3),)
    assert KEY in cache.jobs
    assert len(cache.cluster().nodes) == 1


def test_a_namesake_that_appears_while_a_listing_is_made_stays() -> None:
    cache = ClusterCache()
    cache.put_pod(worker())
    before = cache.pods.uids()
    cache.put_pod(version(worker(), 9, uid="new"))
    cache.pods.remove_missing(before, {})
    assert [p.uid for p in cache.pods_of(KEY)] == ["new"]


def test_what_tells_nodes_with_accelerators_apart_follows_the_nodes() -> None:
    cache = ClusterCache()
    gpus = Node(name="n0", uid="0", allocatable=ONE_GPU, labels={"gpu": ""}, resource_version=1)
    cpus = Node(name="n1", uid="1", labels={}, resource_version=2)
    cache.nodes.put(gpus)
    assert cache.nodes.accelerator_label == ""
    cache.nodes.put(cpus)
    assert cache.nodes.accelerator_label == "gpu"
    cache.nodes.put(replace(cpus, labels={"gpu": ""}, resource_version=3))
    assert cache.nodes.accelerator_label == ""
