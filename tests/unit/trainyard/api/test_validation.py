"""What this version can do, against the CRD's own defaults and its every field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.support.federations import make_federation
from tests.support.jobs import make_job, raw_job
from trainyard.api.jobs import read_job
from trainyard.api.spec import DistributedJobSpec
from trainyard.api.validation import ARGUMENT_BYTES, unsupported_fields, validate
from trainyard.render.trainer_config import config_of
from trainyard_trainer.contract.env import ENV_CONFIG


def test_a_job_of_defaults_asks_for_nothing_unsupported() -> None:
    assert unsupported_fields(make_job().spec) == ""


def test_all_unsupported_fields_are_named_in_one_message() -> None:
    spec = make_job({"sync": {"algorithm": "Async", "compression": "Int8"}}).spec
    assert unsupported_fields(spec) == (
        "Not supported in this version: spec.sync.algorithm (use AllReduce), "
        "spec.sync.compression (use None)."
    )


@pytest.mark.parametrize(
    "workers", [{"gpus": 2}, {"gpus": 2, "gpuResource": "nvidia.com/mig-1g.5gb"}, {"gpus": 64}]
)
def test_more_gpus_than_a_worker_uses_are_rejected(workers: dict[str, Any]) -> None:
    """It trained on the first, and the others were idle."""
    refused = validate(make_job({"workers": workers}).spec)
    assert refused == (
        "NotSupportedYet",
        "Not supported in this version: spec.workers.gpus (a worker trains on one GPU: use 1, "
        "and more workers).",
    )


@pytest.mark.parametrize("gpus", [0, 1])
def test_one_gpu_or_none_is_accepted(gpus: int) -> None:
    assert validate(make_job({"workers": {"gpus": gpus}}).spec) is None
    parties = [{"name": "a", "gpus": gpus}, {"name": "b", "gpus": gpus}]
    assert validate(make_federation({"parties": parties}).spec) is None


def test_every_unsupported_field_exists_in_the_spec() -> None:
    unsupported = DistributedJobSpec(
        task=make_job().spec.task,
        image="i",
        adjustments={"a": {}},
        candidates=[{}],
        selection={"metric": "m"},
    )
    spec = msgspec.json.decode(msgspec.json.encode(unsupported))
    for name in unsupported_fields(unsupported).split(": ")[1].split(", "):
        path = name.split(" ")[0].removeprefix("spec.").split(".")
        assert path[0] in spec


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"strategy": {"name": "Krum"}}, "spec.strategy.name (use FedAvg, FedProx or FedAdam)"),
        ({"update": {"compression": "Int8"}}, "spec.update.compression (use None)"),
        ({"privacy": {"secureAggregation": {"threshold": 2}}}, "spec.privacy.secureAggregation"),
        ({"rounds": {"sampling": "BySize"}}, "spec.rounds.sampling (use Uniform)"),
        ({"adjustments": {"Fraction": {}}}, "spec.adjustments (leave it out)"),
        (
            {"parties": [{"name": "a"}, {"name": "b", "gpus": 2}]},
            "spec.parties.gpus (a party trains on one GPU: use 1, or 0 for the CPU)",
        ),
        ({"parties": [{"name": "a", "external": True}]}, "external parties cannot enroll yet"),
    ],
)
def test_an_unsupported_field_of_a_federation_is_rejected(
    spec: dict[str, Any], expected: str
) -> None:
    assert expected in unsupported_fields(make_federation(spec).spec)


def test_a_federation_may_have_external_parties_beside_a_local_quorum() -> None:
    parties = [{"name": "a"}, {"name": "b"}, {"name": "z", "external": True}]
    assert unsupported_fields(make_federation({"parties": parties}).spec) == ""


def test_arguments_too_large_for_an_environment_variable_are_rejected_by_field() -> None:
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


def test_the_largest_federation_with_the_largest_arguments_fits_the_environment() -> None:
    """The environment variable, its name and its end fit into the kernel's 32 pages."""
    parties = [{"name": f"{i:03}{'a' * 29}", "lr": 1 / 3, "external": True} for i in range(256)]
    parties[0]["external"] = False
    task = {"entrypoint": "a.b:C", "args": {"table": "x" * (ARGUMENT_BYTES - len('{"table":""}'))}}
    rounds = {"minParties": 1}
    job = make_federation({"task": task, "parties": parties, "rounds": rounds})
    assert validate(job.spec) is None
    assert len(f"{ENV_CONFIG}={config_of(job).encode()}\0".encode()) <= 32 * 4096


