"""Tables of records in CSV files: ours, a package's or a party's own, and made numbers.

Apart from the tasks because every table needs the same care: a file that a user mounts is input
like any other, and is refused with a sentence that names the file, the row and the column.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, TextIO

import numpy as np
from numpy.typing import NDArray

from trainyard_trainer.runtime.exits import TaskInvalid

Matrix = NDArray[np.float32]
Rows = list[dict[str, str]]

DATA: Final = Path(__file__).with_name("data")
"""The folder of the files that come with the tasks."""
MAX_ROWS: Final = 5_000_000
"""Rows are held in memory as text while they are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of one file."""

    source: str
    """Where they come from, for error messages."""
    rows: Rows

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def numbers(self, column: str) -> NDArray[np.float64]:
        """A column as finite numbers."""
        values = np.empty(len(self.rows))
        for index, row in enumerate(self.rows):
            values[index] = self._number(row[column], column, index)
        return values

    def codes(self, column: str, levels: Sequence[str]) -> NDArray[np.int64]:
        """A column of categories as positions in `levels`."""
        places = {level: place for place, level in enumerate(levels)}
        try:
            return np.array([places[row[column]] for row in self.rows], dtype=np.int64)
        except KeyError as error:
            raise TaskInvalid(
                f"{self.source}: column {column!r} holds {error.args[0]!r}; "
                f"known are {', '.join(map(repr, levels))}"
            ) from None

    def indicators(self, column: str, levels: Sequence[str]) -> NDArray[np.float64]:
        """A column of categories as one column of 0 and 1 for each of `levels` but the first."""
        return np.eye(len(levels))[self.codes(column, levels)][:, 1:]

    def _number(self, text: str, column: str, index: int) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise TaskInvalid(
                f"{self.source}: row {index + 1} has {text!r} in column {column!r}; "
                "write a finite number"
            )
        return number


def read(path: Path, columns: Sequence[str], fields: Sequence[str] = ()) -> Table:
    """The rows of a CSV file in which all `columns` are filled; the others are left out.

    The first line names the columns, unless `fields` does. Raises TaskInvalid that names the file.
    """
    try:
        with _opened(path) as file:
            reader = csv.DictReader(file, fieldnames=fields or None)
            missing = [c for c in columns if c not in (reader.fieldnames or ())]
            if missing:
                raise TaskInvalid(f"{path}: there is no column {', '.join(map(repr, missing))}")
            rows = [row for row in islice(reader, MAX_ROWS + 1) if _filled(row, columns)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TaskInvalid(f"{path}: cannot be read as a CSV file: {error}") from None
    if not 0 < len(rows) <= MAX_ROWS:
        raise TaskInvalid(f"{path}: {len(rows)} complete rows; there must be 1 to {MAX_ROWS:,}")
    return Table(source=str(path), rows=rows)


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", newline="", encoding="utf-8")
    return path.open(newline="", encoding="utf-8")


def _filled(row: Mapping[str, str | None], columns: Sequence[str]) -> bool:
    return all(row[column] for column in columns)


def packaged(package: str, *parts: str) -> Path:
    """The path of a file that an installed package ships; the package's code is not run."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise TaskInvalid(
            f"the data come from the package {package}, which this image does not have: "
            "install trainyard-operator[data]"
        )
    return Path(spec.submodule_search_locations[0], *parts)


def standardized(features: NDArray[np.float64], by: NDArray[np.intp]) -> Matrix:
    """Each column less its mean, over its deviation, both of the rows `by` alone.

    A column that is constant there becomes zero.
    """
    deviation = features[by].std(axis=0)
    centred = features - features[by].mean(axis=0)
    scaled = np.divide(centred, deviation, out=np.zeros_like(features), where=deviation > 1e-9)
    matrix: Matrix = scaled.astype(np.float32)
    return matrix
