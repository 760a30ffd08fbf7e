"""Local training is a function of the model, the seed, the round and the party's name."""

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


def local_trainer(
    name: str = "a", args: dict[str, Any] | None = None, **config: Any
) -> LocalTrainer:
    settings: dict[str, Any] = {"seed": 3, "batch_size": 8, "local_epochs": 1, **config}
    task = "tests.unit.trainyard_trainer.federated.tasks:Slope"
    trainer = LocalTrainer(
        TrainConfig(task=task, args=args or {}, **settings), Party(name=name), torch.device("cpu")
    )
    trainer.state.pack()
    return trainer


def update_of(trainer: LocalTrainer, number: int = 1, start: int | None = None) -> bytes:
    if start is not None:
        trainer.state.memory[:] = random_model(trainer.state.layout, start)
    trainer.train(number)
    return trainer.state.memory.tobytes()


def test_all_parties_have_the_same_initial_model() -> None:
    assert (local_trainer("a").state.memory == local_trainer("b").state.memory).all()
    assert (local_trainer("a").state.memory != local_trainer("a", seed=4).state.memory).any()


def test_a_repeated_round_gives_the_same_bits() -> None:
    first = local_trainer("a", {"norm": True})
    once = update_of(first, 3, start=1)
    update_of(first, 7, start=2)
    assert update_of(first, 3, start=1) == once
    assert update_of(local_trainer("a", {"norm": True}), 3, start=1) == once


def test_the_order_of_the_data_differs_between_rounds_and_parties() -> None:
    trainer = local_trainer("a")
    assert update_of(trainer, 1, start=1) != update_of(trainer, 2, start=1)
    # "ab" and "ba" have the same data here.
    assert update_of(local_trainer("ab"), 1, start=1) != update_of(local_trainer("ba"), 1, start=1)


def test_the_layout_separates_trainable_tensors_from_averaged_ones() -> None:
    layout = local_trainer("a", {"norm": True}).state.layout
    averaged = {entry.name: entry.dtype for entry in layout.entries if not entry.trainable}
    assert averaged == {
        "1.running_mean": "F32",
        "1.running_var": "F32",
        "1.num_batches_tracked": "I64",
    }


@pytest.mark.parametrize(
    ("args", "config", "rates"),
    [
        ({}, {}, [0.1]),
        ({"groups": True}, {}, [0.3, 0.1]),
        ({"groups": True}, {"lr": 0.5}, [0.5, 0.5]),
        ({}, {"optimizer": {"name": "Adam", "lr": 0.2, "args": {}}}, [0.2]),
        ({}, {"optimizer": {"name": "Adam", "lr": 0.2, "args": {}}, "lr": 0.7}, [0.7]),
    ],
)
def test_the_partys_learning_rate_overrides_the_jobs_and_the_tasks(
    args: dict[str, Any], config: dict[str, Any], rates: list[float]
) -> None:
    trainer = local_trainer("a", args, **config)
    trainer.train(1)
    optimizer = trainer._replica.optimizer
    assert [group["lr"] for group in optimizer.param_groups] == rates
    assert type(optimizer).__name__ == ("Adam" if "optimizer" in config else "SGD")


def test_a_learning_rate_schedule_continues_over_the_rounds() -> None:
    trainer = local_trainer("a", {"decay": 0.9})
    trainer.train(3)
    # 37 samples are five steps of eight: after three rounds fifteen.
    assert trainer._replica.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**15)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"name": "SDG", "lr": 0.1}, "training.optimizer.name is 'SDG'; PyTorch has .*SGD"),
        ({"name": "Optimizer2", "lr": 0.1}, "training.optimizer.name"),
        ({"name": "SGD", "lr": -1}, "training.optimizer: SGD refuses"),
        ({"name": "SGD", "lr": 0.1, "args": {"moment": 1}}, "training.optimizer: SGD refuses"),
        ({"name": "LBFGS", "lr": 0.1}, "LBFGS"),
    ],
)
def test_an_invalid_optimizer_is_refused_before_the_first_round(
    optimizer: dict[str, Any], message: str
) -> None:
    with pytest.raises(TaskInvalid, match=message):
        local_trainer("a", optimizer=optimizer)


def test_a_target_metric_that_the_task_lacks_is_refused() -> None:
    with pytest.raises(TaskInvalid, match=r"training\.target\.metric is 'eval/hight'"):
        local_trainer("a", target="eval/hight")


def test_an_evaluation_is_of_the_received_model() -> None:
    trainer = local_trainer("a")
    zeros = np.zeros_like(trainer.state.memory)
    trainer.state.memory[:] = zeros
    assert trainer.evaluate() == {"eval/height": 0.0, "eval/loss": 0.0}
    assert trainer.eval_samples == 5
    assert (trainer.state.memory == zeros).all()


def distance(mu: float, rounds: int = 1) -> float:
    trainer = local_trainer("a", local={"mu": mu} if mu else {}, local_epochs=rounds)
    before = trainer.state.memory.view("<f4").copy()
    trainer.train(1)
    return float(np.linalg.norm(trainer.state.memory.view("<f4") - before))


def test_a_proximal_term_keeps_a_party_near_the_global_model() -> None:
    distances = [distance(mu, rounds=5) for mu in (0.0, 1.0, 5.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[2] < 0.7 * distances[0]


def test_a_proximal_step_matches_the_formula() -> None:
    # Two whole-batch steps of SGD by hand: w' = w - lr (g + mu (w - w0)).
    mu, lr = 2.0, 0.1
    trainer = local_trainer("a", local={"mu": mu}, local_epochs=2, batch_size=64)
    task, data = trainer._replica.task, trainer._replica.train_data
    model = trainer._replica.task.model()
    trainer.state.unpack()
    model.load_state_dict(trainer._replica.model.state_dict())
    global_params = [p.detach().clone() for p in model.parameters()]
    for _ in range(2):
        model.zero_grad()
        task.loss(model, data.gather(range(37))).backward()  # type: ignore[attr-defined, no-untyped-call]
        with torch.no_grad():
            for param, start in zip(model.parameters(), global_params, strict=True):
                assert param.grad is not None
                param.sub_(lr * (param.grad + mu * (param - start)))
    trainer.train(1)
    for param, mine in zip(model.parameters(), trainer._replica.model.parameters(), strict=True):
        torch.testing.assert_close(mine, param)


def test_training_returns_its_loss_and_samples() -> None:
    trainer = local_trainer("a", local_epochs=3)
    outcome = trainer.train(1)
    assert outcome.samples == 37
    assert outcome.loss is not None
    assert outcome.loss > 0


def test_a_learning_rate_may_change_between_rounds() -> None:
    trainer = local_trainer("a")
    trainer.train(1)
    trainer.update_config(msgspec.structs.replace(trainer.config, lr=0.7, args={"norm": True}))
    trainer.train(2)
    assert trainer._replica.optimizer.param_groups[0]["lr"] == 0.7
    assert trainer.config.args == {}, "other arguments would need another Task"
