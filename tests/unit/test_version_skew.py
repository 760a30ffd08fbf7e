"""This tree and a later version, with one more optional field, read each other's messages.

`tests/e2e/test_version_skew.py` runs the same later version in a cluster.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e import later
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
    """A message of each class, as the operator of the tree that runs this sends it."""
    workers = DesiredPods(coordinator=True, members=range(2))
    parties = DesiredPods(coordinator=True, members=PARTIES, member_role=Role.PARTY)
    pairs: list[tuple[Job, DesiredPods]] = [(make_job(), workers), (make_federation(), parties)]
    found = []
    for job, pods in pairs:
        plan = plan_of(job, DesiredState(phase=Phase.RUNNING, pods=pods), None)
        assert plan is not None
        found += [config_of(job).encode(), plan.encode()]
    return found


def in_later_version(folder: Path, script: str, *arguments: str) -> str:
    """What a script prints that imports the later version, and this module."""
    places = (folder / "operator", folder / "trainer-image", REPOSITORY)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    command = [sys.executable, "-c", f"from {__name__} import *; {script}", *arguments]
    return subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The later version's code."""
    made = tmp_path_factory.mktemp("later")
    later.write_tree(made)
    return made


def test_messages_of_a_later_version_are_read(folder: Path) -> None:
    sent = json.loads(in_later_version(folder, "print(json.dumps(rendered()))"))
    assert [text.count('"hint": "later"') for text in sent] == [1, 1, 5, 5]
    for cls, text, own in zip(MESSAGES, sent, rendered(), strict=True):
        assert cls.decode(text) == cls.decode(own)


def test_a_later_version_reads_our_messages(folder: Path) -> None:
    script = "print([cls.decode(t).hint for cls, t in zip(MESSAGES, sys.argv[1:])])"
    assert in_later_version(folder, script, *rendered()) == "['', '', '', '']\n"
