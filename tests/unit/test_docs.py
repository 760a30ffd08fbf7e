"""The documents say what the code is: links, names, fields and reasons are checked against it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client import Metric as Family

from trainyard.api.conditions import ConditionType
from trainyard.api.reasons import Reason
from trainyard.lifecycle.desired import Phase
from trainyard.lifecycle.parties import PartyPodState
from trainyard.reconcile.metrics import OperatorMetrics
from trainyard_trainer.contract.exits import Exit
from trainyard_trainer.contract.federated import PartyState
from trainyard_trainer.contract.metrics import Metric

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
DECISIONS: Final = DOCS / "decisions"
CHART: Final = ROOT / "manifests" / "charts" / "trainyard"
GUIDES: Final = {
    "DistributedJob": (
        "distributedjob-reference.md",
        ROOT / "crds" / "distributedjobs.trainyard.dev.yaml",
    ),
    "FederatedJob": ("federatedjob.md", ROOT / "crds" / "federatedjobs.trainyard.dev.yaml"),
}
"""By kind: its guide and its CRD."""

SECTIONS: Final = ["Context", "Decision", "Consequences", "Alternatives"]
FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CONDITION: Final = re.compile(r'\bcondition\(\s*ConditionType\.\w+,\s*"\w+",\s*"(\w+)"')
CAMEL_CASE: Final = re.compile(r'"([A-Z][a-z]+(?:[A-Z][a-z]+)+)"')
REFUSED: Final = re.compile(r'^    \("([\w.]+)", lambda', re.MULTILINE)

LATER: Final = ("candidates", "selection", "adjustments")
"""Groups of fields that are refused as a whole in this version."""

FOREIGN: Final = {
    "a path of somebody's machine": re.compile(r"(?<![\w.~-])/(?:work|root)/"),
    "a host that packages come from": re.compile(
        r"\bpypi\.org/simple|\bfiles\.pythonhosted\.org|\bproxy\.golang\.org|\bsum\.golang\.org"
        r"|\bdownload\.pytorch\.org|\bregistry\.npmjs\.org|\bdeb\.debian\.org|\bghcr\.io|\bquay\.io"
        r"|\bregistry-1\.docker\.io|https?://\S+/simple\b"
    ),
}
EXCUSED: Final = {
    "tests/unit/test_docs.py": set(FOREIGN),
    # Paths in the image being built.
    "operator/Containerfile": {"a path of somebody's machine"},
    "trainer-image/Containerfile": {"a path of somebody's machine"},
}


def tracked() -> list[Path]:
    """The files of the repository: those in git, and new ones that it does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    ).stdout.split("\n")
    found = [ROOT / name for name in listed if name]
    if not found:  # an archive without its history
        found = [path for path in ROOT.rglob("*") if ".venv" not in path.parts]
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def documents() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".md"]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """The fragments under which a document's headings are reached."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {word.replace(" ", "-") for word in words}


@pytest.mark.parametrize("document", documents(), ids=relative)
def test_links_lead_somewhere(document: Path) -> None:
    for link in LINK.findall(without_code(document.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        if fragment:
            assert fragment in anchors(target.read_text()), f"{link}: no such heading"


def metric_names() -> list[str]:
    return [
        value
        for name, value in vars(Metric).items()
        if not name.startswith("_") and isinstance(value, str)
    ]


@pytest.mark.parametrize("name", metric_names())
def test_every_metric_of_training_is_documented(name: str) -> None:
    text = (DOCS / "metrics.md").read_text()
    assert re.search(rf"`{name}(_total)?`", text), f"{name} is not in docs/metrics.md"


def test_the_documented_metrics_of_training_exist() -> None:
    told = re.findall(r"^\| `(trainyard_training_\w+?)(?:_total)?` \|", text_of("metrics.md"), re.M)
    assert sorted(told) == sorted(metric_names())


def test_the_metrics_of_the_operator_are_documented() -> None:
    families: list[Family] = list(OperatorMetrics().registry.collect())
    names = {f.name + ("_total" if f.type == "counter" else "") for f in families}
    told = set(re.findall(r"^\| `(trainyard_operator_\w+)` \|", text_of("metrics.md"), re.M))
    assert told == names


def text_of(name: str) -> str:
    return (DOCS / name).read_text()


@pytest.mark.parametrize("word", [*Reason, *ConditionType, *Phase])
def test_every_reason_condition_and_phase_is_documented(word: str) -> None:
    assert f"`{word}`" in text_of("distributedjob-reference.md")


def test_every_reason_of_a_condition_is_documented() -> None:
    files = ("stages.py", "conditions.py", "failures.py")
    guides = "".join(text_of(guide) for guide, _ in GUIDES.values())
    code = "".join((ROOT / "operator/trainyard/lifecycle" / name).read_text() for name in files)
    reasons = {word for word in CAMEL_CASE.findall(code) if "Image" not in word}
    stated = set(CONDITION.findall(code))
    assert len(stated) > 10, "the pattern no longer finds the conditions"
    reasons |= stated
    assert len(reasons) > 15, "the patterns no longer find the reasons"
    assert [r for r in sorted(reasons) if f"`{r}`" not in guides] == []


def test_every_field_of_a_later_version_is_named() -> None:
    fields = REFUSED.findall((ROOT / "operator/trainyard/api/validation.py").read_text())
    assert len(fields) > 5, "the pattern no longer finds the fields"
    sections = ""
    for guide, _ in GUIDES.values():
        _, _, rest = text_of(guide).partition("### Fields of later versions")
        sections += rest.partition("\n## ")[0]
    assert [field for field in fields if field not in sections] == []


def test_every_exit_code_is_documented() -> None:
    told = re.findall(r"^\| (\d+) \|", text_of("distributedjob-reference.md"), re.MULTILINE)
    assert sorted(map(int, told)) == sorted(Exit)


def test_the_rights_in_the_chart_are_documented() -> None:
    files = (CHART / "templates").glob("*")
    granted = re.findall(
        r"resources: \[(.+)\]\n +verbs: \[(.+)\]", "".join(f.read_text() for f in files)
    )
    told = re.findall(r"^\| [\w ]*\| `([\w/, ]+)` \| ([a-z, ]+) \|", text_of("install.md"), re.M)
    assert sorted(told) == sorted(granted)


def decisions() -> list[Path]:
    return sorted(DECISIONS.glob("[0-9]*.md"))


@pytest.mark.parametrize("decision", decisions(), ids=lambda path: path.stem)
def test_a_decision_has_number_status_and_sections(decision: Path) -> None:
    text = decision.read_text()
    number = int(decision.name[:4])
    assert text.startswith(f"# {number}. ")
    assert re.search(r"^Status: (accepted|replaced by)", text, re.MULTILINE)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS


def test_decisions_are_numbered_without_gaps_and_listed() -> None:
    names = [path.name for path in decisions()]
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    assert LINK.findall((DECISIONS / "README.md").read_text()) == names


@pytest.mark.parametrize("kind", FOREIGN)
def test_no_file_refers_to_the_outside_of_the_project(kind: str) -> None:
    found = []
    for path in tracked():
        name = relative(path)
        if kind in EXCUSED.get(name, set()) or name.endswith(("go.sum", "LICENSE")):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{name}: {hit}" for hit in FOREIGN[kind].findall(text)]
    assert not found, f"{kind} is mentioned"


def schema(kind: str = "DistributedJob") -> dict[str, Any]:
    version = yaml.safe_load(GUIDES[kind][1].read_text())["spec"]["versions"][0]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def examples() -> list[Any]:
    """The jobs in the fenced YAML of the documents, each as a case."""
    fenced = [
        (document, code)
        for document in documents()
        for language, code in FENCE.findall(document.read_text())
        if language == "yaml"
    ]
    return [
        pytest.param(manifest, id=f"{relative(document)}:{manifest['metadata']['name']}")
        for document, code in fenced
        for manifest in yaml.safe_load_all(code)
        if isinstance(manifest, dict) and manifest.get("kind") in GUIDES
    ]


def unknown(value: Any, known: dict[str, Any], path: str) -> Iterator[str]:
    """The paths in `value` for which the schema has no field, and those of required ones."""
    if known.get("x-kubernetes-preserve-unknown-fields"):
        return
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from unknown(item, known["items"], f"{path}[{number}]")
    if not isinstance(value, dict):
        if "enum" in known and value not in known["enum"]:
            yield f"{path} is {value}"
        return
    fields, rest = known.get("properties", {}), known.get("additionalProperties")
    missing = [name for name in known.get("required", ()) if name not in value]
    yield from (f"{path}.{name} is missing" for name in missing)
    for name, item in value.items():
        if name in fields:
            yield from unknown(item, fields[name], f"{path}.{name}")
        elif rest is not None:
            yield from unknown(item, rest, f"{path}.{name}")
        else:
            yield f"{path}.{name}"


@pytest.mark.parametrize("manifest", examples())
def test_examples_have_only_fields_that_exist(manifest: dict[str, Any]) -> None:
    known = schema(manifest["kind"])["properties"]["spec"]
    assert manifest["apiVersion"] == "trainyard.dev/v1alpha1"
    assert not list(unknown(manifest["spec"], known, "spec"))


def test_the_example_of_a_status_has_only_fields_that_exist() -> None:
    fenced = FENCE.findall(text_of("distributedjob.md"))
    blocks = [yaml.safe_load(code) for language, code in fenced if language == "yaml"]
    (status,) = [block for block in blocks if "desired" in block]
    known = schema()["properties"]["status"]["properties"]["scaling"]
    assert not list(unknown(status, known, "status.scaling"))


def test_the_example_of_parties_has_only_fields_that_exist() -> None:
    fenced = FENCE.findall(text_of("federatedjob.md"))
    blocks = [yaml.safe_load(code) for language, code in fenced if language == "yaml"]
    (parties,) = [block for block in blocks if isinstance(block, list)]
    known = schema("FederatedJob")["properties"]["status"]["properties"]["parties"]
    assert not list(unknown(parties, known, "status.parties"))


@pytest.mark.parametrize("state", [*PartyState, *PartyPodState])
def test_every_state_of_a_party_is_documented(state: str) -> None:
    assert f"`{state}`" in text_of("federatedjob.md")


@pytest.mark.parametrize("kind", GUIDES)
def test_every_field_of_a_job_is_documented(kind: str) -> None:
    """Down to the second level; what is deeper, `kubectl explain` shows."""
    text = "".join(text_of(guide) for guide, _ in GUIDES.values())
    fields = schema(kind)["properties"]["spec"]["properties"]
    names = [
        f"{name}.{inner}" if inner else name
        for name, field in fields.items()
        for inner in (("",) if name in LATER else field.get("properties", ("",)))
    ]
    assert [name for name in names if not re.search(rf"\b{re.escape(name)}\b", text)] == []
