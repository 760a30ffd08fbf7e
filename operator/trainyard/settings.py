"""kopf's settings, each with its reason: kopf is watcher and login here, nothing more."""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import kopf

COLLECT_AFTER = 20_000
"""Objects made before the garbage collector looks for cycles (Python's own: 700). Every event is
thousands of short-lived dictionaries without cycles, and looking costs as much as handling them."""


def spare_collector() -> None:
    """Have the garbage collector run seldom, and never look at what was there from the start."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 10, 10)


def configure(settings: kopf.OperatorSettings) -> None:
    """Reduce kopf to watching."""
    # Events are made from statuses (render/events.py), not from log lines.
    settings.posting.enabled = False
    # The kinds and namespaces are known at the start; watching for more would take the right to
    # list all CRDs and namespaces, and would hold up the watches where that is refused.
    settings.scanning.disabled = True
    # Nothing patches on kopf's behalf, so there is nothing to wait to see again.
    settings.persistence.consistency_timeout = 0.0
    # No handler asks what changed: without these two, kopf copies every object of every event
    # several times to find out, which costs twice as much as all that it does besides.
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
    # Large clusters: page the initial listings.
    settings.watching.chunk_size = 500
    # A dead connection is noticed soon: jobs go on meanwhile, decisions do not.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.reconnect_backoff = 0.1
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = Backoffs()
    # An object's task keeps its last event, some 40 KB as Python's objects, until it ends: under a
    # burst thousands of them would wait for an event that comes seconds later or never.
    settings.queueing.idle_timeout = 0.1
    settings.queueing.exit_timeout = 1.0
    settings.execution.max_workers = 1
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)


class Backoffs:
    """Pauses between tries, without end.

    Kopf's own end after a minute, and the process with them: after a longer absence of the API
    server all replicas would be in the pauses that a kubelet makes between restarts. Never long: a
    request that succeeds meanwhile does not wake the watch, and decisions rest on what it last saw.
    """

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.2, 0.5), itertools.repeat(1.0))


class NoDiffBase(kopf.DiffBaseStorage):
    """Objects without an essence: none differs from what it was."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> Any:
        """Nothing, rather than a copy of the object."""
        del body, extra_fields
        return {}

    def fetch(self, *, body: kopf.Body) -> None:
        """Nothing was ever stored."""

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: Any) -> None:
        """Store nothing: handlers of raw events have no last state."""


class NoProgress(kopf.ProgressStorage):
    """No progress to keep: handlers of raw events are neither retried nor resumed."""

    def fetch(self, *, key: Any, body: kopf.Body) -> None:
        """Nothing was ever stored."""

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Store nothing."""

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """There is nothing to remove."""

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        """Never write to an object."""

    def clear(self, *, essence: Any) -> Any:
        """The essence as it is, rather than a copy of it."""
        return essence
