"""kopf's settings, each with its reason: kopf is watcher and login here, nothing more."""

from __future__ import annotations

import logging

import kopf


def configure(settings: kopf.OperatorSettings) -> None:
    """Reduce kopf to watching."""
    # Events are made from statuses (render/events.py), not from log lines.
    settings.posting.enabled = False
    # The kinds and namespaces are known at the start; watching for more would take the right to
    # list all CRDs and namespaces, and would hold up the watches where that is refused.
    settings.scanning.disabled = True
    # Nothing patches on kopf's behalf, so there is nothing to wait to see again.
    settings.persistence.consistency_timeout = 0.0
    # Large clusters: page the initial listings.
    settings.watching.chunk_size = 500
    # A dead connection is noticed soon: jobs go on meanwhile, decisions do not.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.reconnect_backoff = 0.1
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 10
    # An object's task ends soon after its last event: thousands of idle ones cost memory.
    settings.queueing.idle_timeout = 1.0
    settings.queueing.exit_timeout = 1.0
    settings.execution.max_workers = 1
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
