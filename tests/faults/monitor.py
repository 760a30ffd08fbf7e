"""Invariants of pods, checked on every event of a watch that no fault disturbs."""

from __future__ import annotations

from collections import defaultdict

from tests.faults.history import History
from tests.support.manifests import Object
from tests.support.pod_watcher import PodWatcher
from tests.support.testbed import Testbed

Member = tuple[str, str, str]
"""The job's uid, the role, and the index or party."""


class PodMonitor(PodWatcher):
    """Records a violation if a member has two live pods or a term two coordinators."""

    def __init__(self, testbed: Testbed, history: History) -> None:
        super().__init__(testbed)
        self._history = history
        self._live: defaultdict[Member, set[str]] = defaultdict(set)
        self._coordinators: dict[tuple[str, str], str] = {}
        """The uid of the coordinator by the job's uid and the pod's name, which has the term."""
        self._ignored: set[str] = set()

    def ignore(self, uid: str) -> None:
        """Allow a second pod of this one's term: the operator may not have seen it."""
        self._ignored.add(uid)

    async def handle(self, kind: str, pod: Object) -> None:
        """Record the event and check the invariants."""
        meta, phase = pod["metadata"], pod["status"].get("phase", "")
        labels, uid = meta["labels"], meta["uid"]
        owner = meta["ownerReferences"][0]["uid"]
        role = labels["trainyard.dev/role"]
        which = labels.get("trainyard.dev/party", labels.get("trainyard.dev/index", ""))
        is_terminating = "deletionTimestamp" in meta
        self._history.log(
            f"pod {kind} {meta['name']} {uid[:8]} of {owner[:8]} {phase}"
            f"{' terminating' if is_terminating else ''} on {pod['spec'].get('nodeName', '-')}"
        )
        member = (owner, role, which)
        live = self._live[member]
        if kind == "DELETED" or is_terminating or phase not in ("Pending", "Running"):
            live.discard(uid)
            return
        live.add(uid)
        if len(live) > 1:
            self._history.record_violation(f"two live pods of {member}: {sorted(live)}")
        if role == "coordinator":
            term = (owner, meta["name"])
            previous = self._coordinators.get(term, uid)
            self._coordinators[term] = uid
            if previous != uid and previous not in self._ignored:
                self._history.record_violation(f"two coordinators of one term: {term}")
