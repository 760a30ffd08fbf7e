"""Images that users make on top of the trainer's."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_docs import FENCE, text_of
from tools.localcluster.cache import cache_root
from tools.localcluster.engines import Build
from tools.localcluster.images import build_image, find_engine, images_turn

TRAINER = "trainyard-trainer:0.1.0"
EXAMPLE = "trainyard-example"
OFFLINE = f"""\
FROM {TRAINER}
COPY wheels /wheels
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels UV_FIND_LINKS=/wheels
"""
"""What a machine with a package index has in its network."""
CHECKS = """\
RUN python -c 'from trainyard_trainer.task import load; load("my_tasks:Sines", {})'
RUN python -c 'import first' && uv pip install --no-index second && python -c 'import second'
RUN test "$(id -u):$(id -g)" = 65532:65532 && test ! -e /tmp/.cache
RUN trainyard-trainer run my_tasks:Sines --batch-size 600
"""


@pytest.mark.long(minutes=6)
@pytest.mark.timeout(1800)
def test_the_documented_image_installs_packages_that_the_task_imports(tmp_path: Path) -> None:
    (documented,) = (
        code for language, code in FENCE.findall(text_of("task.md")) if language == "dockerfile"
    )
    (task,) = (code for _, code in FENCE.findall(text_of("task.md")) if "class Sines" in code)
    (tmp_path / "my_tasks.py").write_text(f"import first\n{task}")
    (tmp_path / "requirements.txt").write_text("first==1\n")
    for name in ("first", "second"):
        write_wheel(tmp_path / "wheels", name)
    assert f"FROM {TRAINER}\n" in documented
    build(tmp_path, "base", OFFLINE)
    build(tmp_path, "checked", documented.replace(TRAINER, f"{EXAMPLE}:base") + CHECKS)


@pytest.fixture(autouse=True)
def trainer() -> Iterator[None]:
    """The trainer's image, and none of the examples' at the end."""
    engine = find_engine()
    with images_turn():
        build_image(engine, TRAINER)
        yield
        engine.remove_other_tags(f"{EXAMPLE}:")


def build(context: Path, version: str, containerfile: str) -> None:
    """Build an example; a step that fails fails the build."""
    path = context / f"Containerfile.{version}"
    path.write_text(containerfile)
    made = Build(tag=f"{EXAMPLE}:{version}", containerfile=path, context=context, arguments={})
    find_engine().build(made, cache_root() / "logs" / f"{EXAMPLE}.log")


def write_wheel(folder: Path, name: str) -> None:
    """A package of one empty module."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
        wheel.writestr(f"{info}/RECORD", record)
