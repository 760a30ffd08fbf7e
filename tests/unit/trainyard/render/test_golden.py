"""A resource in, manifests out: compared with files that people can read.

`golden/README.md` says how to regenerate them after an intended change.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.jobs import NETWORK
from trainyard.api.jobs import DistributedJob, FederatedJob, Job, parse_job
from trainyard.render.events import EventSpec, event
from trainyard.render.fetch_pod import fetch_pod
from trainyard.render.network import namespace_service
from trainyard.render.pods import coordinator_pod, party_pod, worker_pod
from trainyard.render.secrets import leaf_secret

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.name.removesuffix(".job.yaml") for path in GOLDEN.glob("*.job.yaml"))
ITEMS = {f"{name}": name.encode() for name in ("ca.crt", "worker.crt", "worker.key")}


def job_of(case: str) -> Job:
    return parse_job(yaml.safe_load((GOLDEN / f"{case}.job.yaml").read_text()))


def children_of(job: Job) -> list[dict[str, Any]]:
    """One of each kind of child."""
    spec = EventSpec(type="Normal", reason="GrowPays", message="growing 2→4")
    return [
        namespace_service(job.key.namespace, NETWORK.service),
        leaf_secret(job, ITEMS, {"trainyard.dev/certificates": "{}"}),
        coordinator_pod(job, 2, NETWORK),
        *members_of(job),
        fetch_pod(job, "fetch"),
        event(job, spec, "2026-07-01T12:00:00Z", "operator-0"),
    ]


def members_of(job: Job) -> list[dict[str, Any]]:
    match job:
        case DistributedJob():
            return [worker_pod(job, 3, 1, NETWORK)]
        case FederatedJob():
            return [party_pod(job, party.name, 2, NETWORK) for party in job.spec.local_parties]


@pytest.mark.parametrize("case", CASES)
def test_the_jobs_are_accepted(case: str) -> None:
    assert job_of(case).rejection is None


@pytest.mark.parametrize("case", CASES)
def test_children_are_as_in_the_golden_file(case: str) -> None:
    path = GOLDEN / f"{case}.children.yaml"
    children = children_of(job_of(case))
    if os.environ.get("TRAINYARD_REGENERATE"):
        text = yaml.dump_all(children, Dumper=_Plain, sort_keys=False, allow_unicode=True)
        path.write_text(text)
    assert children == list(yaml.safe_load_all(path.read_text()))


class _Plain(yaml.SafeDumper):
    """Repeats shared parts instead of referring to them, as people read these."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def test_there_are_golden_files_for_every_case_and_no_others() -> None:
    written = {path.name.removesuffix(".children.yaml") for path in GOLDEN.glob("*.children.yaml")}
    assert written == set(CASES)
    assert len(CASES) == 4
