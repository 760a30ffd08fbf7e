"""What a party makes of a round is a function of the model, the seed, the round and its name."""

from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from tests.unit.trainyard_trainer.federated.models import random_model
from trainyard_trainer.federated.party.trainer import LocalTrainer
from trainyard_trainer.federated.protocol.messages import TrainConfig
from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.task import Party


def learner(name: str = "a", args: dict[str, Any] | None = None, **work: Any) -> LocalTrainer:
    asked: dict[str, Any] = {"seed": 3, "batch_size": 8, "local_epochs": 1, **work}
    task = "tests.unit.trainyard_trainer.federated.tasks:Slope"
    made = LocalTrainer(
        TrainConfig(task=task, args=args or {}, **asked), Party(name=name), torch.device("cpu")
    )
    made.state.pack()
    return made


def trained(made: LocalTrainer, number: int = 1, start: int | None = None) -> bytes:
    if start is not None:
        made.state.memory[:] = random_model(made.state.layout, start)
    made.train(number)
    return made.state.memory.tobytes()


def test_all_parties_have_the_same_initial_model() -> None:
    assert (learner("a").state.memory == learner("b").state.memory).all()
    assert (learner("a").state.memory != learner("a", seed=4).state.memory).any()


def test_a_round_done_again_gives_the_same_bits() -> None:
    first = learner("a", {"norm": True})
    once = trained(first, 3, start=1)
    trained(first, 7, start=2)
    assert trained(first, 3, start=1) == once
    assert trained(learner("a", {"norm": True}), 3, start=1) == once


def test_rounds_and_parties_see_their_data_in_orders_of_their_own() -> None:
    made = learner("a")
    assert trained(made, 1, start=1) != trained(made, 2, start=1)
    # "ab" and "ba" have the same data here.
    assert trained(learner("ab"), 1, start=1) != trained(learner("ba"), 1, start=1)


def test_what_is_trained_is_told_from_what_is_averaged() -> None:
    layout = learner("a", {"norm": True}).state.layout
    untrained = {entry.name: entry.dtype for entry in layout.entries if not entry.trained}
    assert untrained == {
        "1.running_mean": "F32",
        "1.running_var": "F32",
        "1.num_batches_tracked": "I64",
    }


@pytest.mark.parametrize(
    ("args", "work", "rates"),
    [
        ({}, {}, [0.1]),
        ({"groups": True}, {}, [0.3, 0.1]),
        ({"groups": True}, {"lr": 0.5}, [0.5, 0.5]),
        ({}, {"optimizer": {"name": "Adam", "lr": 0.2, "args": {}}}, [0.2]),
        ({}, {"optimizer": {"name": "Adam", "lr": 0.2, "args": {}}, "lr": 0.7}, [0.7]),
    ],
)
def test_the_nearest_learning_rate_holds(
    args: dict[str, Any], work: dict[str, Any], rates: list[float]
) -> None:
    made = learner("a", args, **work)
    made.train(1)
    optimizer = made._replica.optimizer
    assert [group["lr"] for group in optimizer.param_groups] == rates
    assert type(optimizer).__name__ == ("Adam" if "optimizer" in work else "SGD")


def test_a_schedule_goes_on_over_the_rounds() -> None:
    made = learner("a", {"decay": 0.9})
    made.train(3)
    # 37 samples are five steps of eight: after three rounds fifteen.
    assert made._replica.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**15)


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        ({"name": "SDG", "lr": 0.1}, "training.optimizer.name is 'SDG'; PyTorch has .*SGD"),
        ({"name": "Optimizer2", "lr": 0.1}, "training.optimizer.name"),
        ({"name": "SGD", "lr": -1}, "training.optimizer: SGD refuses"),
        ({"name": "SGD", "lr": 0.1, "args": {"moment": 1}}, "training.optimizer: SGD refuses"),
        ({"name": "LBFGS", "lr": 0.1}, "LBFGS"),
    ],
)
def test_a_wrong_optimizer_is_refused_before_the_first_round(
    optimizer: dict[str, Any], says: str
) -> None:
    with pytest.raises(TaskInvalid, match=says):
        learner("a", optimizer=optimizer)


def test_a_target_that_the_task_does_not_measure_is_refused() -> None:
    with pytest.raises(TaskInvalid, match=r"training\.target\.metric is 'eval/hight'"):
        learner("a", target="eval/hight")


def test_an_evaluation_is_of_the_model_that_was_received() -> None:
    made = learner("a")
    zeros = np.zeros_like(made.state.memory)
    made.state.memory[:] = zeros
    assert made.evaluate() == {"eval/height": 0.0, "eval/loss": 0.0}
    assert made.held_out == 5
    assert (made.state.memory == zeros).all()


def distance(mu: float, rounds: int = 1) -> float:
    made = learner("a", local={"mu": mu} if mu else {}, local_epochs=rounds)
    before = made.state.memory.view("<f4").copy()
    made.train(1)
    return float(np.linalg.norm(made.state.memory.view("<f4") - before))


def test_a_proximal_term_holds_a_party_near_the_global_model() -> None:
    distances = [distance(mu, rounds=5) for mu in (0.0, 1.0, 5.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[2] < 0.7 * distances[0]


def test_one_proximal_step_is_as_the_formula_says() -> None:
    # Two whole-batch steps of SGD by hand: w' = w - lr (g + mu (w - w0)).
    mu, lr = 2.0, 0.1
    made = learner("a", local={"mu": mu}, local_epochs=2, batch_size=64)
    task, data = made._replica.task, made._replica.train_data
    model = made._replica.task.model()
    made.state.unpack()
    model.load_state_dict(made._replica.model.state_dict())
    anchor = [p.detach().clone() for p in model.parameters()]
    for _ in range(2):
        model.zero_grad()
        task.loss(model, data.gather(range(37))).backward()  # type: ignore[attr-defined, no-untyped-call]
        with torch.no_grad():
            for param, start in zip(model.parameters(), anchor, strict=True):
                assert param.grad is not None
                param.sub_(lr * (param.grad + mu * (param - start)))
    made.train(1)
    for param, mine in zip(model.parameters(), made._replica.model.parameters(), strict=True):
        torch.testing.assert_close(mine, param)


def test_the_loss_and_the_samples_of_a_round_are_told() -> None:
    made = learner("a", local_epochs=3)
    found = made.train(1)
    assert found.samples == 37
    assert found.loss is not None
    assert found.loss > 0


def test_a_learning_rate_may_change_between_rounds() -> None:
    made = learner("a")
    made.train(1)
    made.adopt(msgspec.structs.replace(made.work, lr=0.7, args={"norm": True}))
    made.train(2)
    assert made._replica.optimizer.param_groups[0]["lr"] == 0.7
    assert made.work.args == {}, "other arguments would need another Task"
