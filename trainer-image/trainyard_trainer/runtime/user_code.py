"""The user's code outside the image: modules of a ConfigMap, and packages to install first."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from trainyard_trainer.contract.env import CODE_DIR, ENV_REQUIREMENTS
from trainyard_trainer.runtime.exits import TaskFailed, TaskInvalid

log = logging.getLogger(__name__)

FIELD: Final = "spec.code.requirements"
NO_INDEX: Final = "UV_NO_INDEX"
"""A variable like uv's own, which has none for this option: only `UV_FIND_LINKS` is searched."""
INSTALL_SECONDS: Final = 1200.0
MAX_REASON: Final = 1000
_DRAWN: Final = re.compile(r"[×╰├─▶│\s]+")
"""What uv draws beside its sentences."""


def make_importable(environ: Mapping[str, str], code_dir: str = CODE_DIR) -> None:
    """Add the job's code to the import path, and what it requires, installed now.

    Raises TaskInvalid if the image has nothing to install with, and TaskFailed if the installation
    fails: an index that does not answer may do so later.
    """
    requirements: list[str] = json.loads(environ.get(ENV_REQUIREMENTS, "[]"))
    if requirements:
        _add_path(_install(requirements, environ))
    if os.path.isdir(code_dir):
        _add_path(code_dir)


def _add_path(path: str) -> None:
    if path not in sys.path:
        sys.path.insert(0, path)
        importlib.invalidate_caches()


def _install(requirements: Sequence[str], environ: Mapping[str, str]) -> str:
    """Install what the image lacks into a folder of its own; the folder."""
    uv = shutil.which("uv", path=environ.get("PATH"))
    if uv is None:
        raise TaskInvalid(
            f"{FIELD} needs uv, which is not in this image: build it on the trainer's image, or "
            "install the packages when you build it"
        )
    started = time.monotonic()
    log.info("installing %s", ", ".join(requirements))
    missing = _resolve(uv, requirements, environ)
    folder = tempfile.mkdtemp(prefix="trainyard-requirements-")
    if missing.strip():
        _run([uv, "pip", "install", "--no-deps", "--target", folder, "-r", "-"], missing, environ)
    names = ", ".join(missing.split()) or "nothing that the image does not have"
    log.info("installed %s in %.1f s", names, time.monotonic() - started)
    return folder


def _resolve(uv: str, requirements: Sequence[str], environ: Mapping[str, str]) -> str:
    """The packages that are needed besides those of the image, which keep their versions.

    `--target` alone would install everything again, PyTorch first.
    """
    present = {d.name: d.version for d in importlib.metadata.distributions()}
    kept = [argument for name in present for argument in ("--no-emit-package", name)]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={v}\n" for name, v in present.items()))
        for name, version in present.items():
            _write_stub(Path(folder), name, version)
        links = ",".join(filter(None, (folder, environ.get("UV_FIND_LINKS"))))
        options = ["--no-header", "--no-annotate", "--constraint", str(constraints), *kept]
        command = [uv, "pip", "compile", "-", *options]
        return _run(command, "\n".join(requirements), {**environ, "UV_FIND_LINKS": links})


def _write_stub(folder: Path, name: str, version: str) -> None:
    """A wheel of a package that is there, so that no index needs to have it, nor what it needs."""
    name = re.sub(r"[-_.]+", "_", name)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def _run(command: Sequence[str], text: str, environ: Mapping[str, str]) -> str:
    """Run uv for this interpreter with `text` as its input; what it prints."""
    [uv, *arguments] = command
    with tempfile.TemporaryDirectory() as cache:
        options = ["--python", sys.executable, "--cache-dir", cache, "--color", "never"]
        if environ.get(NO_INDEX):
            options.append("--no-index")
        try:
            done = subprocess.run(
                [uv, *arguments, *options],
                input=text,
                env={**environ},
                capture_output=True,
                text=True,
                timeout=INSTALL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TaskFailed(f"{FIELD} took longer than {INSTALL_SECONDS:.0f} s") from None
    if done.returncode:
        raise TaskFailed(f"{FIELD} cannot be installed: {_sentence(done.stderr)}")
    return done.stdout


def _sentence(output: str) -> str:
    """What uv says, on one line."""
    return (
        _DRAWN.sub(" ", output).strip().removeprefix("error: ")[:MAX_REASON]
        or "uv failed without a word"
    )
