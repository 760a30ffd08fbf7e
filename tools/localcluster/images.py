"""Trainyard's own images: the libraries apart from our code, each built only when it changed."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.localcluster import docker, packages
from tools.localcluster.buildah import Buildah
from tools.localcluster.cache import cache_root, content_key, exclusive, scratch
from tools.localcluster.engines import Build, Engine
from tools.localcluster.errors import ClusterError
from tools.localcluster.progress import say

REPOSITORY = Path(__file__).parents[2]

TORCH_VARIABLES = {"TRAINYARD_TORCH": "TORCH", "TRAINYARD_TORCH_INDEX": "TORCH_INDEX"}
"""Environment → build argument: another PyTorch, for example a build without CUDA."""

BASE_VARIABLE = "TRAINYARD_BASE_IMAGE"
"""Environment: another base image than the engine's own choice."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one of our images is made."""

    folder: str
    """Holds the Containerfile."""
    extras: tuple[str, ...]
    """The extras of pyproject.toml that list its libraries."""
    minutes: str


RECIPES = {
    "trainyard-operator": Recipe("operator", ("operator",), "half a minute"),
    "trainyard-trainer": Recipe("trainer-image", ("trainer", "data"), "three to five minutes"),
}


def own_tags() -> list[str]:
    """The names of our images, with the version of this checkout."""
    return [f"{name}:{_project()['version']}" for name in RECIPES]


def can_build() -> bool:
    """Whether this user can build images here: without an engine it takes root."""
    return os.geteuid() == 0 or docker.answers()


def find_engine() -> Engine:
    """The engine of this machine; buildah is installed where that is possible."""
    if docker.answers():
        return docker.Docker()
    packages.require(packages.IMAGES)
    return Buildah()


@contextmanager
def images_turn() -> Iterator[None]:
    """Take turns in building and loading: old libraries are removed when there are new ones."""
    with exclusive(cache_root() / "images.turn"):
        yield


def build_image(engine: Engine, tag: str) -> None:
    """Build one of our images, or find that nothing changed."""
    if tag not in own_tags():
        raise ClusterError(f"{tag} is none of our images: {', '.join(own_tags())}")
    build_variant(engine, tag, REPOSITORY)


def build_variant(engine: Engine, tag: str, source: Path) -> None:
    """Build one of our images under any tag, with the code of another tree and our libraries."""
    name = tag.partition(":")[0]
    recipe = RECIPES[name]
    arguments = _arguments(engine, os.environ)
    dependencies = _ensure_dependencies(engine, name, recipe, arguments)
    _build_code(engine, tag, recipe, dependencies, source)
    engine.remove_other_tags(dependencies)


def _arguments(engine: Engine, environment: Mapping[str, str]) -> dict[str, str]:
    """The build arguments, less those left to the Containerfile's defaults."""
    given = {argument: environment.get(name, "") for name, argument in TORCH_VARIABLES.items()}
    given["BASE"] = environment.get(BASE_VARIABLE, "") or engine.base()
    return {name: value for name, value in given.items() if value}


def _ensure_dependencies(
    engine: Engine, name: str, recipe: Recipe, arguments: dict[str, str]
) -> str:
    """The image of libraries, tagged with a hash of what it is made from."""
    containerfile = REPOSITORY / recipe.folder / "Containerfile"
    project = pruned_project(_project(), recipe.extras)
    constraints = (REPOSITORY / "constraints.txt").read_text()
    key = content_key(
        [library_stage(containerfile.read_text()), project, constraints, json.dumps(arguments)]
    )
    tag = f"{name}-deps:{key}"
    if not engine.has(tag):
        say(f"Building {tag}, the libraries of {name}: {recipe.minutes}, once until they change.")
        with scratch() as context:
            (context / "pyproject.toml").write_text(project)
            (context / "constraints.txt").write_text(constraints)
            build = Build(
                tag=tag,
                containerfile=containerfile,
                context=context,
                arguments=arguments,
                target="dependencies",
            )
            engine.build(build, _log(name, "libraries"))
    return tag


def _build_code(engine: Engine, tag: str, recipe: Recipe, dependencies: str, source: Path) -> None:
    """Build the image itself, from a copy of the sources without what lies between them."""
    with scratch() as context:
        for each in RECIPES.values():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source / each.folder, context / each.folder, ignore=ignored)
        build = Build(
            tag=tag,
            containerfile=context / recipe.folder / "Containerfile",
            context=context,
            arguments={"DEPENDENCIES": dependencies},
        )
        engine.build(build, _log(tag.partition(":")[0], "code"))


def library_stage(containerfile: str) -> str:
    """The part of a Containerfile that decides about the libraries: all before our code."""
    before, separator, _ = containerfile.partition("FROM ${DEPENDENCIES}")
    if not separator:
        raise ClusterError("the Containerfile has no stage `FROM ${DEPENDENCIES}` any more")
    return "\n".join(line for line in before.splitlines() if not line.startswith("#"))


def pruned_project(project: Mapping[str, Any], extras: Iterable[str]) -> str:
    """A pyproject.toml of a few extras alone, so that nothing else has libraries built anew."""
    known = project["optional-dependencies"]
    lists = "".join(f"{extra} = {json.dumps(known[extra])}\n" for extra in extras)
    return (
        f'[project]\nname = "{project["name"]}"\nversion = "0"\n'
        f'requires-python = "{project["requires-python"]}"\n'
        f"dependencies = {json.dumps(project['dependencies'])}\n"
        f"[project.optional-dependencies]\n{lists}"
    )


def _project() -> dict[str, Any]:
    text = (REPOSITORY / "pyproject.toml").read_text()
    project: dict[str, Any] = tomllib.loads(text)["project"]
    return project


def _log(name: str, part: str) -> Path:
    return cache_root() / "logs" / f"{name}-{part}.log"
