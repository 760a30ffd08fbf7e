"""PURE: one data set divided among the parties of a federation, in the literature's three ways.

Apart from the tasks because what makes a federation hard is how its data differ from party to
party, and that is studied on data that were never apart. Every way is a partition: each sample is
in exactly one part, and the same seed gives the same parts on every machine, so that each party
can work out its own part without hearing of the others'.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Labels = NDArray[Any]


class Partition(StrEnum):
    """How the parts differ."""

    IID = "IID"
    """They do not: shuffled and dealt out."""
    SHARDS = "Shards"
    """Few labels each: sorted by label, cut into shards, some shards to each."""
    DIRICHLET = "Dirichlet"
    """Each label is spread unevenly: `alpha` near 0 gives it to one part, a large one to all."""


def divide(
    kind: Partition, labels: Labels, parts: int, seed: int, *, alpha: float = 0.5, shards: int = 2
) -> list[Indices]:
    """The samples of each of the `parts`, as sorted indices into `labels`.

    Raises ValueError that names the argument and the mend.
    """
    _check(kind, len(labels), parts, alpha, shards)
    rng = np.random.default_rng(seed)
    match kind:
        case Partition.IID:
            divided = iid(len(labels), parts, rng)
        case Partition.SHARDS:
            divided = by_shards(labels, parts, shards, rng)
        case Partition.DIRICHLET:
            divided = by_dirichlet(labels, parts, alpha, rng)
    return [np.sort(part) for part in divided]


def iid(count: int, parts: int, rng: np.random.Generator) -> list[Indices]:
    """Shuffled, then cut into parts whose sizes differ by one at most."""
    return list(np.array_split(rng.permutation(count), parts))


def by_shards(labels: Labels, parts: int, shards: int, rng: np.random.Generator) -> list[Indices]:
    """Sorted by label, cut into `parts * shards` shards, `shards` of them to each part at random.

    McMahan et al. 2017 (arXiv 1602.05629), section 3. Samples of one label are shuffled first.
    """
    shuffled = rng.permutation(len(labels))
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    cut = np.array_split(ordered, parts * shards)
    order = rng.permutation(parts * shards)
    return [np.concatenate([cut[i] for i in chosen]) for chosen in np.split(order, parts)]


def by_dirichlet(
    labels: Labels, parts: int, alpha: float, rng: np.random.Generator
) -> list[Indices]:
    """Each label's samples in proportions drawn from a symmetric Dirichlet distribution.

    Yurochkin et al. 2019 (arXiv 1905.12022), section 4. A part that is left with nothing gets one
    sample of the largest: a party without data could not take part.
    """
    dealt: list[list[Indices]] = [[] for _ in range(parts)]
    for label in np.unique(labels):
        samples = rng.permutation(np.flatnonzero(labels == label))
        shares = np.cumsum(rng.dirichlet(np.full(parts, alpha)))[:-1]
        cuts = np.round(shares * len(samples)).astype(np.int64)
        for pieces, piece in zip(dealt, np.split(samples, cuts), strict=True):
            pieces.append(piece)
    return _fill([np.concatenate(pieces) for pieces in dealt])


def _fill(parts: list[Indices]) -> list[Indices]:
    for number, part in enumerate(parts):
        if not len(part):
            largest = max(range(len(parts)), key=lambda i: len(parts[i]))
            parts[number], parts[largest] = parts[largest][:1], parts[largest][1:]
    return parts


def _check(kind: Partition, count: int, parts: int, alpha: float, shards: int) -> None:
    if not 1 <= parts <= count:
        raise ValueError(f"parts is {parts}; choose from 1 to {count}, the number of samples")
    if kind is Partition.SHARDS and not 1 <= shards <= count // parts:
        raise ValueError(
            f"shards is {shards}; with {parts} parts choose from 1 to {count // parts}"
        )
    if kind is Partition.DIRICHLET and not 1e-3 <= alpha <= 1e6:
        raise ValueError(f"alpha is {alpha}; choose from 0.001 (one label a party) to 1e6 (alike)")
