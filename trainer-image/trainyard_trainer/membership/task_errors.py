"""Errors of the user's code: whose fault, the worker's or the samples'.

The part of a worker that raises falls to the others, which compute the iteration again. If one of
them raises as well, on samples that both had, each would in turn, until the last of them took the
state along.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from trainyard_trainer.membership.messages import TaskRaised
from trainyard_trainer.membership.registry import Member, RaisedBefore, Registry

NAMED_SAMPLES: Final = 20
"""How many sample ids a sentence has; a worker's part may be of thousands."""
REASON_CHARACTERS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Overlap:
    """What two parts of one iteration have in common, as positions."""

    before: RaisedBefore
    first: int
    end: int


def record_error(registry: Registry, member: Member, message: TaskRaised) -> Registry:
    """Note that the task raised on `member`, and whether it did before on the same samples."""
    earlier = [r for r in registry.raised if r.message.iteration == message.iteration]
    overlap = _overlap(earlier, member, message)
    if overlap is not None:
        registry = replace(registry, failure=_sentence(overlap, member, message))
    survivors = frozenset(
        m.member_id
        for m in registry.members.values()
        if m.progress >= 0 and m.raised is None and m.member_id != member.member_id
    )
    raised = RaisedBefore(pod=member.pod, message=message, survivors=survivors)
    member = replace(member, raised=message, is_repeated=overlap is not None)
    return replace(registry, raised=(*earlier, raised)).put(member)


def _overlap(earlier: list[RaisedBefore], member: Member, message: TaskRaised) -> _Overlap | None:
    """The samples that an earlier part had as well, which this member then computed again."""
    for before in earlier:
        first = max(before.message.first, message.first)
        end = min(before.message.end, message.end)
        if first < end and member.member_id in before.survivors:
            return _Overlap(before=before, first=first, end=end)
    return None


def _sentence(overlap: _Overlap, member: Member, message: TaskRaised) -> str:
    start = message.first
    samples = message.samples[overlap.first - start : overlap.end - start]
    named = ", ".join(str(sample) for sample in sorted(samples)[:NAMED_SAMPLES])
    more = overlap.end - overlap.first - min(len(samples), NAMED_SAMPLES)
    if more:
        named = f"{named} and {more} more" if named else f"{more} of a large part"
    return (
        f"{message.reason[:REASON_CHARACTERS]}. It raised on {member.pod}, and before on "
        f"{overlap.before.pod}, on the same samples of {message.data} in iteration "
        f"{message.iteration}: {named}. The state before it is kept"
    )
