"""The coordinator's half of the membership protocol in one function."""

from __future__ import annotations

from trainyard_trainer.membership.decisions import decide
from trainyard_trainer.membership.hearing import hear
from trainyard_trainer.membership.nouns import Event
from trainyard_trainer.membership.registry import Decision, Registry


def step(registry: Registry, event: Event, now: float) -> Decision:
    """What is known, and what is to be done, after `event` at `now` (seconds, any steady clock)."""
    registry, commands = hear(registry, event, now)
    registry, more = decide(registry, now)
    return registry, commands + more
