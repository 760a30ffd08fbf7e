"""Checkpoints that are torn, damaged or of another term."""

from pathlib import Path

import pytest

from trainyard_trainer.runtime.checkpoint import (
    MANIFEST,
    STATE,
    CheckpointManifest,
    CheckpointStore,
    checksum,
)
from trainyard_trainer.runtime.exits import Fenced, StateUnusable


def save(store: CheckpointStore, step: int, data: bytes = b"state") -> Path:
    spool = store.open_spool()
    (spool / STATE).write_bytes(data)
    digest = checksum(spool / STATE)
    manifest = CheckpointManifest(term=store.term, step=step, sha256=digest, size=len(data))
    return store.keep_checkpoint(spool, manifest)


def newest_step(store: CheckpointStore) -> int | None:
    found = store.newest()
    return None if found is None else found[1].step


def test_the_newest_checkpoint_is_found_again(tmp_path: Path) -> None:
    save(CheckpointStore(tmp_path, 1), 10)
    save(CheckpointStore(tmp_path, 1), 9)
    assert newest_step(CheckpointStore(tmp_path, 2)) == 10


def test_a_limited_number_of_checkpoints_is_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 1, keep=2)
    for step in range(5):
        save(store, step)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "000000000003-000001",
        "000000000004-000001",
    ]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / STATE).write_bytes(b"stat"),
        lambda path: (path / STATE).write_bytes(b"stade"),
        lambda path: (path / STATE).unlink(),
        lambda path: (path / MANIFEST).unlink(),
        lambda path: (path / MANIFEST).write_text("{"),
        lambda path: (path / MANIFEST).write_text("[]"),
        lambda path: (path / MANIFEST).write_text('{"format": 1}'),
        lambda path: (path / MANIFEST).write_text('{"format": 2}'),
    ],
    ids=["torn", "flipped", "no state", "no manifest", "torn json", "list", "empty", "newer"],
)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, 1)
    save(store, 1)
    path = save(store, 2)
    assert callable(damage)
    damage(path)
    assert newest_step(store) == 1
    assert path.name in caplog.text


def test_an_incomplete_checkpoint_is_ignored_and_deleted(tmp_path: Path) -> None:
    spool = CheckpointStore(tmp_path, 1).open_spool()
    (spool / STATE).write_bytes(b"half")
    store = CheckpointStore(tmp_path, 2)
    assert newest_step(store) is None
    assert not spool.exists()


def test_a_lower_term_can_neither_claim_nor_write(tmp_path: Path) -> None:
    old = CheckpointStore(tmp_path, 1)
    CheckpointStore(tmp_path, 2)
    with pytest.raises(Fenced):
        CheckpointStore(tmp_path, 1)
    with pytest.raises(Fenced):
        save(old, 5)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateUnusable, match="file"):
        CheckpointStore(tmp_path / "file", 1)
