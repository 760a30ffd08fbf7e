"""kopf watches and logs in; it writes nothing."""

from __future__ import annotations

import itertools

import kopf
import pytest
from kopf._core.intents.causes import Activity

import trainyard.handlers  # noqa: F401 - registers them with kopf
from trainyard import settings


@pytest.fixture
def registry() -> kopf.OperatorRegistry:
    return kopf.get_default_registry()


def test_kopf_has_only_event_handlers_a_startup_and_a_login(
    registry: kopf.OperatorRegistry,
) -> None:
    """All others write annotations or finalizers to objects, or poll."""
    kinds = {
        # kopf brings logins of its own for operators that have none.
        name: [handler.id for handler in part._handlers if not getattr(handler, "_fallback", None)]
        for name, part in vars(registry).items()
        if part._handlers
    }
    assert kinds == {
        "_watching": ["on_job", "on_job"],
        "_activities": ["startup", "login"],
    }


def test_our_login_replaces_those_that_kopf_brings(registry: kopf.OperatorRegistry) -> None:
    handlers = registry._activities.get_handlers(activity=Activity.AUTHENTICATION)
    assert [handler.id for handler in handlers] == ["login"]


def test_kopf_watches_our_own_kinds_alone(registry: kopf.OperatorRegistry) -> None:
    selectors = [h.selector for h in registry._watching._handlers if h.selector is not None]
    assert [(s.group, s.version, s.any_name) for s in selectors] == [
        ("trainyard.dev", "v1alpha1", "distributedjobs"),
        ("trainyard.dev", "v1alpha1", "federatedjobs"),
    ]


def test_watches_outlast_any_outage_of_the_api_server() -> None:
    made = kopf.OperatorSettings()
    settings.configure(made)
    pauses = made.networking.error_backoffs
    assert not isinstance(pauses, int | float)
    for _ in range(2):  # each request starts over
        first = list(itertools.islice(iter(pauses), 1000))
        assert first[0] < 1
        assert max(first) <= 5


def test_kopf_posts_no_events_and_waits_for_no_patch() -> None:
    made = kopf.OperatorSettings()
    settings.configure(made)
    assert made.posting.enabled is False
    assert made.persistence.consistency_timeout == 0
