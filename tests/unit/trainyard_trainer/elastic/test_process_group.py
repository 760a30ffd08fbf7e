"""Broken process groups: the threads that wait for them are counted, and have an end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from trainyard_trainer.contract.exits import Exit
from trainyard_trainer.elastic import process_group
from trainyard_trainer.elastic.process_group import (
    Rendezvous,
    TorchProcessGroup,
    collective_failure,
    is_wire_failure,
)
from trainyard_trainer.runtime.exits import TaskInvalid, TrainerError, describe
from trainyard_trainer.training.loop import CollectiveError

ENOUGH = 3


class Hanging:
    """A group whose destructor waits for a pending operation."""

    def __init__(self, finished: threading.Event) -> None:
        self._finished = finished

    def rank(self) -> int:
        return 0

    def size(self) -> int:
        return 2

    def __del__(self) -> None:
        self._finished.wait(30)


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set at the end, so that no thread outlives the test."""
    monkeypatch.setattr(process_group, "MAX_REAPERS", ENOUGH)
    event = threading.Event()
    yield event
    event.set()
    for thread in threading.enumerate():
        if thread.name == process_group.REAPER:
            thread.join(10)


def broken(finished: threading.Event) -> TorchProcessGroup:
    return TorchProcessGroup(Hanging(finished), torch.device("cpu"), lambda: None)


def test_the_process_ends_when_too_many_broken_groups_are_waited_for(
    finished: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(ENOUGH - 1):
        broken(finished).abort()
    assert "2 broken process groups still wait" in caplog.text
    last = broken(finished)
    with pytest.raises(RuntimeError, match="3 broken process groups hold their connections"):
        last.abort()


def test_groups_that_are_destroyed_at_once_are_not_counted(finished: threading.Event) -> None:
    finished.set()
    for _ in range(3 * ENOUGH):
        broken(finished).abort()
        for thread in threading.enumerate():
            if thread.name == process_group.REAPER:
                thread.join(10)


WIRE = [
    RuntimeError(
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer "
        "[127.0.0.1]:48777. This is typically caused by a remote worker crashing."
    ),
    RuntimeError(
        "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting "
        "1000ms for recv operation to complete"
    ),
    RuntimeError("Application timeout caused pair closure"),
    RuntimeError("Gloo connectFullMesh failed with: no error"),
    dist.DistStoreError("wait timeout after 2000ms, keys: /y/0/1"),
    dist.DistNetworkError("The client socket has timed out after 2000ms"),
    dist.DistBackendError(
        "NCCL error in: NCCLUtils.cpp:77, remote process exited or there was a network error\n"
        "ncclRemoteError: A call failed possibly due to a network error or a remote process"
    ),
    dist.DistBackendError("NCCL communicator was aborted on rank 0."),
]
LASTING = [
    RuntimeError("Invalid scalar type"),
    RuntimeError("ProcessGroupGloo::broadcast: only supports dense tensors"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB, connection or not"),
    dist.DistBackendError("NCCL error in: x.cpp:1, invalid usage (run with NCCL_DEBUG=WARN)"),
    dist.DistBackendError("NCCL error in: x.cpp:1, unhandled cuda error\nncclUnhandledCudaError"),
    RuntimeError("[enforce fail at gloo/allreduce.cc:35] elements > 0"),
]


@pytest.mark.parametrize("error", WIRE, ids=str)
def test_a_failure_of_the_wire_is_retried(error: Exception) -> None:
    assert is_wire_failure(error)
    raised = collective_failure(error, "all-reduce", torch.zeros(2))
    assert isinstance(raised, CollectiveError)


@pytest.mark.parametrize("error", LASTING, ids=str)
def test_any_other_failure_of_a_collective_ends_the_process_with_its_sentence(
    error: Exception,
) -> None:
    raised = collective_failure(error, "all-reduce", torch.zeros(2, dtype=torch.int16))
    assert isinstance(raised, TrainerError)
    _, message = describe(raised)
    assert "a tensor of torch.int16 in shape (2,) (all-reduce)" in message.error
    assert str(error) in message.error


def two_members(host: str) -> list[TorchProcessGroup]:
    """Two members of a group, each with a store of its own at that address."""
    stores = [Rendezvous(host) for _ in range(2)]
    cpu = torch.device("cpu")

    def member(rank: int) -> TorchProcessGroup:
        group = stores[rank].create_group(stores[0].address, "group", rank, 2, cpu)
        return TorchProcessGroup(group, cpu, lambda: None)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(member, range(2)))


def test_workers_with_ipv6_addresses_meet() -> None:
    assert Rendezvous("::1").address.startswith("[::1]:")
    groups = two_members("::1")
    tensors = [torch.ones(3), torch.full((3,), 2.0)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda pair: pair[0].all_reduce_(pair[1]), zip(groups, tensors, strict=True)))
    assert all(tensor.tolist() == [3.0] * 3 for tensor in tensors)
    for group in groups:
        group.abort()


def test_gloo_refuses_a_dtype_that_it_lacks_by_name_and_without_a_retry() -> None:
    for group in two_members("127.0.0.1"):
        with pytest.raises(TaskInvalid, match=r"torch\.int16") as raised:
            group.all_reduce_(torch.zeros(3, dtype=torch.int16))
        assert describe(raised.value)[0] is Exit.TASK_INVALID
        group.abort()


def test_a_build_that_waits_for_a_lost_member_does_not_hold_up_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process_group, "BUILD_TIMEOUT", timedelta(seconds=20))
    stores = [Rendezvous("127.0.0.1") for _ in range(2)]
    address, cpu = stores[0].address, torch.device("cpu")
    with ThreadPoolExecutor(3) as pool:
        lost = pool.submit(stores[0].create_group, address, "lost", 0, 2, cpu)
        time.sleep(0.5)  # until it waits
        members = [
            pool.submit(store.create_group, address, "next", rank, 2, cpu)
            for rank, store in enumerate(stores)
        ]
        groups = [member.result() for member in members]
        assert not lost.done()
        assert [group.size() for group in groups] == [2, 2]
        absent = pool.submit(stores[1].create_group, address, "lost", 1, 2, cpu)
        assert (lost.result().rank(), absent.result().rank()) == (0, 1)
