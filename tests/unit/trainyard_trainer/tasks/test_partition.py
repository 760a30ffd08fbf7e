"""Every partition is one: each sample in exactly one part, the same parts for the same seed."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard_trainer.tasks.partition import Partition, divide

LABELS = np.repeat(np.arange(10), 400)
"""As MNIST's training labels are: ten classes of about 400."""

labels_and_parts = st.lists(st.integers(0, 4), min_size=1, max_size=80).flatmap(
    lambda labels: st.tuples(
        st.just(np.array(labels)), st.integers(1, len(labels)), st.floats(0.001, 100)
    )
)


@given(
    data=labels_and_parts, kind=st.sampled_from(Partition), seed=st.integers(0, 9), more=st.data()
)
def test_each_sample_is_in_exactly_one_part(
    data: tuple[np.ndarray, int, float], kind: Partition, seed: int, more: st.DataObject
) -> None:
    labels, parts, alpha = data
    shards = more.draw(st.integers(1, len(labels) // parts))
    divided = divide(kind, labels, parts, seed, alpha=alpha, shards=shards)
    assert len(divided) == parts
    assert all(len(part) for part in divided)
    assert sorted(np.concatenate(divided)) == list(range(len(labels)))
    again = divide(kind, labels, parts, seed, alpha=alpha, shards=shards)
    assert all((one == other).all() for one, other in zip(divided, again, strict=True))


def test_another_seed_gives_other_parts() -> None:
    for kind in Partition:
        one, other = (divide(kind, LABELS, 4, seed)[0] for seed in (0, 1))
        assert len(one) != len(other) or (one != other).any()


def test_iid_parts_are_of_one_size_and_have_every_label() -> None:
    divided = divide(Partition.IID, LABELS, 7, seed=0)
    assert {len(part) for part in divided} == {571, 572}
    for part in divided:
        counts = np.bincount(LABELS[part], minlength=10)
        assert counts.min() > 0.5 * counts.mean()


def test_two_shards_hold_few_labels() -> None:
    divided = divide(Partition.SHARDS, LABELS, 10, seed=0, shards=2)
    assert {len(part) for part in divided} == {400}
    assert all(len(np.unique(LABELS[part])) <= 4 for part in divided)


def test_a_smaller_alpha_makes_labels_more_uneven() -> None:
    def largest_share(alpha: float) -> float:
        """Of each label, the share of the part that has most of it: 0.25 when all are alike."""
        counts = np.array(
            [
                np.bincount(LABELS[part], minlength=10)
                for part in divide(Partition.DIRICHLET, LABELS, 4, seed=0, alpha=alpha)
            ]
        )
        return float((counts.max(axis=0) / counts.sum(axis=0)).mean())

    shares = [largest_share(alpha) for alpha in (0.01, 0.5, 5, 10_000)]
    assert all(more > less for more, less in pairwise(shares))
    assert shares[0] > 0.9
    assert shares[-1] < 0.27


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"parts": 0}, "parts is 0; choose from 1 to 10"),
        ({"parts": 11}, "parts is 11; choose from 1 to 10"),
        ({"parts": 3, "kind": Partition.SHARDS, "shards": 4}, "shards is 4; .* 1 to 3"),
        ({"parts": 3, "kind": Partition.DIRICHLET, "alpha": 0.0}, "alpha is 0.0; choose"),
        ({"parts": 3, "kind": Partition.DIRICHLET, "alpha": float("nan")}, "alpha is nan"),
    ],
)
def test_what_cannot_be_divided_is_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        divide(**{"kind": Partition.IID, "labels": np.arange(10), "seed": 0, **arguments})  # type: ignore[arg-type]
