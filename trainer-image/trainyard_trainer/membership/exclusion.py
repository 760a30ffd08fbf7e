"""Which workers are left out, because a view with them would fail all its members."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from trainyard_trainer.membership.events import Command
from trainyard_trainer.membership.messages import Exclude
from trainyard_trainer.membership.registry import Member, Registry, Transition

MAX_FAILED_BUILDS: Final = 2
"""A joiner is first tried together with others, then alone."""
ADVICE: Final = "use the same image, arguments and data for all workers"


def exclude(registry: Registry, reasons: Mapping[str, str]) -> Transition:
    """Leave out the members with these ids, each for its reason."""
    members = {k: m for k, m in registry.members.items() if k not in reasons}
    commands: list[Command] = [(k, Exclude(reason=reason)) for k, reason in reasons.items()]
    pods = {m.pod for k, m in registry.members.items() if k in reasons}
    failed = {pod: count for pod, count in registry.failed_joins.items() if pod not in pods}
    return replace(registry, members=members, failed_joins=failed), commands


def different_from_state(registry: Registry) -> dict[str, str]:
    """Why workers without state cannot adopt that of the others, by member id."""
    layouts = [m.layout for m in registry.members.values() if m.progress >= 0 and m.layout]
    joiners = [m for m in registry.members.values() if m.progress < 0]
    return _different(joiners, layouts[0]) if layouts else {}


def different_from_most(ready: list[Member]) -> dict[str, str]:
    """Why some of the workers that are to begin together cannot, by member id.

    Where no layout is more frequent than another, that of the first ready worker counts.
    """
    layouts = Counter(m.layout for m in ready if m.layout)
    return _different(ready, layouts.most_common(1)[0][0]) if layouts else {}


def unreachable(registry: Registry) -> dict[str, str]:
    """Why workers without state are not tried again as joiners, by member id."""
    return {
        m.member_id: f"{m.pod} and the workers that train cannot connect to each other: "
        "open all ports between the pods of a job"
        for m in registry.members.values()
        if m.progress < 0 and registry.failed_joins.get(m.pod, 0) >= MAX_FAILED_BUILDS
    }


def _different(members: list[Member], layout: tuple[str, ...]) -> dict[str, str]:
    return {m.member_id: _difference(m, layout) for m in members if m.layout and m.layout != layout}


def _difference(member: Member, layout: tuple[str, ...]) -> str:
    """The first difference between a member's layout and the others', in a sentence."""
    own = next((line for line in member.layout if line not in layout), "nothing more")
    theirs = next((line for line in layout if line not in member.layout), "nothing more")
    return (
        f"{member.pod} differs from the other workers: it has {own}, they have {theirs}; {ADVICE}"
    )
