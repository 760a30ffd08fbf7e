"""Uploads to a coordinator: its disk is slow, full or too small, or the uploads break."""

import asyncio
import hashlib
import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import PATH_HEALTH, PATH_STATE
from trainyard_trainer.coordinator import state
from trainyard_trainer.coordinator.server import Coordinator
from trainyard_trainer.coordinator.uploads import FINAL_ATTEMPTS
from trainyard_trainer.runtime import checkpoint
from trainyard_trainer.runtime.exits import StateUnusable, TrainerError
from trainyard_trainer.transport.connection import HEADER_DIGEST, HEADER_SIZE, HEADER_TERM
from trainyard_trainer.transport.tls import Credentials


def make_coordinator(directory: Path) -> Coordinator:
    credentials = Credentials(namespace="test", job="job", directory=str(directory / "tls"))
    return Coordinator(JobConfig(task="tasks:Any"), 1, directory / "state", credentials)


def state_file(step: object) -> bytes:
    document = json.dumps({"counts": {"step": step}})
    header = json.dumps({"__metadata__": {"trainyard": document}}).encode()
    return len(header).to_bytes(8, "little") + header


async def upload(
    session: aiohttp.ClientSession, url: str, kind: str, data: bytes = state_file(7), size: int = 0
) -> tuple[int, str]:
    """Upload `data`, of which `size` bytes are announced."""
    headers = {
        HEADER_TERM: "1",
        HEADER_DIGEST: hashlib.sha256(data).hexdigest(),
        HEADER_SIZE: str(size or len(data)),
    }
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
    assert "trainyard_training_consecutive_checkpoint_failures 1.0" in metrics
    assert not list((tmp_path / "state" / "checkpoints").iterdir())
    assert coordinator.ended.done() == (kind != "snapshot")
    if coordinator.ended.done():
        with pytest.raises(StateUnusable, match=r"spec\.state\.claimName.* larger"):
            await coordinator.ended


def shrink_volume(monkeypatch: pytest.MonkeyPatch, free: int) -> tuple[Any, Any]:
    """Have volumes report `free` bytes, which takes until the second event is set."""
    usage, asked, may_answer = shutil.disk_usage("/"), threading.Event(), threading.Event()

    def slow(_: object) -> Any:
        asked.set()
        assert may_answer.wait(30.0)
        return usage._replace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", slow)
    return asked, may_answer


async def test_a_claim_too_small_for_checkpoints_ends_the_job_at_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = make_coordinator(tmp_path)
    asked, may_answer = shrink_volume(monkeypatch, free=3_999)
    async with coordinator.serving("127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{port}"
        put = asyncio.create_task(upload(session, url, "snapshot", size=1_000))
        assert await asyncio.to_thread(asked.wait, 10.0)
        async with session.get(url + PATH_HEALTH) as response:
            assert await response.text() == "ok"
        may_answer.set()
        status, text = await put
    sentence = "needs 4,000 bytes for 4 checkpoints .checkpoint.keep and one more., .* 3,999 free"
    assert status == 507
    assert re.search(sentence, text)
    assert not list((tmp_path / "state" / "checkpoints").iterdir())
    with pytest.raises(StateUnusable, match=rf"{sentence}: make its claim .spec\.state\.claimName"):
        await coordinator.ended


async def test_a_claim_that_gets_small_later_ends_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = make_coordinator(tmp_path)
    async with coordinator.serving("127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{port}"
        assert (await upload(session, url, "snapshot"))[0] == 200
        shrink_volume(monkeypatch, free=0)[1].set()
        assert (await upload(session, url, "snapshot", state_file(8)))[0] == 200
    assert coordinator.progress.checkpoint_step == 8
    assert not coordinator.ended.done()


async def send_part(port: int, kind: str) -> asyncio.StreamWriter:
    """Begin an upload that announces more than it sends."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"PUT {PATH_STATE}?kind={kind} HTTP/1.1\r\nHost: x\r\n{HEADER_TERM}: 1\r\n"
    writer.write(f"{head}Content-Length: 1000\r\n\r\npart".encode())
    await writer.drain()
    return writer


async def failures(coordinator: Coordinator, count: int) -> None:
    async with asyncio.timeout(30):
        while coordinator.progress.failed_writes < count:
            await asyncio.sleep(0.01)


async def test_uploads_that_break_or_stand_still_are_counted_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = make_coordinator(tmp_path)
    async with coordinator.serving("127.0.0.1", 0) as port:
        broken = await send_part(port, "snapshot")
        broken.transport.abort()
        await failures(coordinator, 1)
        monkeypatch.setattr(state, "TRANSFER_IDLE_SECONDS", 0.1)
        standing = await send_part(port, "snapshot")
        await failures(coordinator, 2)
        standing.close()
        assert coordinator.progress.consecutive_failed_writes == 2
        assert not list((tmp_path / "state" / "checkpoints").iterdir())
        async with aiohttp.ClientSession() as session:
            assert (await upload(session, f"http://127.0.0.1:{port}", "snapshot"))[0] == 200
    assert coordinator.progress.failed_writes == 2
    assert coordinator.progress.consecutive_failed_writes == 0
    assert not coordinator.ended.done()


@pytest.mark.parametrize(
    ("kind", "data"),
    [("model", b"no model"), ("checkpoint", state_file("many"))],
    ids=["no model", "no step"],
)
async def test_a_final_state_that_is_refused_again_and_again_ends_the_job_with_the_reason(
    tmp_path: Path, kind: str, data: bytes
) -> None:
    coordinator = make_coordinator(tmp_path)
    async with coordinator.serving("127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{port}"
        for _ in range(FINAL_ATTEMPTS):
            assert not coordinator.ended.done()
            assert (await upload(session, url, kind, data))[0] == 400
    with pytest.raises(TrainerError, match=r"could not be stored in 10 uploads: .*(step|file)"):
        await coordinator.ended


async def test_an_upload_meant_for_another_term_is_no_failure(tmp_path: Path) -> None:
    coordinator = make_coordinator(tmp_path)
    async with coordinator.serving("127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{port}{PATH_STATE}?kind=model"
        async with session.put(url, data=b"", headers={HEADER_TERM: "7"}) as response:
            assert response.status == 409
    assert coordinator.progress.failed_writes == 0


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
