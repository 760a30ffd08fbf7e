"""Plans and configurations on the wire: no defaults, no unknown fields, no ill-typed ones."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard_trainer.contract.config import Direction, JobConfig, Target
from trainyard_trainer.contract.federated import (
    FederatedConfig,
    FederatedPlan,
    OptimizerConfig,
    PartyConfig,
    RoundsConfig,
    StrategyConfig,
)
from trainyard_trainer.contract.plan import Plan

Message = Plan | FederatedPlan | JobConfig | FederatedConfig
Object = dict[str, Any]

FREE_FORM = "args"
"""Belongs to the user: all its fields are kept."""

positive = st.integers(1, 2**40)
numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=10)
arguments = st.dictionaries(texts, st.none() | st.integers() | numbers | texts, max_size=3)
targets = st.builds(Target, metric=texts, value=numbers, direction=st.sampled_from(Direction))
parties = st.builds(
    PartyConfig, name=texts, external=st.booleans(), args=arguments, lr=st.none() | numbers
)
rounds = st.builds(
    RoundsConfig,
    max=positive,
    min_parties=positive,
    fraction=st.floats(0, 1, exclude_min=True),
    deadline_seconds=st.floats(1, 1e6),
    patience=st.none() | positive,
)
optimizers = st.builds(OptimizerConfig, name=texts, lr=numbers, args=arguments)
strategies = st.builds(StrategyConfig, name=texts | st.just("FedAvg"), args=arguments)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Plan,
        generation=positive,
        workers=positive,
        batch_size=st.none() | positive,
        suspend=st.booleans(),
        fencing_token=st.integers(0, 2**40),
    ),
    st.builds(
        FederatedPlan,
        generation=positive,
        parties=st.lists(parties, min_size=1, max_size=3).map(tuple),
        rounds=rounds | st.just(RoundsConfig()),
        suspend=st.booleans(),
        fencing_token=st.integers(0, 2**40),
    ),
    st.builds(
        JobConfig,
        task=texts,
        args=arguments,
        batch_size=positive,
        epochs=positive | st.just(1),
        init=texts,
        target=st.none() | targets,
        seed=st.integers(),
        checkpoint_seconds=numbers,
        checkpoint_keep=positive,
        durable=st.booleans(),
        min_workers=positive,
        silence_seconds=numbers,
        stuck_seconds=numbers,
    ),
    st.builds(
        FederatedConfig,
        task=texts,
        parties=st.lists(parties, max_size=3).map(tuple),
        args=arguments,
        rounds=rounds | st.just(RoundsConfig()),
        local_epochs=positive,
        batch_size=positive,
        optimizer=st.none() | optimizers,
        init=texts,
        target=st.none() | targets,
        seed=st.integers(),
        strategy=strategies | st.just(StrategyConfig()),
        durable=st.booleans(),
    ),
)

ROUNDS = {
    "max": 10,
    "min_parties": 1,
    "fraction": 1.0,
    "deadline_seconds": 300.0,
    "patience": None,
}
PARTY = {"name": "a", "external": False, "args": {}, "lr": None}
MINIMAL: list[tuple[type[Message], Object, Object]] = [
    (
        Plan,
        {"wire": 1, "generation": 1, "workers": 2},
        {
            "generation": 1,
            "workers": 2,
            "batch_size": None,
            "suspend": False,
            "fencing_token": 0,
        },
    ),
    (
        FederatedPlan,
        {"wire": 1, "generation": 1, "parties": [{"name": "a"}], "rounds": {}},
        {
            "generation": 1,
            "parties": (PARTY,),
            "rounds": ROUNDS,
            "suspend": False,
            "fencing_token": 0,
        },
    ),
    (
        JobConfig,
        {"task": "m:C", "target": {"metric": "eval/loss", "value": 0.5}},
        {
            "task": "m:C",
            "args": {},
            "batch_size": 256,
            "epochs": 1,
            "init": "",
            "target": {"metric": "eval/loss", "value": 0.5, "direction": "Max"},
            "seed": 0,
            "checkpoint_seconds": 120.0,
            "checkpoint_keep": 3,
            "durable": False,
            "min_workers": 1,
            "silence_seconds": 5.0,
            "stuck_seconds": 300.0,
        },
    ),
    (
        FederatedConfig,
        {"task": "m:C", "parties": [{"name": "a"}], "optimizer": {"name": "SGD", "lr": 0.1}},
        {
            "task": "m:C",
            "parties": (PARTY,),
            "args": {},
            "rounds": ROUNDS,
            "local_epochs": 1,
            "batch_size": 32,
            "optimizer": {"name": "SGD", "lr": 0.1, "args": {}},
            "init": "",
            "target": None,
            "seed": 0,
            "strategy": {"name": "FedAvg", "args": {}},
            "durable": False,
        },
    ),
]
"""By class: what a peer sends at least, and the message with every default; all are part of the
wire version, as peers rely on each other's defaults."""

