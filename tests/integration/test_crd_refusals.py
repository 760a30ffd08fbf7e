"""What the API server makes of wrong and right jobs of both kinds, without any webhook.

Each refusal must name the field and say how to mend it: the fragments are in the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kubernetes import client

from tests.integration.crd_cases import KINDS, STARTED, STATES, Jobs, Kind, merged, refusal

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.plural)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(scope="module")
def jobs(api: client.ApiClient, namespace: str, kind: Kind) -> Jobs:
    return Jobs(api, namespace, kind)


def cases(section: str) -> pytest.MarkDecorator:
    """The cases of a section, each with its kind."""
    found = [
        pytest.param(kind, case, id=f"{kind.plural}: {name}")
        for kind in KINDS
        for name, case in kind.table[section].items()
    ]
    return pytest.mark.parametrize(("kind", "case"), found, indirect=["kind"], scope="module")


@contextmanager
def stored(jobs: Jobs, case: dict[str, Any]) -> Iterator[str]:
    """A job in the state that the case starts from."""
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
def test_a_wrong_job_is_refused_with_a_sentence_that_mends_it(
    jobs: Jobs, case: dict[str, Any]
) -> None:
    with pytest.raises(client.ApiException) as caught:
        jobs.create(merged(jobs.kind.base, case["patch"]))
    assert caught.value.status in (400, 422)
    assert_says(refusal(caught.value), case["says"])


@cases("refused updates")
def test_a_wrong_update_is_refused_with_a_sentence_that_mends_it(
    jobs: Jobs, case: dict[str, Any]
) -> None:
    with stored(jobs, case) as name, pytest.raises(client.ApiException) as caught:
        jobs.patch(name, case["patch"])
    assert caught.value.status == 422
    assert_says(refusal(caught.value), case["says"])


def test_every_rule_of_the_schema_has_a_case(jobs: Jobs) -> None:
    heard = "\n".join(refusals(jobs))
    silent = [rule for rule in rules(jobs.kind.schema) if not re.search(spoken(rule), heard)]
    assert [rule["message"] for rule in silent] == []


def refusals(jobs: Jobs) -> Iterator[str]:
    """What the API server says to all the wrong jobs and updates of the table."""
    for case in jobs.kind.table["refused"].values():
        with pytest.raises(client.ApiException) as caught:
            jobs.create(merged(jobs.kind.base, case["patch"]))
        yield refusal(caught.value)
    for case in jobs.kind.table["refused updates"].values():
        with stored(jobs, case) as name, pytest.raises(client.ApiException) as caught:
            jobs.patch(name, case["patch"])
        yield refusal(caught.value)


def rules(schema: Any) -> Iterator[dict[str, str]]:
    """Every CEL rule of a schema, wherever it stands."""
    if isinstance(schema, dict):
        yield from schema.get("x-kubernetes-validations", [])
        for child in schema.values():
            yield from rules(child)


def spoken(rule: dict[str, str]) -> str:
    """A pattern of the sentence that a rule speaks."""
    if "messageExpression" not in rule:
        return re.escape(rule["message"])
    (template,) = re.findall(r"^\s*'(.*)'\s*\.format\(", rule["messageExpression"], re.DOTALL)
    return re.sub("%[ds]", ".+", re.escape(template))


@cases("accepted")
def test_a_right_job_is_accepted(jobs: Jobs, case: dict[str, Any]) -> None:
    assert jobs.create(merged(jobs.kind.base, case["patch"]))["spec"]


@cases("accepted updates")
def test_a_right_update_is_accepted(jobs: Jobs, case: dict[str, Any]) -> None:
    with stored(jobs, case) as name:
        assert jobs.patch(name, case["patch"])["spec"]


def test_a_refusal_of_one_field_speaks_of_no_other(jobs: Jobs) -> None:
    with pytest.raises(client.ApiException) as caught:
        jobs.create(merged(jobs.kind.base, {"spec": {"image": ""}}))
    assert refusal(caught.value).count("spec.") == 1


def assert_says(sentence: str, fragments: list[str]) -> None:
    missing = [fragment for fragment in fragments if fragment not in sentence]
    assert not missing, f"{missing} not in: {sentence}"
