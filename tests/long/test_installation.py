"""The documented installation, as typed, and the unit tests with each Python that is tested."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.demo.environment import ROOT
from tests.unit.test_docs import FENCE, text_of
from tools.localcluster.cache import cache_root

VERSIONS = ("3.11", "3.13")
UV = shutil.which("uv") or str(cache_root() / "uv/bin/uv")

versions = pytest.mark.parametrize("version", VERSIONS)
pytestmark = pytest.mark.timeout(2400)


def interpreter(version: str) -> Path:
    """A Python of this version: on the path, of pyenv, or one that uv knows or fetches."""
    kept = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = [Path(shutil.which(f"python{version}") or ""), *kept.glob(f"{version}.*/bin/python3")]
    for python in found:
        # What stands on the path may be a shim of pyenv's for a version that is not chosen.
        if (
            python.is_file()
            and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0
        ):
            return python
    subprocess.run([UV, "python", "install", version], check=True)
    return Path(subprocess.check_output([UV, "python", "find", version], text=True).strip())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Somebody's home, with a checkout in it."""
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path / "checkout"], check=True)
    return tmp_path


def shell(home: Path, folder: str, script: str, **environ: str) -> str:
    """Run commands as typed, in a folder of `home`; returns what they print."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    caches = {"UV_CACHE_DIR": uv_cache(), "XDG_CACHE_HOME": str(cache_root().parent)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=home / folder,
        env={**kept, **caches, "HOME": str(home), **environ},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def uv_cache() -> str:
    return subprocess.check_output([UV, "cache", "dir"], text=True).strip()


def path_with(home: Path, version: str) -> Mapping[str, str]:
    """A search path on which python3 is of this version."""
    programs = home / "programs"
    programs.mkdir()
    python3 = programs / "python3"
    python3.write_text(f'#!/bin/sh\nexec {interpreter(version)} "$@"\n')
    python3.chmod(0o755)
    return {"PATH": f"{programs}:{os.environ['PATH']}"}


def console(guide: str, section: str) -> Iterator[str]:
    """The console blocks of a section of a guide."""
    _, _, rest = text_of(guide).partition(f"\n## {section}\n")
    assert rest, f"{guide} has no section {section} any more"
    for language, code in FENCE.findall(rest.partition("\n## ")[0]):
        if language == "console":
            yield code


@pytest.mark.long(minutes=6)
@versions
def test_the_trainer_is_installed_runs_and_passes_its_tests(home: Path, version: str) -> None:
    environ = path_with(home, version)
    install, run = console("task.md", "Run it without Kubernetes")
    create, pip = install.strip().splitlines()
    shell(home, "checkout", create, **environ)
    # The largest package comes from uv's cache rather than over the network, and is kept.
    python = f"--python {home}/trainyard/bin/python -c constraints.txt"
    shell(home, "checkout", f"{UV} pip install {python} torch", **environ)
    shell(home, "checkout", pip, **environ)

    (task,) = (code for _, code in FENCE.findall(text_of("task.md")) if "class Sines" in code)
    (home / "work").mkdir()
    (home / "work/my_tasks.py").write_text(task)
    shell(home, "work", run, **environ)
    assert (home / "work/model/model.safetensors").is_file()

    shell(home, "checkout", f"{UV} pip install {python} -e '.[test,bench]'", **environ)
    tests = "../trainyard/bin/python -m pytest -q tests/unit"
    assert " passed" in shell(home, "checkout", tests, **environ)


@pytest.mark.long(minutes=1)
@versions
def test_a_bare_installation_has_a_command_line(home: Path, version: str) -> None:
    environ = path_with(home, version)
    (install,) = console("install.md", "The command line")
    shell(home, "checkout", "python3 -m venv ../bare", **environ)
    activated = ". ../bare/bin/activate\n"
    assert "0.1.0" in shell(home, "checkout", activated + install, **environ)
    failing = ("trainyard fetch dj/digits", "trainyard-trainer run my_tasks:Sines")
    missing = "\n".join(f"{command} 2>&1 && exit 1" for command in failing) + "\ntrue"
    printed = shell(home, "checkout", activated + missing, COLUMNS="200", **environ)
    assert "error: there is no kubeconfig: ~/.kube/config does not exist" in printed
    assert "error: torch, numpy, safetensors, prometheus_client: no such module here" in printed
    assert "Traceback" not in printed
