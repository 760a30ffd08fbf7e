"""Uploads to a coordinator whose disk is slow or full."""

import asyncio
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import PATH_HEALTH, PATH_STATE
from trainyard_trainer.coordinator.server import Coordinator
from trainyard_trainer.runtime import checkpoint
from trainyard_trainer.runtime.exits import StateUnusable
from trainyard_trainer.transport.connection import HEADER_DIGEST, HEADER_TERM
from trainyard_trainer.transport.tls import Credentials


def make_coordinator(directory: Path) -> Coordinator:
    credentials = Credentials(namespace="test", job="job", directory=str(directory / "tls"))
    return Coordinator(JobConfig(task="tasks:Any"), 1, directory / "state", credentials)


def state_file(step: int) -> bytes:
    document = json.dumps({"counts": {"step": step}})
    header = json.dumps({"__metadata__": {"trainyard": document}}).encode()
    return len(header).to_bytes(8, "little") + header


async def upload(session: aiohttp.ClientSession, url: str, kind: str) -> tuple[int, str]:
    data = state_file(7)
    headers = {HEADER_TERM: "1", HEADER_DIGEST: hashlib.sha256(data).hexdigest()}
    async with session.put(f"{url}{PATH_STATE}?kind={kind}", data=data, headers=headers) as put:
        return put.status, await put.text()


async def test_the_coordinator_responds_while_the_disk_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = make_coordinator(tmp_path)
    syncing, may_end = threading.Event(), threading.Event()
    sync_file = checkpoint.sync_file

    def slow(file: Any) -> None:
        syncing.set()
        assert may_end.wait(30.0)
        sync_file(file)

    monkeypatch.setattr(checkpoint, "sync_file", slow)
    async with coordinator.serving("127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{port}"
        put = asyncio.create_task(upload(session, url, "snapshot"))
        assert await asyncio.to_thread(syncing.wait, 10.0)
        async with session.get(url + PATH_HEALTH) as response:
            assert await response.text() == "ok"
        assert not put.done()
        may_end.set()
        assert await put == (200, "stored")
    assert coordinator.progress.checkpoint_step == 7


@pytest.mark.parametrize("kind", ["snapshot", "checkpoint", "model"])
async def test_a_full_claim_is_reported_and_ends_a_job_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    coordinator = make_coordinator(tmp_path)

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync_file", full)
    async with coordinator.serving("127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        status, text = await upload(session, f"http://127.0.0.1:{port}", kind)
        metrics = coordinator.render_metrics().decode()
    assert status == 507
    assert "No space left on device" in text
    assert "trainyard_training_checkpoint_failures_total 1.0" in metrics
    assert not list((tmp_path / "state" / "checkpoints").iterdir())
    assert coordinator.ended.done() == (kind != "snapshot")
    if coordinator.ended.done():
        with pytest.raises(StateUnusable, match=r"spec\.state\.claimName.* larger"):
            await coordinator.ended


async def test_checkpoints_that_are_all_damaged_end_the_coordinator(tmp_path: Path) -> None:
    coordinator = make_coordinator(tmp_path)
    async with coordinator.serving("127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{port}"
        assert (await upload(session, url, "snapshot"))[0] == 200
        for folder in (tmp_path / "state" / "checkpoints").iterdir():
            (folder / checkpoint.STATE).write_bytes(b"bit rot")
        async with session.get(url + PATH_STATE) as response:
            assert response.status == 500
    with pytest.raises(StateUnusable, match="none of the 1 checkpoints"):
        await coordinator.ended
