"""Validation of jobs of both kinds by the API server alone, without a webhook.

Each error must name the field and say how to fix it; the tables hold fragments of the messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kubernetes import client

from tests.integration.crd_cases import KINDS, STARTED, STATES, Jobs, Kind, error_message, merged

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.plural)
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture(scope="module")
def jobs(api: client.ApiClient, namespace: str, kind: Kind) -> Jobs:
    return Jobs(api, namespace, kind)


def cases(section: str) -> pytest.MarkDecorator:
    """Parametrize a test with the cases of a section, each with its kind."""
    params = [
        pytest.param(kind, case, id=f"{kind.plural}: {name}")
        for kind in KINDS
        for name, case in kind.table[section].items()
    ]
    return pytest.mark.parametrize(("kind", "case"), params, indirect=["kind"], scope="module")


@contextmanager
def stored(jobs: Jobs, case: dict[str, Any]) -> Iterator[str]:
    """Store a job in the state that the case starts from, and yield its name."""
    is_suspended, has_started = STATES[case["state"]]
    manifest = merged(
        merged(jobs.kind.base, {"spec": {"suspend": is_suspended}}), case.get("from", {})
    )
    manifest["metadata"] = {"generateName": "stored-"}
    name = jobs.create(manifest, dry_run=False)["metadata"]["name"]
    if has_started:
        jobs.patch_status(name, STARTED)
    try:
        yield name
    finally:
        jobs.delete(name)


@cases("refused")
def test_an_invalid_job_is_rejected_with_a_message_that_helps(
    jobs: Jobs, case: dict[str, Any]
) -> None:
    with pytest.raises(client.ApiException) as caught:
        jobs.create(merged(jobs.kind.base, case["patch"]))
    assert caught.value.status in (400, 422)
    assert_contains(error_message(caught.value), case["message"])


@cases("refused updates")
def test_an_invalid_update_is_rejected_with_a_message_that_helps(
    jobs: Jobs, case: dict[str, Any]
) -> None:
    with stored(jobs, case) as name, pytest.raises(client.ApiException) as caught:
        jobs.patch(name, case["patch"])
    assert caught.value.status == 422
    assert_contains(error_message(caught.value), case["message"])


def test_every_rule_of_the_schema_has_a_case(jobs: Jobs) -> None:
    messages = "\n".join(error_messages(jobs))
    untested = [r for r in rules(jobs.kind.schema) if not re.search(message_pattern(r), messages)]
    assert [rule["message"] for rule in untested] == []


def error_messages(jobs: Jobs) -> Iterator[str]:
    """Yield the API server's error messages for all invalid jobs and updates of the table."""
    for case in jobs.kind.table["refused"].values():
        with pytest.raises(client.ApiException) as caught:
            jobs.create(merged(jobs.kind.base, case["patch"]))
        yield error_message(caught.value)
    for case in jobs.kind.table["refused updates"].values():
        with stored(jobs, case) as name, pytest.raises(client.ApiException) as caught:
            jobs.patch(name, case["patch"])
        yield error_message(caught.value)


def rules(schema: Any) -> Iterator[dict[str, str]]:
    """Yield every CEL rule of a schema, at any depth."""
    if isinstance(schema, dict):
        yield from schema.get("x-kubernetes-validations", [])
        for child in schema.values():
            yield from rules(child)


def message_pattern(rule: dict[str, str]) -> str:
    """Return a pattern that matches the messages of a rule."""
    if "messageExpression" not in rule:
        return re.escape(rule["message"])
    (template,) = re.findall(r"^\s*'(.*)'\s*\.format\(", rule["messageExpression"], re.DOTALL)
    return re.sub("%[ds]", ".+", re.escape(template))


@cases("accepted")
def test_a_valid_job_is_accepted(jobs: Jobs, case: dict[str, Any]) -> None:
    assert jobs.create(merged(jobs.kind.base, case["patch"]))["spec"]


@cases("accepted updates")
def test_a_valid_update_is_accepted(jobs: Jobs, case: dict[str, Any]) -> None:
    with stored(jobs, case) as name:
        assert jobs.patch(name, case["patch"])["spec"]


def test_an_error_in_one_field_names_no_other_field(jobs: Jobs) -> None:
    with pytest.raises(client.ApiException) as caught:
        jobs.create(merged(jobs.kind.base, {"spec": {"image": ""}}))
    assert error_message(caught.value).count("spec.") == 1


def assert_contains(message: str, fragments: list[str]) -> None:
    missing = [fragment for fragment in fragments if fragment not in message]
    assert not missing, f"{missing} not in: {message}"
