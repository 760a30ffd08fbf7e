"""kopf's settings, each with its reason: kopf only logs in and watches our own kinds."""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import kopf

from trainyard.cluster.paging import JOB_PAGE_SIZE

COLLECT_AFTER = 20_000
"""Allocations before the garbage collector looks for cycles (Python's default: 700). An event is
thousands of short-lived dictionaries without cycles, and a collection costs as much as handling it.
"""


def spare_collector() -> None:
    """Make the garbage collector run seldom, and ignore the objects that exist at the start."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 10, 10)


def configure(settings: kopf.OperatorSettings) -> None:
    """Reduce kopf to watching."""
    # Events are created from statuses (render/events.py), not from log messages.
    settings.posting.enabled = False
    # Kinds and namespaces are known at the start. Scanning for more needs the right to list all
    # CRDs and namespaces, and delays the watches where that is refused.
    settings.scanning.disabled = True
    # Handlers patch nothing, so there is no patch to wait for.
    settings.persistence.consistency_timeout = 0.0
    # No handler needs to know what changed: without these two, kopf copies every object several
    # times per event to find out, at twice the cost of everything else it does.
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
    # Page the listings; the session requests fewer objects where these are large.
    settings.watching.chunk_size = JOB_PAGE_SIZE
    # Detect a dead connection soon: no decision is made meanwhile.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.reconnect_backoff = 0.1
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = Backoffs()
    # The task of an object keeps its last event, some 40 KB of Python objects, until it ends: in a
    # burst thousands of them would wait for an event that comes seconds later or never.
    settings.queueing.idle_timeout = 0.1
    settings.queueing.exit_timeout = 1.0
    settings.execution.max_workers = 1
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)


class Backoffs:
    """Endless pauses between attempts, at most a second each.

    kopf's own pauses end after a minute, and the process with them: after a longer outage of the
    API server the kubelet would keep all replicas in its crash-loop back-off. They are short, as a
    request that succeeds meanwhile does not wake the watch, and decisions rest on its last event.
    """

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.2, 0.5), itertools.repeat(1.0))


class NoDiffBase(kopf.DiffBaseStorage):
    """Stores no essence of an object, so that none ever differs from before."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> Any:
        """Return nothing instead of a copy of the object."""
        del body, extra_fields
        return {}

    def fetch(self, *, body: kopf.Body) -> None:
        """Return nothing: nothing was stored."""

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: Any) -> None:
        """Store nothing: handlers of raw events need no last state."""


class NoProgress(kopf.ProgressStorage):
    """Stores no progress: handlers of raw events are neither retried nor resumed."""

    def fetch(self, *, key: Any, body: kopf.Body) -> None:
        """Return nothing: nothing was stored."""

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Store nothing."""

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Remove nothing: nothing was stored."""

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        """Never write to an object."""

    def clear(self, *, essence: Any) -> Any:
        """Return the essence itself instead of a copy."""
        return essence
