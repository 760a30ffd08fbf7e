"""Lines of a response in any chunks, and JSON nested deeper than decoders follow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard.cluster.framing import bounded_lines
from trainyard.cluster.nesting import MAX_DEPTH, prune


def lines_of(chunks: Sequence[bytes], max_bytes: int) -> list[bytes]:
    async def content() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def read() -> list[bytes]:
        return [line async for line in bounded_lines(content(), max_bytes)]

    return asyncio.run(read())


@given(st.lists(st.text("ab\n").map(str.encode)), st.integers(0, 5))
def test_lines_are_the_same_in_whatever_chunks_they_arrive(
    chunks: list[bytes], max_bytes: int
) -> None:
    whole = b"".join(chunks).split(b"\n")[:-1]
    expected = [line if len(line) <= max_bytes else b"" for line in whole]
    assert lines_of(chunks, max_bytes) == expected


@pytest.mark.parametrize("depth", [1, MAX_DEPTH - 2, MAX_DEPTH, 10_000])
@pytest.mark.parametrize("brackets", ["[]", '{"a":}'], ids=["lists", "maps"])
def test_only_what_is_nested_too_deep_is_pruned(depth: int, brackets: str) -> None:
    start, end = brackets[:-1], brackets[-1]
    deep = start * depth + '"x"' + end * depth
    text = '{"before": "[[\\"{", "deep": ' + deep + ', "after": [1, {}]}'
    pruned, mark = prune(text.encode())
    is_pruned = depth + 1 > MAX_DEPTH
    assert (mark in pruned) is is_pruned
    found = msgspec.json.decode(pruned)
    assert (found["before"], found["after"]) == ('[["{', [1, {}])
    if not is_pruned:
        assert found == json.loads(text)
