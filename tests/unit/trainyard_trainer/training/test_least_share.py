"""No share of one sample for a model that needs two, and memory independent of the data."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.processes.tasks import Line
from tests.unit.trainyard_trainer.training.test_replica import CONFIG, CPU, turn
from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.task import Data, Tensors
from trainyard_trainer.training.cursor import (
    Cursor,
    fingerprint,
    fingerprint_of_all,
    share,
)
from trainyard_trainer.training.replica import build


class Normed(Line):
    """A model with BatchNorm, on so many samples."""

    def __init__(self, samples: int = 33, accumulate: int = 1) -> None:
        super().__init__(norm=True)
        self.samples = samples
        self.accumulate = accumulate  # type: ignore[misc]

    def train_data(self) -> Data:
        return Tensors(*(column[: self.samples] for column in self.data.columns))


@given(count=st.integers(2, 100), size=st.integers(1, 20), least=st.integers(1, 4))
def test_no_share_is_smaller_than_the_least(count: int, size: int, least: int) -> None:
    positions = np.arange(count)
    shares = [share(positions, rank, size, least) for rank in range(size)]
    assert np.concatenate(shares).tolist() == positions.tolist()
    assert all(len(part) >= min(least, count) for part in shares if len(part))


@given(size=st.integers(2, 100), batch_size=st.integers(2, 20))
def test_the_batches_of_an_epoch_have_two_samples_and_each_sample_once(
    size: int, batch_size: int
) -> None:
    cursor, seen = Cursor(seed=1, size=size, least=2), []
    while cursor.epoch == 0:
        positions = cursor.batch(batch_size)
        assert 2 <= len(positions) <= batch_size + 1
        seen += cursor.ids(positions).tolist()
        cursor = cursor.advance(batch_size)
    assert sorted(seen) == list(range(size))


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("samples", "batch_size"), [(33, 16), (203, 4), (5, 5), (203, 2)])
@pytest.mark.parametrize("workers", [1, 4])
def test_a_model_with_batch_norm_trains_on_any_number_of_workers(
    samples: int, batch_size: int, workers: int, accumulate: int
) -> None:
    config = replace(CONFIG, batch_size=batch_size)
    replicas = [build(Normed(samples, accumulate), config, CPU) for _ in range(workers)]
    while not replicas[0].is_over:
        turn(replicas)
    assert (replicas[0].audit.epochs, replicas[0].audit.wrong) == (2, 0)
    assert replicas[0].samples == 2 * samples
    assert len({replica.digest() for replica in replicas}) == 1


def test_a_model_that_can_train_on_one_sample_keeps_even_shares() -> None:
    assert build(Line(), CONFIG, CPU).cursor.least == 1


@pytest.mark.parametrize(("samples", "batch_size"), [(33, 1), (1, 16)])
def test_single_samples_are_refused_where_the_model_needs_two(
    samples: int, batch_size: int
) -> None:
    with pytest.raises(TaskInvalid):
        build(Normed(samples), replace(CONFIG, batch_size=batch_size), CPU)


def test_the_least_share_survives_the_handing_over_of_a_state() -> None:
    one, other = build(Normed(), CONFIG, CPU), build(Normed(), CONFIG, CPU)
    other.restore(one.encode())
    assert other.cursor.least == 2


@given(size=st.integers(0, 1000))
def test_the_fingerprint_of_all_samples_is_that_of_their_ids(size: int) -> None:
    assert fingerprint_of_all(size) == fingerprint(np.arange(size))


def test_the_fingerprint_of_many_samples_needs_little_memory() -> None:
    tracemalloc.start()
    try:
        fingerprint_of_all(3_000_000)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
