"""Which workers stand still while others wait for them.

A worker's connection has a thread of its own, so that a worker whose training thread hangs, in a
kernel or in a read of data, stays connected. It is known by this alone: another worker has stopped,
or has finished, and this one has not. While all are busy, as in a long evaluation, nobody is.
"""

from __future__ import annotations

from typing import Final

from trainyard_trainer.membership.registry import Registry

USUAL_STEPS: Final = 10
"""A step may take as many times the usual one without being suspected."""


def stuck_after(least: float, usual_step_seconds: float) -> float:
    """How long a worker may keep others waiting: `least` seconds, and longer where steps are."""
    return max(least, USUAL_STEPS * usual_step_seconds)


def standing_still(registry: Registry, now: float) -> dict[str, str]:
    """Why workers that do not stop are left out, by member id; never those that alone have state.

    Their states are void: the others go on with the state they have.
    """
    has_state = registry.has_state
    halted = [
        m.halted_at
        for m in registry.engaged
        if m.halted_at is not None and (m.progress >= 0 or not has_state)
    ]
    limit = stuck_after(registry.stuck_seconds, registry.usual_step_seconds)
    if not halted or now - min(halted) < limit:
        return {}
    return {
        m.member_id: f"{m.pod} has stood still for {now - min(halted):.0f} s while others waited "
        "for it: the traceback shows where its training thread hangs"
        for m in registry.engaged
        if m.halted_at is None and m.raised is None
    }
