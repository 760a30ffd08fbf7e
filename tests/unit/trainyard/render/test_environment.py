"""What a job says arrives in its pods as it is written, whatever Kubernetes does with variables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.expansion import environment_of, expand
from tests.support.federations import make_federation
from tests.support.jobs import NETWORK, make_job
from trainyard.api.jobs import Job
from trainyard.render.environment import variable
from trainyard.render.fetch_pod import fetch_pod
from trainyard.render.pods import coordinator_pod, party_pod, worker_pod
from trainyard.render.trainer_config import config_of
from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import ENV_CONFIG, ENV_JOB, ENV_STATE
from trainyard_trainer.contract.federated import FederatedConfig

ARGS: dict[str, Any] = {
    "pattern": "price in US$$ (not US$)",
    "template": "run-$(TRAINYARD_JOB)-$(TRAINYARD_NAMESPACE)",
    "$(TRAINYARD_POD)": ["$", "$$$", "$(", "$)", {"nested": "$(HOME)"}],
}
TEXTS = st.text(st.sampled_from("$()AB=é\n") | st.characters(exclude_categories=["Cs"]))


def environment(pod: dict[str, Any]) -> dict[str, str]:
    (container,) = pod["spec"]["containers"]
    return environment_of(container["env"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$(MISSING)", "$(MISSING)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("$($(A))", "$($(A))"),
        ("$(A)$(B)", "12 $(A)"),
    ],
)
def test_the_kubelet_of_these_tests_expands_as_the_real_one(text: str, expected: str) -> None:
    """Cases of `expansion_test.go`; what was replaced is not expanded again."""
    assert expand(text, {"A": "1", "B": "2 $(A)"}) == expected


@given(value=TEXTS, defined=st.dictionaries(TEXTS, TEXTS))
def test_a_variable_arrives_as_it_is_written(value: str, defined: dict[str, str]) -> None:
    assert expand(variable("NAME", value)["value"], defined) == value


def test_dollars_in_the_arguments_of_a_distributed_job_arrive() -> None:
    job = make_job({"task": {"entrypoint": "a.b:C", "args": ARGS}, "training": {"init": "$(A)$$"}})
    config = JobConfig.decode(environment(coordinator_pod(job, 1, NETWORK))[ENV_CONFIG])
    assert config == config_of(job)
    assert (config.args, config.init) == (ARGS, "$(A)$$")


def test_dollars_in_the_arguments_of_a_federation_arrive() -> None:
    job = make_federation(
        {
            "task": {"entrypoint": "a.b:C", "args": ARGS},
            "parties": [{"name": "ann", "args": ARGS}, {"name": "bob"}],
            "strategy": {"name": "FedAvg", "args": ARGS},
            "training": {"optimizer": {"name": "SGD", "lr": 0.1, "args": ARGS}},
        }
    )
    config = FederatedConfig.decode(environment(coordinator_pod(job, 1, NETWORK))[ENV_CONFIG])
    assert config == config_of(job)
    assert config.optimizer is not None
    assert (config.args, config.parties[0].args) == (ARGS, ARGS)
    assert (config.strategy.args, config.optimizer.args) == (ARGS, ARGS)


@given(text=TEXTS)
def test_no_argument_changes_on_its_way(text: str) -> None:
    task = {"entrypoint": "a.b:C", "args": {"text": text, text: 1}}
    job = make_job({"task": task})
    variables = environment(coordinator_pod(job, 1, NETWORK))
    assert JobConfig.decode(variables[ENV_CONFIG]) == config_of(job)


@pytest.mark.parametrize("job", [make_job(name="a$(b)$$"), make_federation(name="a$(b)$$")])
def test_names_arrive_in_every_pod(job: Job) -> None:
    coordinator = environment(coordinator_pod(job, 1, NETWORK))
    assert (coordinator[ENV_JOB], coordinator[ENV_STATE]) == (job.key.name, f"a$(b)$$/{job.uid}")
    assert environment(fetch_pod(job, "fetch"))[ENV_STATE] == f"a$(b)$$/{job.uid}"


def test_the_templates_variables_keep_the_expansion_of_kubernetes() -> None:
    env = [
        {"name": "PRICE", "value": "US$$"},
        {"name": "LOGS", "value": "/logs/$(TRAINYARD_JOB)/$(PRICE)"},
        {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
    ]
    parties = [{"name": "ann"}]
    pods = (
        worker_pod(make_job({"workers": {"template": {"env": env}}}), 0, 1, NETWORK),
        party_pod(
            make_federation({"parties": parties, "template": {"env": env}}), "ann", 1, NETWORK
        ),
    )
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["env"][-3:] == env
        assert environment(pod)["LOGS"] == "/logs/digits/US$"
