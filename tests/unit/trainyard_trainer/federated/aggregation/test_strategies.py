"""Properties of every strategy, and the arguments of each."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.trainyard_trainer.federated.models import FLAT, random_model
from trainyard_trainer.contract import federated as contract
from trainyard_trainer.federated.aggregation.aggregate import (
    Update,
    aggregate,
    initialize_slots,
    slot_layout,
)
from trainyard_trainer.federated.aggregation.strategies import STRATEGIES, make_strategy
from trainyard_trainer.runtime.exits import TaskInvalid

every_strategy = pytest.mark.parametrize("name", STRATEGIES)


def rounds(name: str, order: list[str], count: int = 3) -> NDArray[np.uint8]:
    strategy = make_strategy(contract.StrategyConfig(name=name))
    slots = np.empty(slot_layout(FLAT, strategy).size, np.uint8)
    initialize_slots(FLAT, strategy, slots)
    base = random_model(FLAT, 0)
    for number in range(count):
        out = np.empty_like(base)
        updates = [
            Update(
                party=party, weight=1.0 + ord(party), data=random_model(FLAT, number + ord(party))
            )
            for party in order
        ]
        aggregate(FLAT, strategy, updates, base=base, slots=slots, out=out)
        base = out
    return base


@every_strategy
def test_a_strategy_gives_the_same_model_in_any_order(name: str) -> None:
    assert (rounds(name, ["a", "b", "c"]) == rounds(name, ["c", "a", "b"])).all()


@every_strategy
def test_a_strategy_converges_to_what_all_parties_agree_on(name: str) -> None:
    strategy = make_strategy(contract.StrategyConfig(name=name))
    slots = np.empty(slot_layout(FLAT, strategy).size, np.uint8)
    initialize_slots(FLAT, strategy, slots)
    optimum = np.full(FLAT.size // 4, 2.0, "<f4")
    base = np.zeros_like(optimum)
    for _ in range(60):
        out = np.empty(FLAT.size, np.uint8)
        updates = [
            Update(party=p, weight=1.0, data=(base + (optimum - base) / 2).view(np.uint8))
            for p in "ab"
        ]
        aggregate(FLAT, strategy, updates, base=base.view(np.uint8), slots=slots, out=out)
        base = out.view("<f4").copy()
    assert np.abs(base - optimum).max() < 0.5


@every_strategy
def test_a_strategy_keeps_finite_numbers_finite(name: str) -> None:
    strategy = make_strategy(contract.StrategyConfig(name=name))
    slots = np.empty(slot_layout(FLAT, strategy).size, np.uint8)
    initialize_slots(FLAT, strategy, slots)
    base = np.zeros(FLAT.size, np.uint8)
    out = np.empty_like(base)
    same = [Update(party="a", weight=1e-30, data=base), Update(party="b", weight=1e30, data=base)]
    aggregate(FLAT, strategy, same, base=base, slots=slots, out=out)
    assert (out.view("<f4") == 0).all()


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("FedSGD", {}, "strategy.name is 'FedSGD'; this version has FedAvg, FedProx, FedAdam"),
        ("FedAvg", {"mu": 1}, "strategy.args.mu: FedAvg takes no arguments"),
        ("FedProx", {"lr": 1}, "strategy.args.lr: FedProx takes mu"),
        ("FedProx", {"mu": -1}, "strategy.args.mu must be at least 0, got -1"),
        ("FedProx", {"mu": "1"}, "strategy.args.mu must be a number, got '1'"),
        ("FedProx", {"mu": True}, "strategy.args.mu must be a number, got True"),
        ("FedAdam", {"lr": 0}, "strategy.args.lr must be above 0"),
        ("FedAdam", {"lr": float("inf")}, "strategy.args.lr must be above 0"),
        ("FedAdam", {"beta1": 1}, "strategy.args.beta1 must be at least 0 and below 1"),
        ("FedAdam", {"beta2": -0.1}, "strategy.args.beta2 must be at least 0 and below 1"),
        ("FedAdam", {"tau": 0}, "strategy.args.tau must be above 0"),
    ],
)
def test_an_invalid_strategy_is_refused_with_its_field(
    name: str, args: dict[str, object], message: str
) -> None:
    with pytest.raises(TaskInvalid, match=message):
        make_strategy(contract.StrategyConfig(name=name, args=args))


def test_a_strategy_has_settings_for_local_training() -> None:
    assert make_strategy(
        contract.StrategyConfig(name="FedProx", args={"mu": 0.5})
    ).local_settings == {"mu": 0.5}
    assert make_strategy(contract.StrategyConfig(name="FedAvg")).local_settings == {}
