"""This tree and a next version, with one more optional field, decode each other's messages.

`tests/e2e/test_version_skew.py` runs the same next version in a cluster.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e import next_version
from tests.support.federations import PARTIES, make_federation
from tests.support.jobs import make_job
from tools.localcluster.images import REPOSITORY
from trainyard.api.jobs import Job
from trainyard.lifecycle.desired import DesiredPods, DesiredState, Phase
from trainyard.render.trainer_config import config_of, plan_of
from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.federated import FederatedConfig, FederatedPlan
from trainyard_trainer.contract.plan import Plan

Message = JobConfig | Plan | FederatedConfig | FederatedPlan
MESSAGES: list[type[Message]] = [JobConfig, Plan, FederatedConfig, FederatedPlan]


def rendered() -> list[str]:
    """A message of each class, rendered by the operator of the tree that runs this."""
    workers = DesiredPods(coordinator=True, members=range(2))
    parties = DesiredPods(coordinator=True, members=PARTIES, member_role=Role.PARTY)
    pairs: list[tuple[Job, DesiredPods]] = [(make_job(), workers), (make_federation(), parties)]
    messages = []
    for job, pods in pairs:
        plan = plan_of(job, DesiredState(phase=Phase.RUNNING, pods=pods), None)
        assert plan is not None
        messages += [config_of(job).encode(), plan.encode()]
    return messages


def in_next_version(folder: Path, script: str, *arguments: str) -> str:
    """The output of a script that imports this module and the next version."""
    paths = (folder / "operator", folder / "trainer-image", REPOSITORY)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-c", f"from {__name__} import *; {script}", *arguments]
    return subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The next version's code."""
    created = tmp_path_factory.mktemp("next")
    next_version.write_tree(created)
    return created


def test_messages_of_the_next_version_are_decoded(folder: Path) -> None:
    texts = json.loads(in_next_version(folder, "print(json.dumps(rendered()))"))
    assert [text.count('"hint": "next"') for text in texts] == [1, 1, 5, 5]
    for cls, text, own in zip(MESSAGES, texts, rendered(), strict=True):
        assert cls.decode(text) == cls.decode(own)


def test_the_next_version_decodes_our_messages(folder: Path) -> None:
    script = "print([cls.decode(t).hint for cls, t in zip(MESSAGES, sys.argv[1:])])"
    assert in_next_version(folder, script, *rendered()) == "['', '', '', '']\n"
