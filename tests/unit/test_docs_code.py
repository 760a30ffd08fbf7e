"""What documents say of the code: files and names that exist, figures that are the constants'."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from tests.unit.test_docs import DOCS, ROOT, documents, relative
from trainyard.cluster import coordinator, scrape
from trainyard.cluster.certificates import LEAF_LIFE, RENEW_AFTER
from trainyard.cluster.issuance import OVERLAP
from trainyard.cluster.master import SECRET_BYTES
from trainyard.reconcile import scheduler
from trainyard.render import base_pod
from trainyard_trainer.contract.exits import Exit

CODE: Final = re.compile(r"`([\w.-]+(?:/[\w.*-]+)+)`")
FOLDERS: Final = [ROOT, ROOT / "operator/trainyard", ROOT / "trainer-image/trainyard_trainer"]
TOPS: Final = {path.name for folder in FOLDERS for path in folder.iterdir() if path.is_dir()}


def references(document: Path) -> Iterator[str]:
    """The paths of code in backticks, such as `cluster/lease.py` or `lifecycle/stages.evaluate`."""
    for found in CODE.findall(document.read_text()):
        if found.partition("/")[0] in TOPS:
            yield found


def exists(reference: str) -> bool:
    """Whether there is such a file or folder, or such a name in such a module."""
    for folder in FOLDERS:
        if any(folder.glob(reference)) or (folder / f"{reference}.py").is_file():
            return True
        module, _, name = reference.rpartition(".")
        path = folder / f"{module}.py"
        if name and path.is_file():
            defined = rf"^\s*(?:async )?(?:def|class) {name}\b|^{name}\b.*="
            return re.search(defined, path.read_text(), re.MULTILINE) is not None
    return False


@pytest.mark.parametrize("document", documents(), ids=relative)
def test_code_that_a_document_names_exists(document: Path) -> None:
    assert [name for name in references(document) if not exists(name)] == []


FIGURES: Final[dict[tuple[str, str], Callable[[], float]]] = {
    ("metrics.md", r"takes (\d+) KiB at most"): lambda: coordinator.MAX_ANSWER_BYTES / 1024,
    ("security.md", r"at most (\d+) KiB of metrics"): lambda: coordinator.MAX_ANSWER_BYTES / 1024,
    ("security.md", r"(\d+) configurations"): lambda: scrape.MAX_CONFIGURATIONS,
    ("security.md", r"Leaves live (\d+) days"): lambda: LEAF_LIFE.days,
    ("security.md", r"renewed after (\d+)\b"): lambda: RENEW_AFTER.days,
    ("security.md", r"(\d+) minutes after"): lambda: OVERLAP / timedelta(minutes=1),
    ("security.md", r"random value of (\d+) bytes"): lambda: SECRET_BYTES,
    ("decisions/0005-scrape-metrics-put-plans.md", r"(\d+) KiB"): (
        lambda: coordinator.MAX_ANSWER_BYTES / 1024
    ),
    ("decisions/0011-one-pure-allocate.md", r"\(at most (\d+) s\)"): (
        lambda: scheduler.MAX_PAUSE_SECONDS
    ),
    ("architecture.md", r"its pods get (\d+) s"): lambda: base_pod.UNREACHABLE_SECONDS,
    ("metrics.md", r"step boundary within (\d+) s"): lambda: base_pod.GRACE_SECONDS,
    ("distributedjob-reference.md", r"exit code (\d+) \|"): lambda: Exit.TASK_INVALID,
}
"""By document and pattern: the constant that the figure stands for."""


@pytest.mark.parametrize(("name", "pattern"), FIGURES)
def test_a_figure_in_a_document_is_that_of_the_code(name: str, pattern: str) -> None:
    found = re.findall(pattern, (DOCS / name).read_text())
    assert found, f"{name} no longer says {pattern}"
    assert {float(figure) for figure in found} == {FIGURES[name, pattern]()}
