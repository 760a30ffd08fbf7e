"""A federation of four hospitals learns as much as pooled training, with the real engine."""

from pathlib import Path

from benchmarks.federation import Setting, federate, measure, train
from trainyard_trainer.contract.federated import PartyConfig, StrategyConfig
from trainyard_trainer.tasks.heart import HOSPITALS

SMALL = ("switzerland", "long-beach")
MIN_GAIN = 0.1
"""The gain of the small hospitals, measured over five splits, is at least twice that."""


def test_a_federation_matches_pooled_training_and_improves_on_small_hospitals(
    tmp_path: Path,
) -> None:
    setting = Setting(task="heart:Heart", rounds=5, local_epochs=2, batch_size=4)
    parties = tuple(PartyConfig(name=hospital) for hospital in HOSPITALS)
    history = federate(setting, parties, StrategyConfig(name="FedAvg"), tmp_path)
    federated = measure(setting, {}, tmp_path, "accuracy")
    assert [record["round"] for record in history] == list(range(setting.rounds + 1))
    assert {record["parties"] for record in history[1:]} == {len(HOSPITALS)}
    # The mean of the parties' reports, each on its own patients, is the accuracy on all of them.
    assert abs(history[-1]["metrics"]["eval/accuracy"] - federated) < 1e-6

    train(setting, {}, tmp_path)
    assert federated >= measure(setting, {}, tmp_path, "accuracy") - 0.05
    for hospital in SMALL:
        train(setting, {"hospital": hospital}, tmp_path)
        assert federated >= measure(setting, {}, tmp_path, "accuracy") + MIN_GAIN
