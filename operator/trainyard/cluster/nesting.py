"""JSON nested deeper than a decoder follows, which one object of a user would bring into a listing.

The API server takes ten thousand levels; decoders in Python stop at about a thousand, also where
they only skip a value.
"""

from __future__ import annotations

import re
import secrets

MAX_DEPTH = 200
"""Far more than any object has that is meant to be read."""
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)


def prune(content: bytes) -> tuple[bytes, bytes]:
    """The JSON with a mark in the place of what is nested deeper than `MAX_DEPTH`, and that mark.

    Takes half a second for a megabyte of brackets: to be called in a thread.
    """
    mark = b'"pruned-%s"' % secrets.token_hex(16).encode()
    kept: list[bytes] = []
    start = depth = 0
    for token in _TOKEN.finditer(content):
        match content[token.start()]:
            case 0x5B | 0x7B:  # [ {
                depth += 1
                if depth == MAX_DEPTH + 1:
                    kept += (content[start : token.start()], mark)
            case 0x5D | 0x7D:  # ] }
                if depth == MAX_DEPTH + 1:
                    start = token.end()
                depth -= 1
    return b"".join((*kept, content[start:])), mark
