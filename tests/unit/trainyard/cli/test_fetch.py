"""How users name the job whose model they fetch."""

from __future__ import annotations

import pytest

from trainyard.api.names import DISTRIBUTED_JOB, FEDERATED_JOB, Key
from trainyard.cli.fetch import FetchError, parse_target


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("digits", DISTRIBUTED_JOB),
        ("dj/digits", DISTRIBUTED_JOB),
        ("DistributedJob/digits", DISTRIBUTED_JOB),
        ("distributedjob.trainyard.dev/digits", DISTRIBUTED_JOB),
        ("fj/digits", FEDERATED_JOB),
        ("federatedjobs/digits", FEDERATED_JOB),
        ("federatedjob.trainyard.dev/digits", FEDERATED_JOB),
    ],
)
def test_a_job_is_named_as_kubectl_names_it(text: str, kind: str) -> None:
    assert parse_target(text, "team") == Key(kind, "team", "digits")


def test_anything_but_a_job_is_refused() -> None:
    with pytest.raises(FetchError, match="write dj/NAME or fj/NAME"):
        parse_target("pod/digits", "team")
