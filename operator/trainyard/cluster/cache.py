"""The operator's picture of the cluster: what the watches last said, cut down to what matters.

Writes come from the watches, from the answers to our own requests (so that a decision never rests
on a state older than our last act) and from the resync; an older resource version never overwrites
a newer one. Reads are synchronous and never leave the process.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from trainyard.api.cluster import Cluster, GpuPod, Node
from trainyard.api.jobs import Job
from trainyard.api.names import Key
from trainyard.api.pods import Pod

PodKey = tuple[str, str]

MAX_TOMBSTONES = 8192
"""Uids of deleted objects; only those of the last seconds matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What there is, by name, with its uid where a name may be given again."""

    jobs: Mapping[Key, str]
    pods: Mapping[PodKey, str]
    nodes: frozenset[str]


class ClusterCache:
    """Jobs, pods, nodes and priority classes by name."""

    def __init__(self) -> None:
        self.jobs: dict[Key, Job] = {}
        self.priorities: dict[str, int] = {}
        self.unknown_priorities: frozenset[str] = frozenset()
        """Classes that jobs name and that the last listing did not have."""
        self._pods: dict[PodKey, Pod] = {}
        self._gpu_pods: dict[PodKey, GpuPod] = {}
        """Those that hold accelerators, as the scheduler sees them at every tick."""
        self._pods_of: dict[Key, dict[PodKey, Pod]] = {}
        self._nodes: dict[str, Node] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        """Uids of the deleted: an answer that was under way must not bring them back."""

    def put_job(self, job: Job, *, only_known: bool = False) -> bool:
        """Take the job in; False when the mirror knows a newer one already.

        `only_known` is for answers to our own writes, which may overtake the job's deletion. One
        that brings a change of the spec is left to its event, which would else be no news.
        """
        known = self.jobs.get(job.key)
        if job.uid in self._gone:
            return False
        is_same = known and (known.uid, known.generation) == (job.uid, job.generation)
        if only_known and not is_same:
            return False
        if known and known.resource_version >= job.resource_version:
            return False  # of a namesake too: events of its predecessor may come after its own
        self.jobs[job.key] = job
        return True

    def drop_job(self, key: Key, uid: str = "") -> Job | None:
        """Forget the job unless another of the same name has taken its place."""
        self._mark_deleted(uid)
        known = self.jobs.get(key)
        if known is None or (uid and known.uid != uid):
            return None
        return self.jobs.pop(key)

    def put_pod(self, pod: Pod) -> bool:
        """Take the pod in if it is of use to us; False when nothing changed."""
        place = (pod.namespace, pod.name)
        known = self._pods.get(place)
        if pod.uid in self._gone:
            return False
        if known and known.resource_version >= pod.resource_version:
            return False
        if pod.job is None and (not pod.gpus or pod.is_finished):
            return self.drop_pod(place) is not None
        if known and known.job != pod.job:
            self.drop_pod(place)  # relabelled: it leaves the other job's pods
        self._pods[place] = pod
        if pod.gpus and not pod.is_finished:
            self._gpu_pods[place] = pod.as_gpu_pod()
        else:
            self._gpu_pods.pop(place, None)
        if pod.job is not None:
            self._pods_of.setdefault(pod.job, {})[place] = pod
        return True

    def drop_pod(self, place: PodKey, uid: str = "") -> Pod | None:
        """Forget the pod unless another of the same name has taken its place."""
        self._mark_deleted(uid)
        known = self._pods.get(place)
        if known is None or (uid and known.uid != uid):
            return None
        del self._pods[place]
        self._gpu_pods.pop(place, None)
        if known.job is not None:
            siblings = self._pods_of.get(known.job, {})
            siblings.pop(place, None)
            if not siblings:
                self._pods_of.pop(known.job, None)
        return known

    def pods_of(self, key: Key) -> tuple[Pod, ...]:
        """The job's pods, finished and leaving ones too."""
        return tuple(self._pods_of.get(key, {}).values())

    def put_node(self, node: Node) -> bool:
        """Take the node in; False when nothing that matters changed, or a newer one is known."""
        known = self._nodes.get(node.name)
        if known and known.resource_version > node.resource_version:
            return False
        self._nodes[node.name] = node
        return known != node

    def drop_node(self, name: str) -> bool:
        """Forget the node."""
        return self._nodes.pop(name, None) is not None

    def cluster(self) -> Cluster:
        """Nodes and accelerator pods, as the scheduler's rules see them."""
        return Cluster(nodes=tuple(self._nodes.values()), pods=tuple(self._gpu_pods.values()))

    def names(self) -> Names:
        """All that is known now."""
        return Names(
            jobs={key: job.uid for key, job in self.jobs.items()},
            pods={place: pod.uid for place, pod in self._pods.items()},
            nodes=frozenset(self._nodes),
        )

    def forget_missing(self, before: Names, listed: Names) -> set[Key]:
        """Forget what was known `before` a complete listing and is not in it; the jobs concerned.

        What came to be known while the listing was made may be missing in it for that reason.
        """
        dirty: set[Key] = set()
        for key, uid in before.jobs.items() - listed.jobs.items():
            if self.drop_job(key, uid):
                dirty.add(key)
        for place, uid in before.pods.items() - listed.pods.items():
            pod = self.drop_pod(place, uid)
            if pod is not None and pod.job is not None:
                dirty.add(pod.job)
        for name in before.nodes - listed.nodes:
            self.drop_node(name)
        return dirty

    def _mark_deleted(self, uid: str) -> None:
        if uid:
            self._gone[uid] = None
            if len(self._gone) > MAX_TOMBSTONES:
                self._gone.popitem(last=False)
