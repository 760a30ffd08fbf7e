"""Texts of others, as messages and terminals may show them."""

from __future__ import annotations


def printable(text: str, limit: int) -> str:
    """At most `limit` characters, without control characters and lone surrogates.

    White space between words becomes one space: an escape sequence or a line break of a pod's
    would pass for our own output.
    """
    kept = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    return kept if len(kept) <= limit else f"{kept[: limit - 1]}…"
