"""A next version of Trainyard: this tree with one more optional field in every message.

Its messages set the new fields to values that are not their defaults, and its trainer reports
whether it has received them, by metrics that this tree does not know.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tools.localcluster import Cluster
from tools.localcluster.images import REPOSITORY, build_variant, find_engine, images_turn, own_tags

SUFFIX = "-next"
PLAN_HINT = "trainyard_training_plan_hint"
"""1 if the current Plan has the new field, 0 otherwise."""
CONFIG_HINT = "trainyard_training_config_hint"
"""The same for the configuration."""

CONTRACT = "trainer-image/trainyard_trainer/contract"
CONFIGURATION = "operator/trainyard/render/trainer_config.py"
EXPOSITION = "trainer-image/trainyard_trainer/runtime/exposition.py"
SCRAPE = "operator/trainyard/cluster/scrape.py"
REPORT = "operator/trainyard/api/report.py"
METRICS_MODULES = (
    "trainer-image/trainyard_trainer/coordinator/metrics.py",
    "trainer-image/trainyard_trainer/federated/server/metrics.py",
)
MESSAGES = {
    f"{CONTRACT}/plan.py": ("Plan",),
    f"{CONTRACT}/config.py": ("JobConfig",),
    f"{CONTRACT}/federated.py": ("FederatedPlan", "FederatedConfig", "PartyConfig", "RoundsConfig"),
}


def load_images(cluster: Cluster, folder: Path) -> None:
    """Build the images of the next version in `folder` and load them."""
    write_tree(folder)
    with images_turn():
        for tag in own_tags():
            build_variant(find_engine(), tag + SUFFIX, folder)
    for tag in own_tags():
        cluster.load_image(tag + SUFFIX)


def write_tree(folder: Path) -> None:
    """Copy the sources of the images and patch them."""
    for name in ("operator", "trainer-image"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    for name, classes in MESSAGES.items():
        for cls in classes:
            _replace(folder / name, rf"^class {cls}:$", rf'class {cls}:\n    hint: str = ""')
            constructor = rf'return \1{cls}(hint="next", '
            _replace(folder / CONFIGURATION, rf"return (\w+\.)?{cls}\(", constructor)
    for name in METRICS_MODULES:
        _replace(folder / name, r"^( +)yield info\((.+)\.config\.task\)$", _families())
    _replace(folder / EXPOSITION, r'"task": task\}', r'"task": task, "hint": "next"}')
    field, read = "    hint: float | None = None", f'hint=one.number("{PLAN_HINT}"),'
    _replace(folder / REPORT, r"^class CoordinatorReport:$", rf"\g<0>\n{field}")
    _replace(folder / SCRAPE, r"return CoordinatorReport\(", rf"\g<0>{read}")


def _families() -> str:
    """The replacement of the line that yields the info metric: the line, then the new metrics."""
    family = r'\n\1yield GaugeMetricFamily("{}", "Of a next version.", value={})'
    return (
        r"\g<0>"
        + family.format(CONFIG_HINT, r"bool(\2.config.hint)")
        + family.format(PLAN_HINT, r"bool(\2.plan and \2.plan.hint)")
    )


def _replace(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text(), flags=re.MULTILINE)
    assert count == 1, f"{path}: {pattern!r} matches {count} times: adapt the patch"
    path.write_text(text)
