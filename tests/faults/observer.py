"""Every pod there ever is, seen on a connection of its own: no place is taken twice at a time."""

from __future__ import annotations

from collections import defaultdict

from tests.faults.chronicle import Chronicle
from tests.support.manifests import Object
from tests.support.testbed import Testbed
from tests.support.watching import PodWatcher

Place = tuple[str, str, str]
"""The job's uid, and what of it: role and index, or role and party."""


class Observer(PodWatcher):
    """Watches a testbed's pods while the context lasts."""

    def __init__(self, testbed: Testbed, chronicle: Chronicle) -> None:
        super().__init__(testbed)
        self._chronicle = chronicle
        self._live: defaultdict[Place, set[str]] = defaultdict(set)
        self._coordinators: dict[tuple[str, str], str] = {}
        """The uid of the one coordinator of a job's term."""
        self._lost: set[str] = set()

    def lost(self, uid: str) -> None:
        """A pod has gone with its node: nobody may have seen it, so its term may come again."""
        self._lost.add(uid)

    async def handle(self, kind: str, pod: Object) -> None:
        """Note the event, and whether two pods are in one place or of one term."""
        meta, phase = pod["metadata"], pod["status"].get("phase", "")
        labels, uid = meta["labels"], meta["uid"]
        owner = meta["ownerReferences"][0]["uid"]
        role = labels["trainyard.dev/role"]
        which = labels.get("trainyard.dev/party", labels.get("trainyard.dev/index", ""))
        leaving = "deletionTimestamp" in meta
        self._chronicle.saw(
            f"pod {kind} {meta['name']} {uid[:8]} of {owner[:8]} {phase}"
            f"{' leaving' if leaving else ''} on {pod['spec'].get('nodeName', '-')}"
        )
        place = (owner, role, which)
        here = self._live[place]
        if kind == "DELETED" or leaving or phase not in ("Pending", "Running"):
            here.discard(uid)
            return
        here.add(uid)
        if len(here) > 1:
            self._chronicle.violated(f"two live pods of {place}: {sorted(here)}")
        if role == "coordinator":
            term = (owner, meta["name"])
            known = self._coordinators.get(term, uid)
            self._coordinators[term] = uid
            if known != uid and known not in self._lost:
                self._chronicle.violated(f"two coordinators of one term: {term}")
