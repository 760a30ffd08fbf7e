"""Views: numbered sets of workers that step together."""

from __future__ import annotations

from msgspec import Struct


class ViewId(Struct, frozen=True, kw_only=True, order=True):
    """A view's identity; a later view of any coordinator compares greater."""

    term: int
    number: int


class MemberAddress(Struct, frozen=True, kw_only=True):
    """A worker's identity and where its peers reach it."""

    member_id: str
    """`pod/incarnation`: a process that was given up for dead comes back under another."""
    rendezvous: str = ""
    """`host:port` of the worker's rendezvous store."""
    node: str = ""


class View(Struct, frozen=True, kw_only=True):
    """A set of workers that step together; a worker's rank is its index in `members`."""

    id: ViewId
    members: tuple[MemberAddress, ...]
    source: str
    """The member whose state the others adopt when `transfer` is set."""
    transfer: bool
    after: ViewId | None = None
    """The view whose members agree on the step of the switch; None begins at once."""
    initial: bool = False
    """Nobody has state: the source creates it, from a checkpoint where there is one."""

    @property
    def member_ids(self) -> tuple[str, ...]:
        """The members in rank order."""
        return tuple(member.member_id for member in self.members)

    def __str__(self) -> str:
        """The view in one line, for logs."""
        kind = "initial" if self.initial else "planned" if self.after else "recovery"
        return f"view {self.id.term}.{self.id.number} ({kind}): {', '.join(self.member_ids)}"
