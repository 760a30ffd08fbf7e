"""Collectives of one view, behind a seam: one process alone, gloo on CPUs, NCCL with CUDA.

It stands apart because a process group that breaks is dangerous to touch: waits are sliced, so that
a survivor that hangs on another notices that the view has ended; and broken groups are kept until
the process ends, since their destructor waits for operations that never end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from trainyard_trainer.training.loop import CollectiveError

SLICE: Final = timedelta(milliseconds=50)
"""A survivor looks so often whether its view has ended; a completed operation wakes it at once."""
POLL_SECONDS: Final = 0.0002
BUILD_TIMEOUT: Final = timedelta(seconds=60)
"""Members of a new view have so long to connect to each other."""
OPERATION_TIMEOUT: Final = timedelta(minutes=30)
"""Longer than any step: failures are noticed by other means, much sooner."""


class ProcessGroup(Protocol):
    """The collectives that training needs; all members call them in the same order."""

    rank: int
    size: int
    seconds: float
    """Time spent in collectives so far."""

    def all_reduce_(self, *tensors: Tensor) -> None:
        """Sum each tensor over all members, in place; raises CollectiveError."""

    def broadcast_(self, tensor: Tensor, source: int) -> None:
        """Copy the tensor of rank `source` to all members, in place; raises CollectiveError."""

    def abort(self) -> None:
        """Give the group up; it is not used again."""


class LocalProcessGroup:
    """A view of one: nothing to reduce."""

    rank = 0
    size = 1
    seconds = 0.0

    def all_reduce_(self, *tensors: Tensor) -> None:
        """Nothing to add."""

    def broadcast_(self, tensor: Tensor, source: int) -> None:
        """Nobody to send to."""

    def abort(self) -> None:
        """Nothing to give up."""


class TorchProcessGroup:
    """A view of several, on a process group of `torch.distributed`."""

    def __init__(self, group: Any, device: torch.device, check: Callable[[], None]) -> None:
        """`check`, called in each slice of a wait, raises CollectiveError once the view ends."""
        self._group, self._check = group, check
        self._wait_slice = _wait_slice if device.type == "cpu" else _poll
        self.rank, self.size = group.rank(), group.size()
        self.seconds = 0.0
        self._pending_ops: list[Any] = []
        """Operations that may still write to their tensors."""

    def all_reduce_(self, *tensors: Tensor) -> None:
        """Sum each tensor over all members, in place; raises CollectiveError."""
        start = time.perf_counter()
        works = [(self._try(self._group.allreduce, [tensor]), tensor) for tensor in tensors]
        for work, tensor in works:
            self._wait(work, tensor)
        self.seconds += time.perf_counter() - start

    def broadcast_(self, tensor: Tensor, source: int) -> None:
        """Copy the tensor of rank `source` to all members, in place; raises CollectiveError."""
        start = time.perf_counter()
        self._wait(self._try(self._group.broadcast, tensor, root=source), tensor)
        self.seconds += time.perf_counter() - start

    def abort(self) -> None:
        """Destroy the group and what it may still write to, however long that takes."""
        if self._group is None:
            return
        grave = [self._pending_ops, self._group]
        self._group = None
        threading.Thread(target=_destroy, args=(grave,), name="graveyard", daemon=True).start()

    def _try(self, operation: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return operation(*args, **options)
        except RuntimeError as error:
            raise CollectiveError(str(error)) from error

    def _wait(self, work: Any, tensor: Tensor) -> None:
        try:
            while not self._wait_slice(work):
                self._check()
        except (CollectiveError, RuntimeError) as error:
            self._pending_ops.append((work, tensor))
            raise CollectiveError(str(error)) from error


def _destroy(grave: list[Any]) -> None:
    if grave[0]:
        grave[1].abort()  # Frees NCCL's kernels at once; gloo's operations run into their timeout.
    grave.clear()


def _wait_slice(work: Any) -> bool:
    """Wait for `work` a little; whether it is done. Raises RuntimeError when it has failed."""
    try:
        work.wait(SLICE)
    except RuntimeError:
        if not work.is_completed():
            return False  # Only the slice has run out; the operation goes on.
        work.wait()  # It has failed, or was completed just after the slice.
    return True


def _poll(work: Any) -> bool:
    """As `_wait_slice`, for NCCL, where a wait that times out would abort the whole group."""
    if not work.is_completed():
        time.sleep(POLL_SECONDS)
        return False
    work.wait()
    return True


class Rendezvous:
    """A store at which the members of a view meet: each worker serves one, rank 0's is used.

    It lives with a worker, so that views can be built and broken groups mended whatever becomes of
    the coordinator's pod.
    """

    def __init__(self, host: str) -> None:
        """Serve on a free port of this machine; `host` is how other workers reach it."""
        self._host = host
        self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False)

    @property
    def address(self) -> str:
        """`host:port`, for the other workers."""
        return f"{self._host}:{self._store.port}"

    def create_group(
        self, address: str, prefix: str, rank: int, size: int, device: torch.device
    ) -> Any:
        """The process group of `size` members that meet at `address`; blocks until all are there.

        Raises RuntimeError when one does not come within `BUILD_TIMEOUT`.
        """
        store: Store = self._store
        if address != self.address:
            host, _, port = address.rpartition(":")
            store = TCPStore(host, int(port), is_master=False, timeout=BUILD_TIMEOUT)
        store = PrefixStore(prefix, store)
        store.set_timeout(BUILD_TIMEOUT)
        if device.type == "cuda":
            return _nccl(store, rank, size)
        return _gloo(store, rank, size, self._host)


def _nccl(store: Store, rank: int, size: int) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = OPERATION_TIMEOUT
    return dist.ProcessGroupNCCL(store, rank, size, options)


def _gloo(store: Store, rank: int, size: int, host: str) -> Any:
    # Typed as Any: what PyTorch's own `init_process_group` uses is not in its stubs.
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname=host)]
    options._timeout = BUILD_TIMEOUT
    group = gloo(store, rank, size, options)
    group._set_default_timeout(OPERATION_TIMEOUT)
    return group
