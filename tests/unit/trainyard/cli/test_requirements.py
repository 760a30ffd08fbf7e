"""The command line runs on what the distribution needs without extras."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[4]
IMPORTS = """
import sys
import trainyard.cli
from trainyard.cluster import execute, portforward
print(*{name.partition(".")[0] for name in sys.modules})
"""


def needed(requirements: Iterable[str]) -> set[str]:
    """The distributions that these requirements install, and those that they need in turn."""
    found: set[str] = set()
    open_ = [(Requirement(text), "") for text in requirements]
    while open_:
        requirement, extra = open_.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in {"", *requirement.extras}:
            if (key := f"{name}[{wanted}]") in found:
                continue
            found.add(key)
            open_ += [(Requirement(each), wanted) for each in metadata.requires(name) or ()]
    return {key.partition("[")[0] for key in found}


def test_the_command_imports_nothing_of_the_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = needed(project["dependencies"])
    assert "kopf" not in installed
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], text=True, capture_output=True, check=True
    )
    owners = metadata.packages_distributions()
    used = {
        canonicalize_name(distribution)
        for module in done.stdout.split()
        for distribution in owners.get(module, ())
    }
    # A hook of setuptools is loaded in any environment that has it.
    assert used - {"setuptools"} <= installed
    assert {"kubernetes", "typer"} <= used
