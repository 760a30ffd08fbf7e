"""The fuel consumption of 392 models of cars, of makers in three regions; a number is predicted.

Data: "Auto MPG" (R. Quinlan, 1993; UCI Machine Learning Repository, CC BY 4.0), as mlxtend ships it
(S. Raschka, BSD 3-Clause), which leaves out six models whose power is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainyard_trainer.tasks.sites import SiteTask
from trainyard_trainer.tasks.tables import Matrix, Table, packaged, read

SCALES: Final = {
    "cylinders": (5.0, 2.0),
    "displacement": (200.0, 100.0),
    "horsepower": (100.0, 40.0),
    "weight": (3000.0, 1000.0),
    "acceleration": (15.0, 3.0),
    "model_year": (76.0, 4.0),
}
"""What is taken off each number, and what it is divided by, in the data's units (cubic inches,
pounds, seconds to 60 mph): round figures, the same at each region, estimated on nobody's cars."""
CONSUMPTION: Final = "mpg"
"""Miles per gallon."""
COLUMNS: Final = (*SCALES, CONSUMPTION)
FIELDS: Final = (*SCALES, "origin", "name", CONSUMPTION)
"""Of the package's file, which has no first line of names."""
REGIONS: Final = {"america": 1, "europe": 2, "japan": 3}
TYPICAL, SPREAD = 23.0, 8.0
"""Consumptions are learned as multiples of SPREAD about TYPICAL, both in miles per gallon."""


class FuelEconomy(SiteTask):
    """A small network on one region's cars, or on all three's.

    `eval/mae` is the mean absolute error in miles per gallon.
    """

    SITES: ClassVar = tuple(REGIONS)
    FILE: ClassVar = "cars.csv"
    SITE: ClassVar = "region"

    def __init__(
        self, region: str | None = None, split: int = 0, hidden: int = 16, lr: float = 0.05
    ) -> None:
        """One `region` or all; the seed of the held-out rows; hidden units; the learning rate."""
        super().__init__(region, split)
        self.hidden, self.lr = hidden, lr

    def packaged(self, site: str) -> Table:
        """The cars of one region: 245, 68 or 79."""
        path = packaged("mlxtend", "data", "data", "autompg.csv.gz")
        table = read(path, COLUMNS, FIELDS)
        rows = [row for row in table.rows if row["origin"] == str(REGIONS[site])]
        return Table(source=table.source, rows=rows)

    def read(self, path: Path) -> Table:
        """A maker's own file."""
        return read(path, COLUMNS)

    def encode(self, table: Table, train: NDArray[np.intp]) -> Matrix:  # noqa: ARG002
        """Scaled numbers; nothing is estimated."""
        columns = [(table.numbers(name) - off) / scale for name, (off, scale) in SCALES.items()]
        return np.stack(columns, axis=1).astype(np.float32)

    def targets(self, table: Table) -> Matrix:
        """The consumption, scaled."""
        return ((table.numbers(CONSUMPTION) - TYPICAL) / SPREAD).astype(np.float32)

    def model(self) -> nn.Module:
        """Six numbers, `hidden` units, one number."""
        return nn.Sequential(
            nn.Linear(len(SCALES), self.hidden), nn.Tanh(), nn.Linear(self.hidden, 1)
        )

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean squared error of the scaled consumption."""
        inputs, targets = batch
        return nn.functional.mse_loss(model(inputs).squeeze(-1), targets)

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """The mean absolute error in miles per gallon."""
        inputs, targets = batch
        return {"mae": (model(inputs).squeeze(-1) - targets).abs().double().mean() * SPREAD}

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(params, lr=self.lr)