FULL: list[tuple[type[Message], Object]] = [
    (
        Plan,
        {
            "wire": 1,
            "generation": 1,
            "workers": 2,
            "batch_size": 3,
            "suspend": True,
            "fencing_token": 4,
        },
    ),
    (
        FederatedPlan,
        {
            "wire": 1,
            "generation": 1,
            "parties": [{"name": "a", "external": True, "args": {"k": 1}, "lr": 0.5}],
            "rounds": {
                "max": 9,
                "min_parties": 2,
                "fraction": 0.5,
                "deadline_seconds": 1.0,
                "patience": 3,
            },
            "suspend": True,
            "fencing_token": 4,
        },
    ),
    (
        JobConfig,
        {
            "task": "m:C",
            "args": {"k": 1},
            "batch_size": 2,
            "epochs": 3,
            "init": "a.safetensors",
            "target": {"metric": "eval/loss", "value": 0.5, "direction": "Min"},
            "seed": 4,
            "checkpoint_seconds": 5.0,
            "checkpoint_keep": 6,
            "durable": True,
            "min_workers": 7,
            "silence_seconds": 8.0,
            "stuck_seconds": 9.0,
        },
    ),
    (
        FederatedConfig,
        {
            "task": "m:C",
            "parties": [{"name": "a"}],
            "args": {"k": 1},
            "rounds": {"max": 9},
            "local_epochs": 2,
            "batch_size": 3,
            "optimizer": {"name": "SGD", "lr": 0.1, "args": {"momentum": 0.9}},
            "init": "a.safetensors",
            "target": {"metric": "eval/loss", "value": 0.5, "direction": "Min"},
            "seed": 4,
            "strategy": {"name": "FedProx", "args": {"mu": 0.1}},
            "durable": True,
        },
    ),
]
"""By class: every field with a value that is not its default."""


def with_unknown_fields(value: Any) -> Any:
    if isinstance(value, list):
        return [with_unknown_fields(item) for item in value]
    if not isinstance(value, dict):
        return value
    known = {k: v if k == FREE_FORM else with_unknown_fields(v) for k, v in value.items()}
    return {"unknown": {"nested": [None]}, **known, "later": 1}


def each_field_ill_typed(full: Object) -> Iterator[tuple[tuple[str | int, ...], Object]]:
    """Copies of an object, each with one field of another type, and that field's path."""
    for path, value in paths(full):
        changed = json.loads(json.dumps(full))
        at(changed, path[:-1])[path[-1]] = 3 if isinstance(value, list) else ["ill-typed"]
        yield path, changed


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, Any]]:
    pairs: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in pairs:
        yield (*path, key), item
        if isinstance(item, dict | list) and key != FREE_FORM:
            yield from paths(item, (*path, key))


