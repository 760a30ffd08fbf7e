"""The accuracy of federations on real data, over several splits."""

from __future__ import annotations

import pytest

from benchmarks.accuracy import heart, mnist

pytestmark = pytest.mark.timeout(3600)

IID = "IID, 4 parties, FedAvg"


@pytest.mark.long(minutes=8)
def test_over_five_splits_the_hospitals_reach_the_accuracy_of_pooled_training() -> None:
    accuracy = heart(5)
    assert accuracy["FedAvg"]["all"] >= accuracy["pooled"]["all"] - 0.01
    for hospital in ("switzerland", "long-beach"):
        assert accuracy["FedAvg"]["all"] > accuracy[f"{hospital} alone"]["all"] + 0.1


@pytest.mark.long(minutes=12)
def test_four_parties_with_equal_shares_of_mnist_reach_94_percent_within_50_rounds() -> None:
    assert mnist(50)[IID]["rounds_to"]["0.94"] is not None
