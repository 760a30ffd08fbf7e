"""kopf watches and logs in; it writes nothing."""

from __future__ import annotations

import itertools

import kopf
import pytest

from trainyard import handlers, settings


@pytest.fixture
def registry() -> kopf.OperatorRegistry:
    made = kopf.OperatorRegistry()
    handlers.register(made)
    return made


def test_kopf_has_only_event_handlers_and_a_login(registry: kopf.OperatorRegistry) -> None:
    """Any other kind writes annotations or finalizers on objects, or polls."""
    kinds = {
        name: [handler.id for handler in part._handlers]
        for name, part in vars(registry).items()
        if part._handlers
    }
    assert kinds == {
        "_watching": ["on_job", "on_job", "on_node"],
        "_activities": ["login"],
    }


def test_the_watched_resources_are_our_jobs_and_nodes(
    registry: kopf.OperatorRegistry,
) -> None:
    selectors = [h.selector for h in registry._watching._handlers if h.selector is not None]
    assert [(s.group, s.version, s.any_name) for s in selectors] == [
        ("trainyard.dev", "v1alpha1", "distributedjobs"),
        ("trainyard.dev", "v1alpha1", "federatedjobs"),
        ("", "v1", "nodes"),
    ]


def test_watches_outlast_any_absence_of_the_api_server() -> None:
    made = kopf.OperatorSettings()
    settings.configure(made)
    pauses = made.networking.error_backoffs
    assert not isinstance(pauses, int | float)
    for _ in range(2):  # each request begins anew
        first = list(itertools.islice(iter(pauses), 1000))
        assert first[0] < 1
        assert max(first) <= 5


def test_kopf_posts_no_events_and_waits_for_no_patch() -> None:
    made = kopf.OperatorSettings()
    settings.configure(made)
    assert made.posting.enabled is False
    assert made.persistence.consistency_timeout == 0
