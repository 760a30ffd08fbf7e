"""The operator's view of the cluster, reduced to what decisions need.

kopf's handlers keep the jobs up to date, informers the pods and nodes, and responses to our own
requests both, so that no decision rests on a state older than our last action.
"""

from __future__ import annotations

from trainyard.api.cluster import Cluster, GpuPod, Node
from trainyard.api.jobs import Job
from trainyard.api.names import Key
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
    """Our pods, and the pods of others while they hold accelerators."""

    def __init__(self) -> None:
        super().__init__(pod_key)
        self._by_job: dict[Key, dict[ObjectKey, Pod]] = {}
        self._gpu_pods: dict[ObjectKey, GpuPod] = {}

    def of_job(self, key: Key) -> tuple[Pod, ...]:
        """The job's pods, including those that have finished or are being deleted."""
        return tuple(self._by_job.get(key, {}).values())

    def holding_gpus(self) -> tuple[GpuPod, ...]:
        """The pods that hold or wait for accelerators."""
        return tuple(self._gpu_pods.values())

    def is_relevant(self, pod: Pod) -> bool:
        """Whether the pod is ours or holds accelerators."""
        return pod.job is not None or _holds_gpus(pod)

    def index(self, old: Pod | None, new: Pod | None) -> None:
        """Keep the pods by job, and those with accelerators as the scheduler reads them."""
        if old is not None:
            self._unindex(old)
        if new is None:
            return
        if new.job is not None:
            self._by_job.setdefault(new.job, {})[pod_key(new)] = new
        if _holds_gpus(new):
            self._gpu_pods[pod_key(new)] = new.as_gpu_pod()

    def _unindex(self, pod: Pod) -> None:
        self._gpu_pods.pop(pod_key(pod), None)
        if pod.job is not None:
            siblings = self._by_job[pod.job]
            del siblings[pod_key(pod)]
            if not siblings:
                del self._by_job[pod.job]


class ClusterCache:
    """Jobs, pods, nodes and priority classes."""

    def __init__(self) -> None:
        self.jobs: Store[Key, Job] = Store(job_key)
        self.pods = PodStore()
        self.nodes: Store[ObjectKey, Node] = Store(node_key)
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
        """Nodes and accelerator pods, as the scheduler reads them."""
        return Cluster(nodes=tuple(self.nodes.values()), pods=self.pods.holding_gpus())


def _holds_gpus(pod: Pod) -> bool:
    return bool(pod.gpus) and not pod.is_finished
