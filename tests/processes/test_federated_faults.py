"""An aggregator killed in any phase, and parties that are killed, stall and rejoin."""

import hashlib
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.processes.federation import Federation
from trainyard_trainer.contract.env import MODEL_FILE
from trainyard_trainer.contract.exits import Exit, Result
from trainyard_trainer.contract.federated import FederatedPlan
from trainyard_trainer.contract.metrics import Metric

ROUNDS = 6
KILLS = (
    "receiving:0",
    "storing:0",
    "stored:0",
    "announced:1",
    "receiving:1",
    "received:2",
    "aggregating:1",
    "storing:3",
    "stored:3",
    "announced:5",
    "stored:6",
    "finishing:6",
)
"""In the order in which they occur; `aggregating` counts the aggregations of its process."""


def model_of(federation: Federation) -> str:
    return hashlib.sha256((federation.state / MODEL_FILE).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """The model and the error of two parties' undisturbed rounds."""
    with Federation(tmp_path_factory.mktemp("undisturbed"), rounds={"max": ROUNDS}) as federation:
        federation.start()
        result = federation.result()
        assert (result["rounds"], result["rounds_lost"]) == (ROUNDS, 0)
        assert result["contributions"] == {"a": ROUNDS, "b": ROUNDS}
        errors = [entry["metrics"]["eval/error"] for entry in result["history"]]
        assert errors[-1] < errors[0]
        assert result["metrics"]["eval/error"] == errors[-1]
        return model_of(federation), errors[-1]


def test_an_aggregator_that_cannot_spool_an_update_ends_with_the_reason(tmp_path: Path) -> None:
    """If it went on, its parties would resend the update until the deadline."""
    with Federation(tmp_path, "a") as federation:
        federation.start_aggregator("lost:0", wait=False)
        federation.start_party("a")
        assert federation.wait_for_aggregator() == Exit.STATE_UNUSABLE
        error = federation.termination_message_of("aggregator").error
        assert error.startswith("an update cannot be kept in the state directory: ")


def test_an_aggregator_killed_in_every_phase_reaches_the_same_model(
    tmp_path: Path, undisturbed: tuple[str, float]
) -> None:
    with Federation(tmp_path, rounds={"max": ROUNDS}) as federation:
        federation.start_aggregator()
        federation.start_party("a")
        federation.wait_for_state("a", "Idle")
        federation.kill_coordinator()  # Waiting for a quorum.
        federation.start_party("b")
        for fault in KILLS:
            federation.start_aggregator(fault, wait=False)
            assert federation.wait_for_aggregator() == -9, fault
        federation.start_aggregator()
        result = federation.result()
        assert (model_of(federation), result["metrics"]["eval/error"]) == undisturbed
        assert result["rounds"] == ROUNDS
        assert result["contributions"] == {"a": ROUNDS, "b": ROUNDS}
        assert result["rounds_lost"] <= len(KILLS) + 1
        assert [entry["round"] for entry in result["history"]] == list(range(ROUNDS + 1))


def test_a_party_that_dies_while_it_trains_closes_its_round_within_seconds(tmp_path: Path) -> None:
    with Federation(tmp_path, "abc", rounds={"max": 2, "min_parties": 2}) as federation:
        hold, together = federation.hold("c"), federation.hold("a")
        federation.start()
        federation.wait_for_state("c", "Training")
        together.unlink()
        federation.wait_for_state("a", "Delivered")
        federation.wait_for_state("b", "Delivered")
        federation.signal("c", 9)
        federation.members.pop("c").join()
        # Without waiting for the deadline, which is a minute away.
        result = federation.result()
        assert (result["rounds"], result["rounds_lost"]) == (2, 0)
        assert result["contributions"] == {"a": 2, "b": 2}
        assert result["history"][1]["seconds"] < 40.0
        hold.unlink()


def test_a_stopped_party_stalls_a_round_no_longer_than_its_deadline(tmp_path: Path) -> None:
    rounds = {"max": 2, "min_parties": 2, "deadline_seconds": 8.0}
    with Federation(tmp_path, "abc", rounds=rounds) as federation:
        holds, together = [federation.hold("c")], federation.hold("a")
        federation.start()
        federation.wait_for_state("c", "Training")
        together.unlink()  # Not before: a quorum would start without the third party.
        federation.wait_for_state("a", "Delivered")
        federation.wait_for_state("b", "Delivered")
        holds.append(federation.hold("a"))
        federation.signal("c", signal.SIGSTOP)  # Its connection stays open.
        later = replace(federation.config.rounds, deadline_seconds=60.0)
        plan = FederatedPlan(generation=1, parties=federation.config.parties, rounds=later)
        assert federation.put(plan) == 200
        holds.pop(0).unlink()
        federation.wait_for_round(1)
        federation.wait_for_state("a", "Training")
        federation.signal("c", signal.SIGKILL)
        federation.members.pop("c").join()
        federation.start_party("c")
        federation.wait_for_state("c", "Delivered")
        holds.pop().unlink()
        result = federation.result()
        assert (result["rounds"], result["rounds_lost"]) == (2, 0)
        assert result["contributions"] == {"a": 2, "b": 2, "c": 1}
        first = result["history"][1]
        assert (first["parties"], first["round"]) == (2, 1)
        assert 8.0 <= first["seconds"] < 30.0


def test_a_party_that_rejoins_within_the_round_takes_part_in_it(
    tmp_path: Path, undisturbed: tuple[str, float]
) -> None:
    with Federation(tmp_path, rounds={"max": ROUNDS}) as federation:
        hold = federation.hold("b")
        federation.start()
        federation.wait_for_state("b", "Training")
        federation.wait_for_state("a", "Delivered")
        federation.signal("b", 9)
        federation.members.pop("b").join()
        hold.unlink()
        federation.start_party("b")
        result = federation.result()
        assert result["rounds_lost"] == 0
        assert (model_of(federation), result["metrics"]["eval/error"]) == undisturbed


def test_a_party_leaves_on_sigterm(tmp_path: Path) -> None:
    with Federation(tmp_path, "abc", rounds={"max": 2, "min_parties": 2}) as federation:
        hold, together = federation.hold("c"), federation.hold("a")
        federation.start()
        federation.wait_for_state("c", "Training")
        together.unlink()
        federation.wait_for_state("a", "Delivered")
        federation.signal("c")
        assert (
            federation.wait_for_exit("c")[0],
            federation.termination_message_of("c").result,
        ) == (0, Result.LEFT)
        hold.unlink()
        # Without waiting for the deadline, which is a minute away.
        assert federation.result()["rounds"] == 2


def test_an_aggregator_keeps_its_state_on_sigterm(tmp_path: Path) -> None:
    with Federation(tmp_path, rounds={"max": 4}) as federation:
        hold = federation.hold("b")
        federation.start()
        federation.wait_for_state("a", "Delivered")
        assert federation.aggregator is not None
        federation.aggregator.terminate()
        assert federation.wait_for_aggregator() == 0
        message = federation.termination_message_of("aggregator")
        assert (message.result, message.step) == (Result.LEFT, 0)
        hold.unlink()
        federation.start_aggregator(wait=False)
        assert federation.result()["rounds"] == 4


def test_a_lower_term_is_fenced_and_a_stored_result_is_reported_again(tmp_path: Path) -> None:
    with Federation(tmp_path, rounds={"max": 1}) as federation:
        federation.term = 4
        federation.start()
        first = federation.result()
        federation.term = 2
        federation.start_aggregator(wait=False)
        assert federation.wait_for_aggregator() == Exit.FENCED
        assert "term 5 has claimed" in federation.termination_message_of("aggregator").error
        federation.term = 7
        federation.start_aggregator(wait=False)
        assert federation.wait_for_aggregator() == 0
        message = federation.termination_message_of("aggregator")
        assert (message.result, message.step) == (Result.COMPLETE, 1)
        assert message.metrics == first["metrics"]


def test_without_a_volume_the_aggregator_stays_with_its_result(tmp_path: Path) -> None:
    with Federation(tmp_path, rounds={"max": 1}, durable=False) as federation:
        federation.start()
        for name in "ab":
            assert federation.wait_for_exit(name)[0] == 0
        assert federation.metric(Metric.OUTCOME, result="Complete") == 1
        assert (federation.state / MODEL_FILE).is_file()
        assert federation.aggregator is not None
        federation.aggregator.terminate()
        assert federation.wait_for_aggregator() == 0
        assert federation.termination_message_of("aggregator").result is Result.COMPLETE
