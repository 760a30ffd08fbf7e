"""A model's layout is parsed as it was written; an invalid one is refused before any allocation."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.trainyard_trainer.federated.models import EVERY, entries, random_model
from trainyard_trainer.federated.protocol.layout import (
    DTYPES,
    Entry,
    Layout,
    MalformedLayout,
    parse_header,
    to_bytes,
    to_numbers,
)


@given(entries())
def test_a_layout_is_parsed_unchanged(found: list[Entry]) -> None:
    layout = Layout.of(found)
    header = layout.header({"round": 3})
    assert len(header) % 8 == 0
    assert parse_header(header[8:]) == (layout, {"round": 3})


TIED = Layout.of(
    [
        Entry(name="head", dtype="F32", shape=(2, 3), file_names=("head", "tail")),
        Entry(name="scale", dtype="F32", shape=(3,), trainable=False, file_names=()),
        Entry(name="bias", dtype="F64", shape=(2,)),
    ]
)


def test_names_in_a_model_file_are_parsed_and_do_not_tell_layouts_apart() -> None:
    found, _ = parse_header(TIED.header({})[8:])
    assert [e.file_names for e in found.entries] == [e.file_names for e in TIED.entries]
    assert [e.name for e in found.published.entries] == ["bias", "head", "tail"]
    plain = Layout.of(replace(entry, file_names=None) for entry in TIED.entries)
    assert plain.difference(found) == ""
    assert plain.published == plain


@pytest.mark.parametrize(
    ("file_names", "error"),
    [
        ([], "not a JSON object"),
        ({"head": "tail"}, "head has invalid names"),
        ({"head": [3]}, "head has invalid names"),
        ({"head": ["x" * 1001]}, "head has invalid names"),
        ({"head": ["bias"]}, "two tensors have the same name"),
        ({"head": ["a", "a"]}, "two tensors have the same name"),
        ({"head": [str(n) for n in range(100_001)]}, "model file of 100002 tensors .* too large"),
    ],
)
def test_invalid_names_in_a_model_file_are_refused(file_names: Any, error: str) -> None:
    plain = Layout.of(replace(entry, file_names=None) for entry in TIED.entries if entry.trainable)
    header = json.loads(plain.header({})[8:])
    header["__metadata__"]["file_names"] = json.dumps(file_names)
    with pytest.raises(MalformedLayout, match=error):
        parse_header(json.dumps(header).encode())


def test_a_model_file_beyond_the_limit_is_refused_before_it_is_written() -> None:
    large = Entry(name="w", dtype="F32", shape=(1 << 37,), file_names=("w", "v", "u"))
    with pytest.raises(MalformedLayout, match="too large"):
        parse_header(Layout.of([large]).header({})[8:])


@given(st.permutations(EVERY.entries))
def test_segments_are_aligned_and_cover_the_model(shuffled: list[Entry]) -> None:
    layout = Layout.of(shuffled)
    end = 0
    for segment in layout.segments:
        assert segment.start == end
        assert segment.start % DTYPES[segment.dtype].itemsize == 0
        end = segment.stop
    assert end == layout.size
    assert len({segment.key for segment in layout.segments}) == len(layout.segments)


def test_other_libraries_read_a_stored_model() -> None:
    data = random_model(EVERY, 1)
    tensors = safetensors.torch.load(EVERY.header({}) + data.tobytes())
    assert tensors.keys() == {entry.name for entry in EVERY.entries}
    assert tensors["BF16-True"].dtype == torch.bfloat16
    assert tensors["I64-False"].shape == (3, 5)


HOSTILE: dict[str, Any] = {
    "a shape that overflows": {"shape": [2**40, 2**40]},
    "a negative dimension": {"shape": [-1]},
    "a boolean dimension": {"shape": [True]},
    "a fractional dimension": {"shape": [1.5]},
    "a shape that is not a list": {"shape": 3},
    "too many dimensions": {"shape": [1] * 17},
    "an unknown dtype": {"dtype": "F8"},
    "a dtype that is not a string": {"dtype": ["F32"]},
    "overlapping tensors": {"data_offsets": [0, 12]},
    "a gap": {"data_offsets": [8, 20]},
    "no offsets": {"data_offsets": None},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header_is_refused(change: dict[str, Any]) -> None:
    layout = Layout.of([Entry(name=name, dtype="F32", shape=(1,)) for name in "ab"])
    fields = json.loads(layout.header({})[8:])
    fields["b"] = {**fields["b"], **change}
    with pytest.raises(MalformedLayout):
        parse_header(json.dumps(fields).encode())


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"3", b"{}", b"\xff", b"[" * 100_000, b'{"__metadata__": {"trainyard": "{"}}'],
)
def test_an_invalid_header_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedLayout):
        parse_header(text)


@given(st.binary(max_size=300))
def test_random_bytes_are_not_a_header(text: bytes) -> None:
    with pytest.raises(MalformedLayout):
        parse_header(text)


def test_tensors_out_of_order_are_refused() -> None:
    wrong = Layout(
        (Entry(name="a", dtype="I8", shape=(8,)), Entry(name="b", dtype="F32", shape=()))
    )
    with pytest.raises(MalformedLayout, match="not sorted by dtype"):
        parse_header(wrong.header({})[8:])


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ([], "lacks a, b"),
        ([("a", (2,)), ("b", (3,)), ("c", (1,))], "has c, which the model lacks"),
        ([("a", (2,)), ("b", (4,))], r"has b as F32\[4\], not F32\[3\]"),
        ([("b", (3,)), ("a", (2,))], "another order"),
    ],
)
def test_a_difference_names_the_tensors(theirs: list[tuple[str, tuple[int]]], message: str) -> None:
    def layout(tensors: list[tuple[str, tuple[int]]]) -> Layout:
        return Layout.of(Entry(name=n, dtype="F32", shape=shape) for n, shape in tensors)

    mine = layout([("a", (2,)), ("b", (3,))])
    assert mine.difference(mine) == ""
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(mine.difference(layout(theirs)))


@given(st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1))
@example([1.2371825920784875e-39])  # A subnormal near the middle of two others.
def test_bfloat16_is_rounded_to_the_nearest_even_as_pytorch_rounds_it(values: list[float]) -> None:
    # PyTorch rounds float64 by way of float32, so only exact float32 numbers can be compared.
    singles = np.array(values)
    expected = torch.tensor(singles).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert (to_bytes(singles, "BF16").view(np.uint16) == expected).all()


def test_bfloat16_is_rounded_once() -> None:
    # Just above the middle of 1 and the next bfloat16; float32 alone would fall on the middle.
    value = np.array([1 + 2**-8 + 2**-40])
    assert to_numbers(to_bytes(value, "BF16"), "BF16")[0] == 1 + 2**-7


@pytest.mark.parametrize("dtype", ["I64", "I32", "I16", "I8", "U8"])
def test_integers_are_clipped_to_their_range(dtype: str) -> None:
    bounds = np.iinfo(DTYPES[dtype])
    wide = np.array([bounds.min, bounds.max, 0, 2.5, 3.5], dtype=np.longdouble)
    wide[0] -= 5
    wide[1] += 5
    assert to_numbers(to_bytes(wide, dtype), dtype).tolist() == [bounds.min, bounds.max, 0, 2, 4]