def nested(depth: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth - 2):  # the arguments themselves are a level, as is the innermost list
        made = [made]
    return made


@pytest.mark.parametrize(("depth", "is_refused"), [(100, False), (101, True), (500, True)])
def test_arguments_nested_too_deep_are_rejected_by_field(depth: int, is_refused: bool) -> None:
    args = {"a": nested(depth), "b": [[]] * 200}
    refused = make_federation({"parties": [{"name": "a", "args": args}, {"name": "b"}]}).rejection
    assert (refused is not None) is is_refused
    if refused is not None:
        assert refused.reason == "TooLarge"
        assert "Arguments of this job are nested more than 100 levels deep" in refused.message


def test_characters_that_the_api_server_escapes_count_once() -> None:
    """It writes `<` as six bytes; in the pod's configuration it is one."""
    task = {"entrypoint": "a.b:C", "args": {"table": "<" * (ARGUMENT_BYTES - 20)}}
    encoded = msgspec.json.encode(raw_job({"task": task})).replace(b"<", b"\\u003c")
    job = read_job(encoded).parse()
    assert job.rejection is not None, "six times as much is more than a spec may have"
    task["args"] = {"table": "<" * (ARGUMENT_BYTES // 3)}
    encoded = msgspec.json.encode(raw_job({"task": task})).replace(b"<", b"\\u003c")
    assert len(encoded) > ARGUMENT_BYTES
    assert read_job(encoded).parse().rejection is None


def party(name: str, claim: str) -> dict[str, Any]:
    return {"name": name, "data": {"claimName": claim}}


def claim_volume(claim: str) -> dict[str, Any]:
    return {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}


PARTIES = [party("a", "claim-a"), party("b", "claim-b")]
TLS_VOLUME = {"name": "v", "secret": {"secretName": "digits-trainyard-tls"}}
TLS_PROJECTED = {
    "name": "v",
    "projected": {
        "sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "x-trainyard-tls"}}]
    },
}
TLS_ENV = {
    "name": "KEY",
    "valueFrom": {"secretKeyRef": {"name": "digits-trainyard-tls", "key": "ca.crt"}},
}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"parties": [party("a", "one"), party("b", "one")]}, "spec.parties[b].data.claimName"),
        (
            {"parties": PARTIES, "state": {"claimName": "claim-a"}},
            "spec.parties[a].data.claimName",
        ),
        ({"parties": PARTIES, "template": claim_volume("claim-b")}, "spec.template.volumes[v]"),
        (
            {"state": {"claimName": "state"}, "template": claim_volume("state")},
            "spec.template.volumes[v]",
        ),
        ({"template": {"volumes": [TLS_VOLUME]}}, "spec.template.volumes[v]"),
        ({"template": {"volumes": [TLS_PROJECTED]}}, "spec.template.volumes[v]"),
        ({"template": {"env": [TLS_ENV]}}, "spec.template.env[KEY]"),
    ],
)
def test_a_federation_whose_template_reaches_what_is_private_is_forbidden(
    spec: dict[str, Any], field: str
) -> None:
    rejection = validate(make_federation(spec).spec)
    assert rejection is not None
    assert rejection.reason == "Forbidden"
    assert rejection.message.startswith(field)


def test_workers_may_not_mount_the_keys_of_a_job() -> None:
    rejection = validate(make_job({"workers": {"template": {"env": [TLS_ENV]}}}).spec)
    assert rejection is not None
    assert rejection.message.startswith("spec.workers.template.env[KEY]")


def test_claims_and_secrets_of_others_are_accepted() -> None:
    secret = {"name": "s", "secret": {"secretName": "settings"}}
    template = {"volumes": [*claim_volume("shared")["volumes"], secret]}
    assert validate(make_federation({"parties": PARTIES, "template": template}).spec) is None
