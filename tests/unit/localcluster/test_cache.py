"""What decides whether something is built anew, and where it is kept."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tools.localcluster.cache import cache_root, content_key, scratch
from tools.localcluster.engines import Build
from tools.localcluster.images import library_stage, pruned_project

_PROJECT = {
    "name": "trainyard",
    "requires-python": ">=3.11",
    "dependencies": ["typer"],
    "optional-dependencies": {"trainer": ["torch>=2", "numpy"], "operator": ["kopf"]},
}
_CONTAINERFILE = """\
# A comment.
ARG BASE=debian
FROM ${BASE} AS dependencies
RUN install
FROM ${DEPENDENCIES}
COPY code /code
"""


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "main.go", tmp_path / "go.mod"]
    for file in files:
        file.write_text(file.name)
    return files


def test_a_key_does_not_depend_on_the_order_of_files(sources: list[Path], tmp_path: Path) -> None:
    assert content_key(["a"], sources, tmp_path) == content_key(["a"], sources[::-1], tmp_path)


def test_a_key_changes_with_texts_names_and_contents(sources: list[Path], tmp_path: Path) -> None:
    keys = {content_key(["a"], sources, tmp_path), content_key(["b"], sources, tmp_path)}
    sources[0].write_text("changed")
    keys.add(content_key(["a"], sources, tmp_path))
    sources[0] = sources[0].rename(tmp_path / "other.go")
    keys.add(content_key(["a"], sources, tmp_path))
    assert len(keys) == 4


def test_texts_are_kept_apart_in_a_key() -> None:
    assert content_key(["ab", "c"]) != content_key(["a", "bc"])


def test_a_key_does_not_depend_on_where_the_checkout_lies(tmp_path: Path) -> None:
    keys = set()
    for checkout in (tmp_path / "one", tmp_path / "two"):
        checkout.mkdir()
        (checkout / "file").write_text("same")
        keys.add(content_key([], [checkout / "file"], checkout))
    assert len(keys) == 1


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_root() == Path("/elsewhere/trainyard")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_root() == Path("/home/somebody/.cache/trainyard")


def test_scratch_of_a_killed_run_is_removed_and_that_of_a_living_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    scratches = tmp_path / "trainyard" / "scratch"
    (scratches / "999999999-dead").mkdir(parents=True)
    (scratches / f"{os.getppid()}-alive").mkdir()
    with scratch() as folder:
        assert {path.name for path in scratches.iterdir()} == {
            folder.name,
            f"{os.getppid()}-alive",
        }
    assert not folder.exists()


def test_a_change_of_our_code_or_of_a_comment_leaves_the_libraries_alone() -> None:
    changed = _CONTAINERFILE.replace("COPY code", "COPY more").replace("A comment", "Another")
    assert library_stage(_CONTAINERFILE) == library_stage(changed)
    assert library_stage(_CONTAINERFILE) != library_stage(_CONTAINERFILE.replace("install", "x"))


def test_a_project_is_pruned_to_what_one_image_installs() -> None:
    pruned = pruned_project(_PROJECT, ["trainer"])
    assert "torch>=2" in pruned
    assert "kopf" not in pruned
    assert pruned == pruned_project({**_PROJECT, "description": "new words"}, ["trainer"])


def test_a_build_stops_at_a_stage_only_when_asked_to() -> None:
    build = Build(
        tag="image:1", containerfile=Path("c"), context=Path("here"), arguments={"BASE": "debian"}
    )
    words = ["--tag", "image:1", "--file", "c", "--build-arg", "BASE=debian"]
    assert build.words() == [*words, "here"]
    assert replace(build, target="stage").words() == [*words, "--target", "stage", "here"]
