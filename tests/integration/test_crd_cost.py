"""What the rules of the CRDs cost the API server, weighed by the schema.

Every write evaluates every rule of the object, and each access to a field copies the schemas of
all properties of its object: `Structural.Properties` in `pkg/apiserver/schema/cel/model/adaptor.go`
of apiextensions-apiserver, called by `UnstructuredToVal` and by `unstructuredMap.Find` and `Equal`
in `pkg/cel/common/valuesunstructured.go` of apiserver (Kubernetes 1.37). With n(o) the number of
properties of an object, the copies are

    o.f, o.?f or has(o.f)        2 n(o) + n(f)
    an item i of a list          n(i)
    o == p, for each property f  5 n(o) + 2 n(f), and so on below f

Only what decides a rule counts: the first alternative of `a || b`, for an object that has the
fields which every job has, and one item in each list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.integration.crd_cases import KINDS, Kind, fields_of

Schema = dict[str, Any]

BUDGETS: Final = {"distributedjobs": 2850, "federatedjobs": 3950}
"""Copies for one write of a job; another field of the spec that cannot change takes some 180."""
RULE_BUDGET: Final = 400
"""Copies for one rule."""
ADVICE: Final = (
    "Begin with the cheapest comparison that decides the rule for nearly every write, move the rule"
    " to the smallest object that has all its fields, and bind an object that it reads several"
    " times: [self.training].all(t, ...). docs/decisions/0039-cheap-rules.md has the rest."
)

STRING: Final = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"")
CHAIN: Final = re.compile(r"(?<![\w.?])([A-Za-z]\w*)((?:\.\??[A-Za-z]\w*(?!\w*\())*)(?![\w(])")
MACRO: Final = re.compile(r"(?:\[([\w.?]+)\]|([\w.?]+))\.(?:all|exists|map|filter)\((\w+),")
COMPARED: Final = re.compile(r"\s*(?:==|in \[)")


def copies_of_rule(rule: str, scope: Schema) -> int:
    """The copies of schemas that deciding a rule takes."""
    decisive = _first_alternative(STRING.sub("''", rule))
    variables = {"self": scope, "oldSelf": scope}
    copies = 0
    for bound, listed, name in MACRO.findall(decisive):
        schema = _schema_at(bound or listed, variables)
        variables[name] = schema if bound else schema.get("items", {})
        copies += 0 if bound else _size(variables[name])
    for chain in CHAIN.finditer(decisive):
        if chain[1] in variables:
            copies += _copies_of_chain(chain, decisive, variables)
    return copies


def _copies_of_chain(chain: re.Match[str], rule: str, variables: dict[str, Schema]) -> int:
    schema, copies, is_optional = variables[chain[1]], 0, False
    for name in chain[2].split(".")[1:]:
        child = _property(schema, name.lstrip("?"))
        copies += 2 * _size(schema) + _size(child)
        schema, is_optional = child, name.startswith("?")
    if COMPARED.match(rule, chain.end()) and not is_optional:
        copies += _copies_of_equality(schema)
    return copies


def _copies_of_equality(schema: Schema) -> int:
    if "items" in schema:
        return 2 * _size(schema["items"]) + _copies_of_equality(schema["items"])
    return sum(
        5 * _size(schema) + 2 * _size(child) + _copies_of_equality(child)
        for name, child in schema.get("properties", {}).items()
        if _is_always_set(schema, name)
    )


def _first_alternative(rule: str) -> str:
    depth = 0
    for index, character in enumerate(rule):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and rule.startswith("||", index):
            return rule[:index]
    return rule


def _schema_at(path: str, variables: dict[str, Schema]) -> Schema:
    variable, *names = path.split(".")
    schema = variables.get(variable, {})
    for name in names:
        schema = _property(schema, name.lstrip("?"))
    return schema


def _property(schema: Schema, name: str) -> Schema:
    child: Schema = schema.get("properties", {}).get(name, {})
    return child


def _size(schema: Schema) -> int:
    return len(schema.get("properties", {}))


def _is_always_set(schema: Schema, name: str) -> bool:
    return name in schema.get("required", ()) or "default" in schema["properties"][name]


def scopes_of_every_job(schema: Schema) -> Iterator[Schema]:
    """Yield the schema and, below it, those of the fields that every job has."""
    yield schema
    if schema.get("minItems"):
        yield from scopes_of_every_job(schema["items"])
    for name, child in schema.get("properties", {}).items():
        if _is_always_set(schema, name):
            yield from scopes_of_every_job(child)


def rules_of(schema: Schema) -> list[str]:
    return [rule["rule"] for rule in schema.get("x-kubernetes-validations", [])]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_the_rules_of_a_write_are_within_the_budget(kind: Kind) -> None:
    copies = [
        (copies_of_rule(rule, scope), rule)
        for scope in scopes_of_every_job(kind.schema)
        for rule in rules_of(scope)
    ]
    total, budget = sum(count for count, _ in copies), BUDGETS[kind.plural]
    heaviest = "\n".join(f"{count:5} {rule}" for count, rule in sorted(copies, reverse=True)[:10])
    assert total <= budget, f"{total} copies, above {budget}. {ADVICE} The heaviest:\n{heaviest}"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_no_single_rule_is_expensive(kind: Kind) -> None:
    schemas = [kind.schema, *(field.schema for field in fields_of(kind.schema))]
    expensive = [
        (copies, rule)
        for schema in schemas
        for rule in rules_of(schema)
        if (copies := copies_of_rule(rule, schema)) > RULE_BUDGET
    ]
    assert expensive == [], ADVICE


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_a_transition_rule_begins_with_its_comparison(kind: Kind) -> None:
    schemas = [kind.schema, *(field.schema for field in fields_of(kind.schema))]
    late = [
        rule
        for schema in schemas
        for rule in rules_of(schema)
        if "oldSelf" in rule and not rule.startswith("oldSelf.hasValue() ||")
        for first in [_first_alternative(STRING.sub("''", rule))]
        if not re.search(r"\bself\b", first) or "oldSelf" not in first
    ]
    assert late == [], ADVICE


def _object(*names: str, **children: Schema) -> Schema:
    leaves: dict[str, Schema] = {name: {"type": "string"} for name in names}
    return {"required": [*names], "properties": leaves | children}


SPEC: Final = _object("a", "b", "c", inner=_object("x", "y"))
ROOT: Final = _object("kind", spec=SPEC, parties={"type": "array", "items": _object("p", "q")})


@pytest.mark.parametrize(
    ("rule", "copies"),
    [
        ("self.kind == 'self.spec.a'", 2 * 3),
        ("self.spec.a == oldSelf.spec.a", 2 * ((2 * 3 + 4) + 2 * 4)),
        ("self.spec.?inner.?x.orValue('') == ''", (2 * 3 + 4) + (2 * 4 + 2) + 2 * 2),
        ("has(self.spec.a) || self.spec.b == ''", (2 * 3 + 4) + 2 * 4),
        ("(has(self.spec.a) || self.kind == '') && true", (2 * 3 + 4) + 2 * 4 + 2 * 3),
        ("[self.spec].all(s, s.a == s.b)", (2 * 3 + 4) + 2 * (2 * 4)),
        ("self.parties.all(p, p.q.matches('^x'))", 2 * 3 + 2 + 2 * 2),
        ("self.spec.inner == oldSelf.spec.inner", 2 * ((2 * 3 + 4) + (2 * 4 + 2)) + 2 * (5 * 2)),
        ("self.spec.?inner in [oldSelf.spec.?inner]", 2 * ((2 * 3 + 4) + (2 * 4 + 2))),
        ("self.parties == oldSelf.parties", 2 * (2 * 3) + 2 * 2 + 2 * (5 * 2)),
        ("size(self.parties) > 0", 2 * 3),
    ],
)
def test_a_rule_is_weighed_by_its_accesses(rule: str, copies: int) -> None:
    assert copies_of_rule(rule, ROOT) == copies
