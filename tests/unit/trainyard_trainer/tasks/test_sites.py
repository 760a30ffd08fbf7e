"""Who trains on which rows: a party on its own alone, the pooled run on the same ones together."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.task import Data, Party, Tensors, load
from trainyard_trainer.tasks.cars import FuelEconomy
from trainyard_trainer.tasks.credit import Credit
from trainyard_trainer.tasks.heart import Heart
from trainyard_trainer.tasks.mnist import Mnist
from trainyard_trainer.tasks.sites import SiteTask, held_out
from trainyard_trainer.tasks.tables import DATA

KINDS = {Heart: "heart:Heart", Credit: "credit:Credit", FuelEconomy: "cars:FuelEconomy"}
SIZES = {
    Heart: {"cleveland": 304, "budapest": 260, "switzerland": 46, "long-beach": 130},
    Credit: {"motor": 337, "furnishing": 215, "electronics": 280, "enterprise": 168},
    FuelEconomy: {"america": 245, "europe": 68, "japan": 79},
}

kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def made(
    kind: type[SiteTask], party: str = "", site: str = "", data: Path | None = None
) -> SiteTask:
    who = Party(name=party, data=data) if party else None
    args = {kind.SITE: site} if site else {}
    task = load(f"trainyard_trainer.tasks.{KINDS[kind]}", args, who)
    assert isinstance(task, SiteTask)
    return task


def columns(data: Data | None) -> tuple[Tensor, ...]:
    assert isinstance(data, Tensors)
    return data.columns


def halves(task: SiteTask) -> list[tuple[Tensor, ...]]:
    return [columns(task.train_data()), columns(task.eval_data())]


@kinds
def test_each_site_has_its_rows_and_a_third_is_held_out(kind: type[SiteTask]) -> None:
    sizes = {}
    for site in kind.SITES:
        train, held = (half[0] for half in halves(made(kind, site)))
        sizes[site] = len(train) + len(held)
        assert abs(len(held) - sizes[site] / 3) <= 1
        assert train.shape[1] == held.shape[1]
    assert sizes == SIZES[kind]


@kinds
def test_the_pooled_run_has_the_parties_rows_and_holds_out_the_same(kind: type[SiteTask]) -> None:
    for pooled, parties in zip(
        halves(made(kind)),
        zip(*(halves(made(kind, s)) for s in kind.SITES), strict=True),
        strict=True,
    ):
        for whole, parts in zip(pooled, zip(*parties, strict=True), strict=True):
            assert torch.equal(whole, torch.cat(parts))


@kinds
def test_a_site_is_named_by_the_argument_or_by_the_partys_name(kind: type[SiteTask]) -> None:
    site = kind.SITES[1]
    by_name, by_argument, alone = (
        halves(made(kind, site)),
        halves(made(kind, "somebody", site)),
        halves(made(kind, site=site)),
    )
    assert torch.equal(by_name[0][0], by_argument[0][0])
    assert torch.equal(by_name[0][0], alone[0][0])


@kinds
def test_an_unknown_party_gets_an_error_with_a_remedy(kind: type[SiteTask]) -> None:
    with pytest.raises(TaskInvalid, match=rf"party 'x'.*parties\[\].*{kind.SITE}.*{kind.SITES[0]}"):
        made(kind, "x").train_data()
    with pytest.raises(TaskInvalid, match=rf"task.args.{kind.SITE} is 'y'; choose one of"):
        made(kind, "x", "y").train_data()


class Elsewhere(Heart):
    """Its package is out of reach, as at a hospital that keeps its own file."""

    def packaged(self, site: str) -> None:  # type: ignore[override]
        raise AssertionError(f"opened the rows of {site}")


def test_a_party_reads_its_own_claim_and_nothing_else(tmp_path: Path) -> None:
    with (DATA / "heart.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if row["dataset"] == "Hungary"]
    with (tmp_path / "heart.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    task = Elsewhere()
    task.party = Party(name="budapest", data=tmp_path)
    theirs = halves(made(Heart, "budapest"))
    assert all(
        torch.equal(one, other)
        for half, same in zip(halves(task), theirs, strict=True)
        for one, other in zip(half, same, strict=True)
    )


def test_a_claim_without_the_file_does_not_fall_back_to_the_packaged_data(tmp_path: Path) -> None:
    with pytest.raises(TaskInvalid, match=r"heart\.csv: cannot be read"):
        made(Heart, "budapest", data=tmp_path).train_data()


def test_nothing_of_the_held_out_rows_enters_a_hospitals_standardisation() -> None:
    for hospital in Heart.SITES:
        inputs, _ = columns(made(Heart, hospital).train_data())
        varying = inputs.std(dim=0) > 0
        assert inputs.mean(dim=0).abs().max() < 1e-5
        deviations = inputs[:, varying].std(dim=0, correction=0)
        assert (deviations - 1).abs().max() < 1e-5
    switzerland, _ = columns(made(Heart, "switzerland").train_data())
    assert (switzerland[:, 2] == 0).all(), "every cholesterol is written as 0 there"


def test_both_classes_are_held_out_in_equal_shares() -> None:
    _, classes = columns(made(Heart, "long-beach").eval_data())
    assert classes.sum() == round(101 / 3)
    strata = np.array([0] * 30 + [1] * 6)
    held = held_out(strata, 0, "a")
    assert (held[:30].sum(), held[30:].sum()) == (10, 2)
    assert (held != held_out(strata, 1, "a")).any()
    assert (held != held_out(strata, 0, "b")).any()


def test_a_cheap_decision_is_by_the_data_sets_own_costs() -> None:
    task = made(Credit)
    always = torch.nn.Linear(Credit.FEATURES, 1)
    torch.nn.init.zeros_(always.weight)
    batch = columns(task.eval_data())
    for bias, cost in ((20.0, 0.7), (-20.0, 1.5)):
        torch.nn.init.constant_(always.bias, bias)
        found = float(task.metrics(always, batch)["cost"])
        assert found == pytest.approx(cost, abs=0.01), "refusing or granting every loan"


def test_the_parts_of_mnist_are_disjoint_and_hold_no_test_image() -> None:
    whole = Mnist()
    images = {row.numpy().tobytes() for row in columns(whole.eval_data())[0]}
    for partition in ("IID", "Shards", "Dirichlet"):
        parts = [Mnist(parts=4, part=part, partition=partition) for part in range(4)]
        rows = [
            part.train_data()[i][0].numpy().tobytes()
            for part in parts
            for i in range(len(part.train_data()))
        ]
        assert len(rows) == len(set(rows)) == len(whole.train_data()) == 4000
        assert images.isdisjoint(rows)
        for part in parts:
            assert torch.equal(columns(part.eval_data())[0], columns(whole.eval_data())[0])


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"parts": 4, "part": 4}, "task.args.part is 4; choose from 0 to 3"),
        ({"parts": 4, "part": 0, "partition": "iid"}, "partitions are IID, Shards, Dirichlet"),
        ({"parts": 0, "part": 0}, "task.args: parts is 0"),
        ({"parts": 4}, r"party 'a' does not say.*parties\[\].args"),
    ],
)
def test_a_wrong_part_is_refused(args: dict[str, object], sentence: str) -> None:
    with pytest.raises(TaskInvalid, match=sentence):
        load("trainyard_trainer.tasks.mnist:Mnist", args, Party(name="a")).train_data()


@pytest.mark.parametrize(
    ("file", "digest"),
    [
        ("heart.csv", "574f2fa2b43012fa25fca4fcdb36bd7c6bccdd0af4242f6c0e4c8633c5a072ae"),
        ("credit.csv", "2c0bae00275c028fc853a1ea72cc7a68002c3f6876c41300c5c948711540c8c6"),
    ],
)
def test_the_files_of_the_tasks_are_those_of_their_publishers(file: str, digest: str) -> None:
    assert hashlib.sha256((DATA / file).read_bytes()).hexdigest() == digest


SUMS: dict[tuple[type[SiteTask], str], tuple[float, ...]] = {
    (Heart, "cleveland"): (0.0, 93.0, 55.1110, 46.0),
    (Heart, "budapest"): (0.0, 65.0, -20.9008, 33.0),
    (Heart, "switzerland"): (0.0, 30.0, -3.7349, 15.0),
    (Heart, "long-beach"): (0.0, 67.0, 55.2033, 34.0),
    (Credit, "motor"): (1025.3457, 71.0, 453.4480, 35.0),
    (Credit, "furnishing"): (601.3000, 47.0, 258.5730, 23.0),
    (Credit, "electronics"): (738.7547, 41.0, 359.1763, 21.0),
    (Credit, "enterprise"): (587.9517, 41.0, 275.7867, 21.0),
}
"""Of inputs and targets, in training and held out, as the packages' own files gave them."""


@pytest.mark.parametrize(("kind", "site"), SUMS, ids=lambda part: getattr(part, "__name__", part))
def test_the_rows_of_a_site_are_those_of_the_published_data(
    kind: type[SiteTask], site: str
) -> None:
    sums = [float(column.double().sum()) for half in halves(made(kind, site)) for column in half]
    assert sums == pytest.approx(SUMS[kind, site], abs=1e-3)