def at(value: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


@given(messages)
def test_every_message_survives_the_round_trip(message: Message) -> None:
    assert type(message).decode(message.encode()) == message


@pytest.mark.parametrize(("cls", "text", "values"), MINIMAL, ids=lambda value: str(value)[:40])
def test_a_field_that_is_left_out_has_its_default(
    cls: type[Message], text: Object, values: Object
) -> None:
    message = cls.decode(json.dumps(text))
    assert asdict(message) == values
    assert json.loads(message.encode()) == text, "and defaults are left out"


@pytest.mark.parametrize(("cls", "values"), FULL, ids=lambda value: str(value)[:40])
def test_a_field_that_is_not_its_default_is_written(cls: type[Message], values: Object) -> None:
    assert json.loads(cls.decode(json.dumps(values)).encode()) == values


def test_a_default_plan_has_three_fields() -> None:
    encoded = json.loads(Plan(generation=3, workers=2).encode())
    assert encoded == {"wire": 1, "generation": 3, "workers": 2}


def test_only_the_changed_fields_of_a_nested_object_are_written() -> None:
    config = FederatedConfig(task="m:C", parties=(), rounds=RoundsConfig(max=3))
    assert json.loads(config.encode()) == {"task": "m:C", "parties": [], "rounds": {"max": 3}}


def test_the_users_arguments_are_written_whole() -> None:
    args = {"hidden": 0, "name": "", "nested": {"a": None, "b": [False]}}
    encoded = json.loads(JobConfig(task="m:C", args=args).encode())
    assert encoded["args"] == args


@given(messages)
def test_unknown_fields_are_ignored_at_every_level(message: Message) -> None:
    text = json.dumps(with_unknown_fields(json.loads(message.encode())))
    assert type(message).decode(text) == message


@pytest.mark.parametrize(
    ("cls", "path", "values"),
    [
        pytest.param(cls, path, values, id=f"{cls.__name__}.{'.'.join(map(str, path))}")
        for cls, full in FULL
        for path, values in each_field_ill_typed(full)
    ],
)
def test_an_ill_typed_field_is_refused_by_name(
    cls: type[Message], path: tuple[str | int, ...], values: Object
) -> None:
    with pytest.raises(ValueError, match=rf"Expected .+ - at `\$.*{path[-1]}"):
        cls.decode(json.dumps(values))


@pytest.mark.parametrize(
    ("cls", "path"),
    [
        (Plan, ("generation",)),
        (Plan, ("workers",)),
        (FederatedPlan, ("generation",)),
        (FederatedPlan, ("parties",)),
        (FederatedPlan, ("rounds",)),
        (FederatedPlan, ("parties", 0, "name")),
        (JobConfig, ("task",)),
        (JobConfig, ("target", "metric")),
        (JobConfig, ("target", "value")),
        (FederatedConfig, ("task",)),
        (FederatedConfig, ("parties",)),
        (FederatedConfig, ("optimizer", "name")),
        (FederatedConfig, ("optimizer", "lr")),
    ],
)
def test_a_missing_field_is_named(cls: type[Message], path: tuple[str | int, ...]) -> None:
    values = json.loads(json.dumps(dict(FULL)[cls]))
    del at(values, path[:-1])[path[-1]]
    with pytest.raises(ValueError, match=f"missing required field `{path[-1]}`"):
        cls.decode(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wire": 2}, "plan has wire version 2, this trainer speaks 1"),
        ({"wire": None}, "plan has wire version None"),
        ({"wire": 2, "workers": "two"}, "wire version 2"),
        ({"generation": 0}, "plan.generation must be at least 1, got 0"),
        ({"workers": 0}, "plan.workers must be at least 1, got 0"),
        ({"workers": True}, "Expected `int`, got `bool` - at `\\$.workers`"),
        ({"workers": 1.5}, "Expected `int`, got `float` - at `\\$.workers`"),
        ({"workers": "2"}, "invalid plan: Expected `int`, got `str` - at `\\$.workers`"),
        ({"suspend": 1}, "Expected `bool`, got `int` - at `\\$.suspend`"),
        ({"batch_size": 0}, "plan.batch_size must be at least 1, got 0"),
    ],
    ids=str,
)
def test_a_wrong_plan_is_refused_by_name(change: Object, message: str) -> None:
    values = json.loads(Plan(generation=1, workers=1).encode())
    with pytest.raises(ValueError, match=message):
        Plan.decode(json.dumps({**values, **change}))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[]", "invalid job configuration: Expected `object`, got `array`"),
        ("{}", "invalid job configuration: Object missing required field `task`"),
        ('{"task": "m:C"', "Expecting"),
        ('{"task": "m:C", "target": {"metric": "l", "value": 1, "direction": "Up"}}', "'Up'"),
    ],
)
def test_a_wrong_configuration_is_refused(body: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JobConfig.decode(body)
