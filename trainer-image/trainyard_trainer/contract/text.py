"""Text as APIs and terminals take it."""

from __future__ import annotations

import re
from typing import Final

_SURROGATES: Final = "\ud800-\udfff"
"""No UTF-8 has lone ones, so no API takes them; Python reads undecodable file names as such."""
_CONTROLS: Final = "\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069"
"""Control characters but tab and newline, and changes of direction: terminals obey them."""

_UNENCODABLE = re.compile(f"[{_SURROGATES}]")
_UNPRINTABLE = re.compile(f"[{_SURROGATES}{_CONTROLS}]")


def encodable(text: str) -> str:
    """The text with U+FFFD in place of what UTF-8 cannot encode."""
    return _UNENCODABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def printable(text: str) -> str:
    """The encodable text with U+FFFD in place of what would control a terminal."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str, limit: int) -> str:
    """At most `limit` printable characters, with one space in the place of white space.

    A line break or an escape sequence of somebody else's text would pass for our own output.
    """
    kept = "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split())
    )
    return kept if len(kept) <= limit else f"{kept[: limit - 1]}…"
