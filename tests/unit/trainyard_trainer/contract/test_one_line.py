"""Texts of others in messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainyard_trainer.contract.text import one_line


@given(st.text(alphabet=st.characters(exclude_categories=())), st.integers(1, 50))
def test_any_text_becomes_one_line_that_every_encoder_takes(text: str, limit: int) -> None:
    shown = one_line(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    shown.encode()
    assert one_line(shown, limit) == shown


def test_a_text_that_is_cut_says_so() -> None:
    assert one_line("one\ttwo\n\nthree", 100) == "one two three"
    assert one_line("one two three", 8) == "one two…"
