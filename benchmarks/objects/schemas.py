"""Variants of the DistributedJob's CRD that differ in what its schema says: pure."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

Node = dict[str, Any]
Path = tuple[str, ...]

_RULES = "x-kubernetes-validations"
_PRESERVED = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
FAMILIES = ("transitions", "name", "spec", "template", "resources", "fields")
"""Families of CEL rules; every rule is in exactly one."""
AS_IT_IS = "as it is"


def crd_variants(crd: Node) -> dict[str, Node]:
    """The CRD and its variants, each in an API group of its own, so that all are served at once."""
    edits: dict[str, Callable[[Node], Node]] = {
        AS_IT_IS: copy.deepcopy,
        "without descriptions": without_descriptions,
        "without CEL rules": lambda schema: without_rules(schema, *FAMILIES),
    }
    for family in FAMILIES:
        edits[f"without the rules of {family}"] = _without_family(family)
    edits["no schema"] = _preserving
    return {
        name: _edited_crd(crd, f"variant-{index:02d}.bench.trainyard.dev", edit)
        for index, (name, edit) in enumerate(edits.items())
    }


def _edited_crd(crd: Node, group: str, edit: Callable[[Node], Node]) -> Node:
    made = copy.deepcopy(crd)
    made["metadata"] = {"name": f"{crd['spec']['names']['plural']}.{group}"}
    made["spec"]["group"] = group
    for version in made["spec"]["versions"]:
        version["schema"]["openAPIV3Schema"] = edit(version["schema"]["openAPIV3Schema"])
    return made


def without_descriptions(schema: Node) -> Node:
    """The schema without its texts; a property of that name stays."""

    def edit(node: Node, _: Path) -> Node:
        return {k: v for k, v in node.items() if k != "description" or not isinstance(v, str)}

    return _edited_schema(schema, edit)


def without_rules(schema: Node, *families: str) -> Node:
    """The schema without the CEL rules of these families."""

    def edit(node: Node, path: Path) -> Node:
        if _RULES not in node:
            return node
        rules = [r for r in node[_RULES] if family_of(path, r["rule"]) not in families]
        rest = {key: value for key, value in node.items() if key != _RULES}
        return {**rest, _RULES: rules} if rules else rest

    return _edited_schema(schema, edit)


def family_of(path: Path, rule: str) -> str:
    """The family of a rule: by whether it compares with the old object, then by where it is."""
    if "oldSelf" in rule:
        return "transitions"
    fields = [part for part in path if part not in ("properties", "items", "additionalProperties")]
    match fields:
        case []:
            return "name"
        case ["spec"]:
            return "spec"
        case ["spec", "workers", "template", *_]:
            return "template"
        case _:
            return "resources" if "resources" in fields else "fields"


def _without_family(family: str) -> Callable[[Node], Node]:
    return lambda schema: without_rules(schema, family)


def _preserving(_: Node) -> Node:
    return {"type": "object", "properties": {"spec": _PRESERVED, "status": _PRESERVED}}


def _edited_schema(schema: Node, edit: Callable[[Node, Path], Node]) -> Node:
    edited: Node = _mapped(schema, edit)
    return edited


def _mapped(node: Any, edit: Callable[[Node, Path], Node], path: Path = ()) -> Any:
    if isinstance(node, dict):
        return {k: _mapped(v, edit, (*path, k)) for k, v in edit(node, path).items()}
    if isinstance(node, list):
        return [_mapped(value, edit, path) for value in node]
    return node
