"""What this version can do, against the CRD's own defaults and its every field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.support.federations import make_federation
from tests.support.jobs import make_job
from trainyard.api.spec import DistributedJobSpec
from trainyard.api.validation import ARGUMENT_BYTES, unsupported_fields, validate
from trainyard.render.trainer_config import config_of
from trainyard_trainer.contract.env import ENV_CONFIG


def test_a_job_of_defaults_asks_for_nothing_unsupported() -> None:
    assert unsupported_fields(make_job().spec) == ""


def test_every_field_that_asks_for_too_much_is_named_in_one_sentence() -> None:
    spec = make_job({"sync": {"algorithm": "Async", "compression": "Int8"}}).spec
    assert unsupported_fields(spec) == (
        "This version of Trainyard does not support yet: spec.sync.algorithm (use AllReduce), "
        "spec.sync.compression (use None)."
    )


def test_every_refused_field_exists_in_the_spec() -> None:
    asking = DistributedJobSpec(
        task=make_job().spec.task,
        image="i",
        adjustments={"a": {}},
        candidates=[{}],
        selection={"metric": "m"},
    )
    spec = msgspec.to_builtins(asking)
    for name in unsupported_fields(asking).split(": ")[1].split(", "):
        path = name.split(" ")[0].removeprefix("spec.").split(".")
        assert path[0] in spec


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"strategy": {"name": "Krum"}}, "spec.strategy.name (use FedAvg, FedProx or FedAdam)"),
        ({"update": {"compression": "Int8"}}, "spec.update.compression (use None)"),
        ({"privacy": {"secureAggregation": {"threshold": 2}}}, "spec.privacy.secureAggregation"),
        ({"rounds": {"sampling": "BySize"}}, "spec.rounds.sampling (use Uniform)"),
        ({"adjustments": {"Fraction": {}}}, "spec.adjustments (leave it out)"),
        ({"parties": [{"name": "a", "external": True}]}, "they cannot enrol yet"),
    ],
)
def test_a_federation_asks_for_too_much_with(spec: dict[str, Any], says: str) -> None:
    assert says in unsupported_fields(make_federation(spec).spec)


def test_a_federation_whose_parties_here_are_a_quorum_may_have_external_ones() -> None:
    parties = [{"name": "a"}, {"name": "b"}, {"name": "z", "external": True}]
    assert unsupported_fields(make_federation({"parties": parties}).spec) == ""


def test_arguments_that_no_process_could_be_started_with_are_refused_by_name() -> None:
    """Linux answers `argument list too long`, and the pod would fail again and again."""
    parties = [{"name": "a", "args": {"weights": [0.5] * 30_000}}, {"name": "b"}]
    refused = validate(make_federation({"parties": parties}).spec)
    assert refused is not None
    assert refused.reason == "TooLarge"
    assert "spec.parties[a].args; a pod's configuration has room for 98304." in refused.message
    task = {"entrypoint": "a.b:C", "args": {"table": "x" * ARGUMENT_BYTES}}
    refused = validate(make_job({"task": task}).spec)
    assert refused is not None
    assert "spec.task.args" in refused.message


def test_the_largest_federation_with_the_largest_arguments_can_be_started() -> None:
    """The environment variable, its name and its end fit into the kernel's 32 pages."""
    parties = [{"name": f"{i:03}{'a' * 29}", "lr": 1 / 3, "external": True} for i in range(256)]
    parties[0]["external"] = False
    task = {"entrypoint": "a.b:C", "args": {"table": "x" * (ARGUMENT_BYTES - len('{"table":""}'))}}
    rounds = {"minParties": 1}
    job = make_federation({"task": task, "parties": parties, "rounds": rounds})
    assert validate(job.spec) is None
    assert len(f"{ENV_CONFIG}={config_of(job).encode()}\0".encode()) <= 32 * 4096
