"""The aggregate is the weighted mean, the same bit for bit in any order, of the same dtypes."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainyard_trainer.federated.models import EVERY, FLAT, random_model
from trainyard_trainer.federated.aggregation import aggregate as aggregate_module
from trainyard_trainer.federated.aggregation.aggregate import (
    Update,
    aggregate,
    initialize_slots,
    slot_layout,
)
from trainyard_trainer.federated.aggregation.strategies import FedAdam, FedAvg, Strategy
from trainyard_trainer.federated.protocol.layout import Bytes, Entry, Layout, to_bytes, to_numbers

weights = st.floats(1e-30, 1e30)


def run(
    updates: list[Update],
    layout: Layout = EVERY,
    strategy: Strategy | None = None,
    base: Bytes | None = None,
    slots: Bytes | None = None,
) -> Bytes:
    strategy = strategy or FedAvg()
    out = np.full(layout.size, 0xAA, np.uint8)
    base = random_model(layout, 99) if base is None else base
    slots = np.empty(0, np.uint8) if slots is None else slots
    aggregate(layout, strategy, updates, base=base, slots=slots, out=out)
    return out


def updates_of(layout: Layout, given_weights: list[float]) -> list[Update]:
    return [
        Update(party=f"p{i:02d}", weight=weight, data=random_model(layout, i))
        for i, weight in enumerate(given_weights)
    ]


@given(st.lists(weights, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_aggregate_is_the_same_in_any_order(found: list[float], rng: Any) -> None:
    updates = updates_of(EVERY, found)
    expected = run(updates)
    rng.shuffle(updates)
    assert (run(updates) == expected).all()


@given(st.integers(1, 9))
def test_the_aggregate_does_not_depend_on_the_chunk_size(chunk: int) -> None:
    updates = updates_of(EVERY, [1.0, 2.5, 3e-4])
    expected = run(updates)
    before, aggregate_module.CHUNK_ELEMENTS = aggregate_module.CHUNK_ELEMENTS, chunk  # type: ignore[misc]
    try:
        assert (run(updates) == expected).all()
    finally:
        aggregate_module.CHUNK_ELEMENTS = before  # type: ignore[misc]


@given(weights)
def test_a_single_update_is_the_aggregate(weight: float) -> None:
    (update,) = updates_of(EVERY, [weight])
    assert (run([update]) == update.data).all()


@given(st.lists(weights, min_size=2, max_size=6))
def test_equal_updates_are_their_own_aggregate(found: list[float]) -> None:
    layout = Layout.of(e for e in EVERY.entries if e.dtype != "F64")
    data = random_model(layout, 5)
    same = [Update(party=str(i), weight=w, data=data) for i, w in enumerate(found)]
    assert (run(same, layout) == data).all()


@given(
    st.lists(
        st.tuples(weights, st.floats(-1e6, 1e6, width=32)),
        min_size=1,
        max_size=8,
    )
)
def test_the_mean_is_exact_up_to_one_rounding(pairs: list[tuple[float, float]]) -> None:
    layout = Layout.of([Entry(name="w", dtype="F32", shape=(1,))])
    updates = [
        Update(party=str(i), weight=w, data=np.array([x], "<f4").view(np.uint8))
        for i, (w, x) in enumerate(pairs)
    ]
    exact = sum(Fraction(w) * Fraction(x) for w, x in pairs) / sum(Fraction(w) for w, _ in pairs)
    largest = max(abs(x) for _, x in pairs)
    found = float(run(updates, layout).view("<f4")[0])
    assert abs(found - float(exact)) <= np.spacing(np.float32(largest)) / 2 * (1 + 1e-6)


def test_large_counters_keep_every_digit() -> None:
    layout = Layout.of([Entry(name="n", dtype="I64", shape=(2,), trainable=False)])
    values = np.array([2**62 + 1, -(2**53) - 1], "<i8")
    updates = [Update(party=p, weight=1.0, data=values.view(np.uint8)) for p in "abc"]
    assert run(updates, layout).view("<i8").tolist() == values.tolist()


def test_a_boolean_follows_the_majority() -> None:
    layout = Layout.of([Entry(name="b", dtype="BOOL", shape=(2,), trainable=False)])
    votes = {"a": [1, 0], "b": [1, 0], "c": [0, 1]}
    updates = [Update(party=p, weight=1.0, data=np.array(v, np.uint8)) for p, v in votes.items()]
    assert run(updates, layout).tolist() == [1, 0]


def test_half_precision_is_summed_in_double_precision() -> None:
    # Summed in bfloat16, a thousand ones and a small number would stop at 256.
    layout = Layout.of([Entry(name="w", dtype="BF16", shape=(1,))])
    ones = [
        Update(party=f"{i:04d}", weight=1.0, data=to_bytes(np.array([float(i % 2)]), "BF16"))
        for i in range(1000)
    ]
    assert to_numbers(run(ones, layout), "BF16")[0] == 0.5


def test_fedadam_follows_algorithm_2() -> None:
    strategy = FedAdam(lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3)
    layout = slot_layout(FLAT, strategy)
    slots = np.empty(layout.size, np.uint8)
    initialize_slots(FLAT, strategy, slots)
    x = torch.from_numpy(random_model(FLAT, 7).view("<f4").copy()).double()
    m, v = torch.zeros_like(x), torch.full_like(x, strategy.tau**2)
    base = random_model(FLAT, 7)
    for number in range(5):
        sent = [
            Update(party=p, weight=w, data=random_model(FLAT, 10 * number + i))
            for i, (p, w) in enumerate((("a", 1.0), ("b", 3.0)))
        ]
        base = run(sent, FLAT, strategy, base, slots)
        a, b = (torch.from_numpy(u.data.view("<f4").copy()).double() for u in sent)
        delta = (a + 3 * b) / 4 - x
        m = 0.9 * m + 0.1 * delta
        v = 0.99 * v + 0.01 * delta**2
        x = x + 0.1 * m / (v.sqrt() + 1e-3)
        assert torch.allclose(torch.from_numpy(base.view("<f4").copy()).double(), x, atol=1e-5)


def test_fedadam_only_averages_tensors_that_are_not_trainable() -> None:
    layout = Layout.of(
        [
            Entry(name="w", dtype="F32", shape=(4,)),
            Entry(name="running_var", dtype="F32", shape=(4,), trainable=False),
        ]
    )
    strategy = FedAdam()
    slots = np.empty(slot_layout(layout, strategy).size, np.uint8)
    initialize_slots(layout, strategy, slots)
    updates = updates_of(layout, [1.0, 1.0])
    found = run(updates, layout, strategy, slots=slots).view("<f4")
    mean = run(updates, layout).view("<f4")
    assert (found[4:] == mean[4:]).all()
    assert (found[:4] != mean[:4]).all()


@pytest.mark.parametrize("strategy", [FedAvg(), FedAdam()])
def test_the_state_of_a_strategy_has_the_documented_size(strategy: Strategy) -> None:
    assert slot_layout(FLAT, strategy).size == len(strategy.slots) * FLAT.size
