"""Code outside the image: importable before the Task is loaded, or a sentence that says why not."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.wheels import write_wheel
from trainyard_trainer.contract.env import ENV_REQUIREMENTS
from trainyard_trainer.runtime.exits import TaskFailed, TaskInvalid
from trainyard_trainer.runtime.user_code import make_importable

NUMPY = importlib.metadata.version("numpy")


@pytest.fixture(autouse=True)
def unchanged_path() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before
    for name in [name for name in sys.modules if name.startswith("ty_")]:
        del sys.modules[name]


def environment(links: Path, *requirements: str) -> dict[str, str]:
    return {
        **os.environ,
        "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": str(links),
        ENV_REQUIREMENTS: json.dumps(requirements),
    }


def test_modules_of_the_configmap_come_before_those_of_the_image(tmp_path: Path) -> None:
    (tmp_path / "ty_mine.py").write_text("ANSWER = 42\n")
    make_importable({}, str(tmp_path))
    make_importable({}, str(tmp_path))
    assert importlib.import_module("ty_mine").ANSWER == 42
    assert sys.path.count(str(tmp_path)) == 1


def test_requirements_are_installed_with_what_they_need_and_the_image_lacks(
    tmp_path: Path,
) -> None:
    """What the image has is not installed again, though no index has it here."""
    write_wheel(tmp_path, "ty_outer", "1.2", "ty_inner>=2", "numpy")
    write_wheel(tmp_path, "ty_inner", "2.5", "torch")
    write_wheel(tmp_path, "ty_inner", "1.0")
    make_importable(environment(tmp_path, "ty_outer==1.2"), str(tmp_path / "absent"))
    assert importlib.import_module("ty_outer").VERSION == "1.2"
    assert importlib.import_module("ty_inner").VERSION == "2.5"
    installed = {path.name for path in Path(sys.path[0]).iterdir() if path.suffix == ".py"}
    assert installed == {"ty_outer.py", "ty_inner.py"}


def test_what_the_image_has_is_not_installed(tmp_path: Path) -> None:
    make_importable(environment(tmp_path, f"numpy=={NUMPY}"), str(tmp_path / "absent"))
    assert list(Path(sys.path[0]).iterdir()) == []


@pytest.mark.parametrize(
    ("requirement", "reason"),
    [
        ("ty_nowhere", "ty-nowhere"),
        ("ty_outer>=2", "ty-outer"),
        ("numpy<1", "numpy"),
        ("not a requirement", "not a requirement"),
    ],
)
def test_what_cannot_be_installed_is_named_in_one_sentence(
    tmp_path: Path, requirement: str, reason: str
) -> None:
    write_wheel(tmp_path, "ty_outer", "1.2")
    with pytest.raises(TaskFailed) as caught:
        make_importable(environment(tmp_path, requirement), str(tmp_path / "absent"))
    message = str(caught.value)
    assert message.startswith("spec.code.requirements cannot be installed: ")
    assert reason in message
    assert "\n" not in message


def test_an_image_without_uv_cannot_install(tmp_path: Path) -> None:
    values = {**environment(tmp_path, "ty_outer"), "PATH": str(tmp_path)}
    with pytest.raises(TaskInvalid, match="needs uv, which is not in this image"):
        make_importable(values, str(tmp_path / "absent"))
