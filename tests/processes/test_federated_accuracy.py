"""Four hospitals' federation learns what pooled training would, by the real engine."""

from pathlib import Path

from benchmarks.federation import Setting, federate, measure, train
from trainyard_trainer.contract.federated import PartyConfig, StrategyConfig
from trainyard_trainer.tasks.heart import HOSPITALS

SMALL = ("switzerland", "long-beach")
LIFT = 0.1
"""Measured over five splits, the lift of the small hospitals is twice that and more."""


def test_the_federation_is_as_good_as_pooled_training_and_lifts_the_small_hospitals(
    tmp_path: Path,
) -> None:
    setting = Setting(task="heart:Heart", rounds=5, local_epochs=2, batch_size=4)
    parties = tuple(PartyConfig(name=hospital) for hospital in HOSPITALS)
    history = federate(setting, parties, StrategyConfig(name="FedAvg"), tmp_path)
    together = measure(setting, {}, tmp_path, "accuracy")
    assert [past["round"] for past in history] == list(range(setting.rounds + 1))
    assert {past["parties"] for past in history[1:]} == {len(HOSPITALS)}
    # What the parties report of the last model, each on its own patients, is what it shows on all.
    assert abs(history[-1]["metrics"]["eval/accuracy"] - together) < 1e-6

    train(setting, {}, tmp_path)
    assert together >= measure(setting, {}, tmp_path, "accuracy") - 0.05
    for hospital in SMALL:
        train(setting, {"hospital": hospital}, tmp_path)
        assert together >= measure(setting, {}, tmp_path, "accuracy") + LIFT
