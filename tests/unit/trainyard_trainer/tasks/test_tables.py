"""Tables: what is read, what is left out, and what is said of a file that cannot be read."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.tasks.tables import packaged, read, standardized


def written(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text)
    return path


def test_rows_with_a_gap_are_left_out_and_columns_become_numbers(tmp_path: Path) -> None:
    table = read(written(tmp_path, "a,b,c\n1,x,\n2,,5\n3,y,6\n4\n"), ("a", "b"))
    assert len(table) == 2
    assert table.numbers("a").tolist() == [1, 3]
    assert table.codes("b", ("y", "x")).tolist() == [1, 0]
    assert table.indicators("b", ("z", "x", "y")).tolist() == [[1, 0], [0, 1]]


def test_a_compressed_file_without_names_is_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(b"1,2\n3,4\n"))
    assert read(path, ("b",), ("a", "b")).numbers("b").tolist() == [2, 4]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a,c\n1,2\n", r"table.csv: there is no column 'b'"),
        (b"a,b\n1,\n", r"table.csv: 0 complete rows"),
        (b"", r"table.csv: there is no column 'a', 'b'"),
        (b"\xff\xfe\x00", r"table.csv: cannot be read as a CSV file"),
        (b"a,b\n1,two\n", r"table.csv: row 1 has 'two' in column 'b'"),
        (b"a,b\n1,2\n2,nan\n", r"table.csv: row 2 has 'nan' in column 'b'"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(TaskInvalid, match=sentence):
        read(path, ("a", "b")).numbers("b")


def test_an_unknown_category_is_named_with_those_that_are_known(tmp_path: Path) -> None:
    table = read(written(tmp_path, "a\nred\nblue\n"), ("a",))
    with pytest.raises(TaskInvalid, match="'blue'; known are 'red', 'green'"):
        table.codes("a", ("red", "green"))


def test_a_file_or_package_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskInvalid, match=r"absent\.csv"):
        read(tmp_path / "absent.csv", ("a",))
    with pytest.raises(TaskInvalid, match=r"nowhere_to_be_found.*trainyard-operator\[data\]"):
        packaged("nowhere_to_be_found", "a.csv")


def test_standardising_uses_the_given_rows_alone() -> None:
    features = np.array([[1.0, 7.0], [3.0, 7.0], [1000.0, 7.5]])
    scaled = standardized(features, np.array([0, 1]))
    assert scaled[:2].tolist() == [[-1, 0], [1, 0]]
    assert scaled[2].tolist() == [998, 0]
