"""The operator's view of the cluster, reduced to what decisions need.

kopf's handlers keep the jobs up to date, informers the pods and nodes, and responses to our own
requests both, so that no decision rests on a state older than our last action.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from trainyard.api.cluster import Cluster, Node, PodInfo
from trainyard.api.jobs import Job
from trainyard.api.names import Key
from trainyard.api.nodes import accelerator_label, have_real_devices
from trainyard.api.pods import Pod
from trainyard.cluster.store import ObjectKey, Snapshot, Store


def pod_key(pod: Pod) -> ObjectKey:
    """The key of a pod."""
    return ObjectKey(pod.namespace, pod.name)


def node_key(node: Node) -> ObjectKey:
    """The key of a node."""
    return ObjectKey("", node.name)


def job_key(job: Job) -> Key:
    """The key of a job."""
    return job.key


class PodStore(Store[ObjectKey, Pod]):
    """Our pods, and the pods of others while they may hold resources."""

    def __init__(self) -> None:
        super().__init__(pod_key)
        self._by_job: dict[Key, dict[ObjectKey, Pod]] = {}
        self._holders: dict[ObjectKey, PodInfo] = {}

    def of_job(self, key: Key) -> tuple[Pod, ...]:
        """The job's pods, including those that have finished or are being deleted."""
        return tuple(self._by_job.get(key, {}).values())

    def holders(self) -> Iterable[PodInfo]:
        """The pods that hold resources or wait for them."""
        return self._holders.values()

    def is_relevant(self, pod: Pod) -> bool:
        """Whether the pod is ours or may hold resources."""
        return pod.job is not None or pod.holds_resources

    def index(self, old: Pod | None, new: Pod | None) -> None:
        """Keep the pods by job, and those that may hold resources as the scheduler counts them."""
        if old is not None:
            self._unindex(old)
        if new is None:
            return
        if new.job is not None:
            self._by_job.setdefault(new.job, {})[pod_key(new)] = new
        if new.holds_resources:
            self._holders[pod_key(new)] = new.as_pod_info()

    def _unindex(self, pod: Pod) -> None:
        self._holders.pop(pod_key(pod), None)
        if pod.job is not None:
            siblings = self._by_job[pod.job]
            del siblings[pod_key(pod)]
            if not siblings:
                del self._by_job[pod.job]


MAX_SELECTORS = 1000
"""Selectors that are remembered; one tenant can use as many as it likes."""


class NodeStore(Store[ObjectKey, Node]):
    """All nodes."""

    def __init__(self) -> None:
        super().__init__(node_key)
        self._all: tuple[Node, ...] | None = None
        self._accelerator_label: str | None = None
        self._have_real_devices: dict[tuple[str, frozenset[tuple[str, str]]], bool] = {}
        """By resource and selector, until a node changes."""

    @property
    def accelerator_label(self) -> str:
        """What tells nodes with accelerators from others; found again only when a node changes."""
        if self._accelerator_label is None:
            self._accelerator_label = accelerator_label(self.values())
        return self._accelerator_label

    def have_real_devices(self, resource: str, selector: Mapping[str, str]) -> bool:
        """Whether a pod with this selector may get devices that are not simulated."""
        key = (resource, frozenset(selector.items()))
        if key not in self._have_real_devices:
            if len(self._have_real_devices) >= MAX_SELECTORS:
                self._have_real_devices.clear()
            found = have_real_devices(self.values(), resource, selector)
            self._have_real_devices[key] = found
        return self._have_real_devices[key]

    def all(self) -> tuple[Node, ...]:
        """Every node; the same object until a node changes by more than its version."""
        if self._all is None:
            self._all = tuple(self.values())
        return self._all

    def index(self, old: Node | None, new: Node | None) -> None:
        """Forget the nodes as they were, unless nothing has changed."""
        if old != new:
            self._all = self._accelerator_label = None
            self._have_real_devices.clear()


class ClusterCache:
    """Jobs, pods, nodes and priority classes."""

    def __init__(self) -> None:
        self.jobs: Store[Key, Job] = Store(job_key)
        self.pods = PodStore()
        self.nodes = NodeStore()
        self.priorities: dict[str, int] = {}
        self.unknown_priorities: frozenset[str] = frozenset()
        """Classes that jobs name and the last listing did not contain."""

    def put_job(
        self,
        job: Job,
        *,
        only_known: bool = False,
        before: Snapshot[Key, Job] | None = None,
    ) -> bool:
        """Add or replace a job; False if it is outdated.

        `before` is what was known when the listing was requested that contains the job.
        `only_known` is for responses to our own writes, which may arrive after the job's deletion.
        A response with a new generation is left to its event, which would otherwise change nothing
        and so trigger no reconcile.
        """
        known = self.jobs.get(job.key)
        if only_known:
            is_same = known and (known.uid, known.generation) == (job.uid, job.generation)
            if not is_same:
                return False
        return self.jobs.put(job, before=before)

    def drop_job(self, key: Key, uid: str = "") -> Job | None:
        """Remove a job that is gone, unless another of the same name has replaced it."""
        return self.jobs.remove(key, uid)

    def put_pod(self, pod: Pod) -> bool:
        """Add or replace a pod from a response to our own request; False if it is outdated."""
        return self.pods.put(pod)

    def pods_of(self, key: Key) -> tuple[Pod, ...]:
        """The job's pods, including those that have finished or are being deleted."""
        return self.pods.of_job(key)

    def cluster(self) -> Cluster:
        """Nodes and the pods that hold resources, as the scheduler counts them."""
        pods = tuple(self._owned(pod) for pod in self.pods.holders())
        return Cluster(nodes=self.nodes.all(), pods=pods)

    def _owned(self, pod: PodInfo) -> PodInfo:
        """The pod, of no job unless the one that its labels name owns it: anyone can set labels.

        The pods of a job that was deleted are about to be, as Kubernetes collects them.
        """
        job = None if pod.job is None else self.jobs.get(pod.job)
        if pod.job is None or (job is not None and job.uid == pod.owner_uid):
            return pod
        is_deleting = pod.is_deleting or self.jobs.is_deleted(pod.owner_uid)
        return replace(pod, job=None, is_deleting=is_deleting)
