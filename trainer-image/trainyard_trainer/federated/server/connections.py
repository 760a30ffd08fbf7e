"""The parties' connections: when each was last seen, which term it knows, what it transferred."""

from __future__ import annotations

import math
from collections import UserDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

MAX_CORRUPT_UPLOADS: Final = 3
"""How often a party may resend an update that was corrupted in transit, in one round."""


class OpenConnection(Protocol):
    """A connection to a party."""

    @property
    def connected(self) -> bool:
        """Whether it is open."""


@dataclass(slots=True)
class PartyConnection:
    """One party's connections, apart from its part in the rounds."""

    open: set[OpenConnection] = field(default_factory=set)
    """Those that requests have arrived on."""
    broken_at: float | None = None
    """When the last of them was found closed; None once that was dealt with."""

    seen_at: float = -math.inf
    """When its last request arrived, or its last poll ended."""
    term: int = 0
    """The highest term that it has seen, by its last request."""
    polls: int = 0
    """Open long polls."""
    knows_end: bool = False
    """Whether the end of the federation was announced to it."""
    corrupt_uploads: int = 0
    """Updates of the round in flight that were corrupted in transit."""
    received_bytes: int = 0
    """Of updates."""
    sent_bytes: int = 0
    """Of models."""
    response_seconds: float | None = None
    """From the announcement of its last round to its verified update."""

    def opened(self, connection: OpenConnection) -> None:
        """A request has arrived on this connection."""
        self.open.add(connection)
        self.broken_at = None

    def is_broken(self, now: float, seconds: float) -> bool:
        """Whether all connections have been closed for `seconds`; true once each time."""
        if self.open:
            self.open = {connection for connection in self.open if connection.connected}
            self.broken_at = None if self.open else now
        if self.broken_at is None or now - self.broken_at < seconds:
            return False
        self.broken_at = None
        return True

    @property
    def may_resend(self) -> bool:
        """Whether a corrupted update may be sent again in this round."""
        return self.corrupt_uploads <= MAX_CORRUPT_UPLOADS


class Connections(UserDict[str, PartyConnection]):
    """All parties' connections, by name; those of former parties are kept for their counters."""

    def __init__(self, parties: Iterable[str]) -> None:
        """No party has connected."""
        super().__init__()
        self.add(parties)

    def add(self, parties: Iterable[str]) -> None:
        """Add the parties that are new."""
        for party in parties:
            self.setdefault(party, PartyConnection())

    def start_round(self) -> None:
        """A round opens."""
        for connection in self.values():
            connection.corrupt_uploads = 0

    def resume(self) -> None:
        """A suspended federation goes on."""
        for connection in self.values():
            connection.knows_end = False

    def terms_above(self, term: int) -> list[int]:
        """The higher terms that parties have seen, one for each such party."""
        return [connection.term for connection in self.values() if connection.term > term]

    def silent_since(self, time: float) -> set[str]:
        """The parties without a request since `time` and without an open poll."""
        return {name for name, c in self.items() if c.seen_at < time and not c.polls}

    def broken(self, now: float, seconds: float) -> list[str]:
        """The parties whose connections have all been closed for `seconds`, each one once."""
        return [name for name, c in self.items() if c.is_broken(now, seconds)]

    def know_end(self, parties: Iterable[str]) -> bool:
        """Whether the end was announced to all of these parties."""
        return all(self[party].knows_end for party in parties)
