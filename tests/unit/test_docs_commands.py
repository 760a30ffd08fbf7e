"""Commands in the documents can be typed: programs accept their options, and files are there."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from tests.unit.test_chart import helm
from tests.unit.test_docs import FENCE, ROOT, documents, relative
from trainyard.cli.app import app as operator_app
from trainyard_trainer.cli import app as trainer_app

__all__ = ["helm"]

APPS: Final[Mapping[str, typer.Typer]] = {
    "trainyard": operator_app,
    "kubectl trainyard": operator_app,
    "trainyard-trainer": trainer_app,
}
TARGETS: Final = set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
OPERATORS: Final = {"|", "||", "&&", ";"}
HELM_ACTIONS: Final = ("install", "upgrade", "template")


def commands() -> list[tuple[Path, list[str]]]:
    """Every command of the console blocks, without redirections, by document."""
    return [
        (document, command)
        for document in documents()
        for language, code in FENCE.findall(document.read_text())
        if language == "console"
        for line in code.replace("\\\n", " ").splitlines()
        for command in split(line)
    ]


def split(line: str) -> Iterator[list[str]]:
    """The commands of a line: of `a | b > c`, both."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    for word in lexer:
        if word in OPERATORS:
            yield words
            words = []
        else:
            words.append(word)
    if words:
        yield words[: words.index(">")] if ">" in words else words


def starting(*programs: str) -> list[object]:
    """The commands of these programs, as cases of a test."""
    return [
        pytest.param(command, id=f"{relative(document)}: {shlex.join(command)}")
        for document, command in commands()
        if any(command[: len(p)] == p for p in map(str.split, programs))
    ]


@pytest.mark.parametrize("command", starting(*APPS))
def test_our_commands_have_these_options(command: list[str]) -> None:
    words = 2 if command[0] == "kubectl" else 1
    group: Any = typer.main.get_command(APPS[" ".join(command[:words])])
    name, *rest = command[words:]
    with group.commands[name].make_context(name, rest):
        pass


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", starting(*(f"helm {action}" for action in HELM_ACTIONS)))
def test_helm_takes_these_options_and_values(helm: str, command: list[str]) -> None:
    """An upgrade is tried as the installation of the same, which needs no cluster."""
    mode = ["template"] if command[1] == "template" else ["install", "--dry-run=client"]
    done = subprocess.run(
        [helm, *mode, *command[2:]], cwd=ROOT, text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", starting("make"))
def test_make_has_these_targets(command: list[str]) -> None:
    assert {word for word in command[1:] if "=" not in word} <= TARGETS


@pytest.mark.parametrize("command", starting("docker build", "kubectl apply", "sed", "pip install"))
def test_files_of_the_repository_are_there(command: list[str]) -> None:
    named = [
        word for word in command if re.match(r"(crds|manifests|operator|trainer-image)/", word)
    ]
    assert [word for word in named if not (ROOT / word).exists()] == []
