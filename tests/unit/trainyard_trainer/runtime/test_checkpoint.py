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


def damage(folder: Path) -> None:
    (folder / STATE).write_bytes(b"bit rot")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_a_checkpoint_just_stored_is_never_removed(tmp_path: Path, keep: int, damaged: int) -> None:
    store = CheckpointStore(tmp_path, 1, keep=keep)
    folders = [save(store, step) for step in (999, 1000, 1001)]
    for folder in folders[-damaged:]:
        if folder.exists():
            damage(folder)
    successor = CheckpointStore(tmp_path, 2, keep=keep)
    for step in (10, 11, 12, 13):
        assert save(successor, step).exists()
    verified = [folder for folder in names(tmp_path) if int(folder.split("-")[0]) < 999]
    assert verified == [f"{step:012d}-000002" for step in range(14 - keep, 14)]


def test_damaged_checkpoints_are_removed_first(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 1, keep=2)
    first, second = save(store, 1), save(store, 2)
    damage(second)
    assert newest_step(store) == 1
    third = save(store, 3)
    assert names(tmp_path) == [first.name, third.name]


def test_newer_checkpoints_that_are_damaged_go_once_training_has_overtaken_them(
    tmp_path: Path,
) -> None:
    store = CheckpointStore(tmp_path, 1, keep=2)
    damage(save(store, 10))
    assert newest_step(store) is None
    save(store, 9)
    assert len(names(tmp_path)) == 2
    save(store, 11)
    assert names(tmp_path) == ["000000000009-000001", "000000000011-000001"]


def test_a_checkpoint_of_the_same_step_and_term_replaces_the_earlier_one_at_no_risk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, 1, keep=1)
    save(store, 10, b"earlier")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            save(store, 10, b"later")
    assert newest_step(CheckpointStore(tmp_path, 1)) == 10
    for data in (b"later", b"latest"):
        save(store, 10, data)
    found = store.newest()
    assert found is not None
    assert found[0].read_bytes() == b"latest"
    assert len(names(tmp_path)) == 1


def test_an_old_checkpoint_that_cannot_be_removed_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, 1, keep=1)
    save(store, 1)

    def refuse(*_: object) -> None:
        raise OSError("device or resource busy")

    monkeypatch.setattr("shutil.rmtree", refuse)
    assert save(store, 2).exists()
    assert "000000000001-000001 cannot be removed: device or resource busy" in caplog.text


def test_training_does_not_begin_anew_when_all_checkpoints_are_damaged(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 1)
    assert store.resume() is None
    save(store, 1)
    damage(save(store, 2))
    found = store.resume()
    assert found is not None
    assert found[1].step == 1
    damage(found[0].parent)
    with pytest.raises(StateUnusable, match=r"none of the 2 .*000000000002-000001.* delete them"):
        CheckpointStore(tmp_path, 2).resume()


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


def test_the_highest_of_several_claims_counts_whoever_writes_last(tmp_path: Path) -> None:
    first, third = CheckpointStore(tmp_path, 1), CheckpointStore(tmp_path, 3)
    (tmp_path / "term-2").touch()  # Its writer read the directory before term 3 claimed it.
    third.check_term()
    with pytest.raises(Fenced, match="term 3"):
        first.check_term()
    CheckpointStore(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.glob("term-*")) == ["term-4"]
