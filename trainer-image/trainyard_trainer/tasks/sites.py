"""Tasks with data from several sites: a party trains on its own, a DistributedJob on all of them.

All of these tasks follow one rule: a party trains on no other site's rows, and no figure computed
from several sites' rows (a mean, a deviation, a split) goes into what it trains on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.task import Data, Task, Tensors
from trainyard_trainer.tasks.tables import Matrix, Table

HELD_OUT = 1 / 3
"""Of each site's rows, for evaluation."""


class SiteTask(Task):
    """A table of records that are kept at several sites.

    Without a party the sites are pooled: the same features, the same rows held out. A party's
    metrics are of its own held-out rows, so their mean by samples is that over the pooled ones.
    """

    SITES: ClassVar[tuple[str, ...]]
    """The sites whose rows come with a package."""
    FILE: ClassVar[str]
    """What a party's own table is called on its data claim."""
    SITE: ClassVar[str] = "site"
    """What the argument that names the site is called."""

    def __init__(self, site: str | None, split: int) -> None:
        """The one `site` to train on, or None; `split` is the seed of the held-out rows."""
        self.site, self.split = site, split

    def packaged(self, site: str) -> Table:
        """The rows of one of SITES, from a package."""
        raise NotImplementedError

    def read(self, path: Path) -> Table:
        """The rows of a party's own file."""
        raise NotImplementedError

    def encode(self, table: Table, train: NDArray[np.intp]) -> Matrix:
        """The features; what is estimated for them is estimated on the rows `train` alone."""
        raise NotImplementedError

    def targets(self, table: Table) -> Matrix:
        """The targets, one a row."""
        raise NotImplementedError

    def strata(self, table: Table) -> NDArray[Any]:
        """Of each of these values, the same share of rows is held out."""
        return np.zeros(len(table))

    def train_data(self) -> Data:
        """The rows that are not held out."""
        return self._halves[0]

    def eval_data(self) -> Data | None:
        """A third of each site's rows."""
        return self._halves[1] if len(self._halves[1]) else None

    @cached_property
    def _halves(self) -> tuple[Tensors, Tensors]:
        parts = [self._divided(name, table) for name, table in self._tables()]
        train, held = zip(*parts, strict=True)
        return _joined(train), _joined(held)

    def _tables(self) -> list[tuple[str, Table]]:
        """Each site's name and rows: the party's claim, the one site, or all of them."""
        party, site = self.party, self.site
        if party is not None and party.data is not None:
            return [(site or party.name, self.read(party.data / self.FILE))]
        if site is None and party is None:
            return [(name, self.packaged(name)) for name in self.SITES]
        name = site if site is not None else party.name if party is not None else ""
        if name not in self.SITES:
            raise TaskInvalid(self._unknown(name))
        return [(name, self.packaged(name))]

    def _unknown(self, name: str) -> str:
        known = ", ".join(self.SITES)
        if self.site is not None:
            return f"task.args.{self.SITE} is {name!r}; choose one of {known}"
        return (
            f"party {name!r} has no data: give it a claim that holds {self.FILE} (parties[].data), "
            f"or name its {self.SITE} in parties[].args, one of {known}"
        )

    def _divided(self, name: str, table: Table) -> tuple[Tensors, Tensors]:
        held = held_out(self.strata(table), self.split, name)
        train = np.flatnonzero(~held)
        inputs = torch.tensor(self.encode(table, train))
        targets = torch.tensor(self.targets(table))
        chosen = torch.tensor(held)
        return Tensors(inputs[~chosen], targets[~chosen]), Tensors(inputs[chosen], targets[chosen])


class SiteClassifier(SiteTask):
    """Two classes and a logistic regression: one logit a row, positive for the second class."""

    FEATURES: ClassVar[int]

    def model(self) -> nn.Module:
        """One weight a feature, and a bias."""
        return nn.Linear(self.FEATURES, 1)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The cross entropy of two classes."""
        inputs, classes = batch
        logits = model(inputs).squeeze(-1)
        return nn.functional.binary_cross_entropy_with_logits(logits, classes)

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """The accuracy."""
        inputs, classes = batch
        return {"accuracy": ((model(inputs).squeeze(-1) > 0) == (classes > 0)).double().mean()}


def held_out(strata: NDArray[Any], seed: int, name: str) -> NDArray[np.bool_]:
    """Which rows are held out: a third of each stratum, by `seed` and the site's `name`."""
    rng = np.random.default_rng([seed, *name.encode()])
    held = np.zeros(len(strata), dtype=np.bool_)
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        held[rows[: round(len(rows) * HELD_OUT)]] = True
    return held


def _joined(parts: tuple[Tensors, ...]) -> Tensors:
    columns = zip(*(part.columns for part in parts), strict=True)
    return Tensors(*(torch.cat(pieces) for pieces in columns))
