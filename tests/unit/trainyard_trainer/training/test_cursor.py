"""Every sample exactly once an epoch, whatever happens to the workers."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainyard_trainer.training.cursor import Audit, Cursor, fingerprint, halves, permute, share

SIZES = st.integers(min_value=1, max_value=300)


@given(size=SIZES, seed=st.integers(-(2**63), 2**63 - 1), epoch=st.integers(0, 1000))
def test_the_order_of_an_epoch_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    ids = permute(np.arange(size), size, seed, epoch)
    assert sorted(ids) == list(range(size))


def test_epochs_and_seeds_have_different_orders() -> None:
    orders = {tuple(permute(np.arange(50), 50, s, e)) for s in range(3) for e in range(3)}
    assert len(orders) == 9


def test_the_order_is_close_to_uniform() -> None:
    first = [int(permute(np.arange(1), 8, seed, 0)[0]) for seed in range(4000)]
    counts = np.bincount(first, minlength=8)
    assert counts.min() > 400
    assert counts.max() < 600


@given(count=st.integers(0, 100), size=st.integers(1, 20))
def test_shares_are_even_and_make_up_the_batch(count: int, size: int) -> None:
    positions = np.arange(count)
    shares = [share(positions, rank, size) for rank in range(size)]
    assert np.concatenate(shares).tolist() == positions.tolist()
    lengths = [len(part) for part in shares]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


@given(data=st.data(), size=SIZES)
@settings(max_examples=60)
def test_any_membership_history_sees_each_sample_once_an_epoch(
    data: st.DataObject, size: int
) -> None:
    """Joins, leaves, changed batches, steps tried again, shares lost and owed."""
    cursor = Cursor(seed=data.draw(st.integers(0, 9)), size=size)
    seen: list[int] = []
    audit = Audit()
    while cursor.epoch < 2:
        epoch, before = cursor.epoch, cursor
        batch_size = data.draw(st.integers(1, 2 * size))
        positions = cursor.batch(batch_size)
        assert 1 <= len(positions) <= batch_size
        for _ in range(data.draw(st.integers(0, 1))):
            assert cursor.batch(batch_size).tolist() == positions.tolist()  # A retry.
        workers = data.draw(st.integers(1, 5))
        lost = data.draw(st.integers(0, workers - 1))
        fed = [share(positions, rank, workers) for rank in range(workers)]
        some_remain = len(positions) > len(fed[lost])
        gone: Iterable[int] = fed.pop(lost) if some_remain and data.draw(st.booleans()) else ()
        cursor = cursor.advance(batch_size, gone)
        for part in fed:
            ids = before.ids(part)
            seen += ids.tolist()
            audit = audit.add(len(ids), *halves(fingerprint(ids)))
        if cursor.epoch > epoch:
            assert sorted(seen) == list(range(size))
            audit = audit.close(size, fingerprint(np.arange(size)))
            seen = []
    assert audit.wrong == 0
    assert audit.epochs == 2


@pytest.mark.parametrize(
    ("fed", "wrong"),
    [([0, 1, 2, 3], 0), ([3, 1, 2, 0], 0), ([0, 1, 2], 1), ([0, 1, 2, 3, 3], 1), ([0, 1, 2, 2], 1)],
)
def test_the_audit_notices_what_is_missing_or_repeated(fed: list[int], wrong: int) -> None:
    audit = Audit()
    for sample in fed:
        audit = audit.add(1, *halves(fingerprint(np.array([sample]))))
    assert audit.close(4, fingerprint(np.arange(4))).wrong == wrong


def test_the_fraction_of_an_epoch_leaves_out_what_is_owed() -> None:
    assert Cursor(seed=0, size=10).advance(5).epochs == 0.5
    assert Cursor(seed=0, size=10).advance(5, lost=[1, 2]).epochs == pytest.approx(0.3)


@given(size=st.integers(2, 200), batch_size=st.integers(2, 40), least=st.integers(1, 2))
def test_an_epoch_has_as_many_steps_as_it_says(size: int, batch_size: int, least: int) -> None:
    cursor, steps = Cursor(seed=1, size=size, least=least), 0
    expected = cursor.steps_per_epoch(batch_size)
    while cursor.epoch == 0:
        cursor, steps = cursor.advance(batch_size), steps + 1
    assert steps == expected
