"""The collectives of one view: in a single process, by gloo on CPUs, or by NCCL on GPUs.

A broken process group needs care. Waits are sliced, so that a survivor that hangs on another member
notices that the view has ended. An aborted group is destroyed in a thread of its own, because its
destructor waits for pending operations.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from trainyard_trainer.runtime.exits import TaskInvalid, TrainerError
from trainyard_trainer.training.loop import CollectiveError

SLICE: Final = timedelta(milliseconds=50)
"""How often a wait checks that the view has not ended; a completed operation ends it at once."""
POLL_SECONDS: Final = 0.0002
BUILD_TIMEOUT: Final = timedelta(seconds=60)
"""Time allowed for the members of a new view to connect to each other."""
OPERATION_TIMEOUT: Final = timedelta(minutes=30)
"""Longer than any step: failures are detected by other means, much sooner."""
REAPER: Final = "pg-reaper"
"""The name of the threads that wait for the operations of broken groups."""
MAX_REAPERS: Final = 100
"""Each holds its group's sockets, one for each other member, for as long as `OPERATION_TIMEOUT`."""

_GLOO_WIRE: Final = re.compile(
    r"^\[\S*gloo/(transport|rendezvous)/|connect(ion|FullMesh)|timed ?out|timeout|broken pipe"
    r"|socket|network|host is unreachable|application terminated|aborted",
    re.IGNORECASE,
)
"""What gloo says when a peer or the network has failed; it raises plain RuntimeErrors."""
_NCCL_LASTING: Final = re.compile(
    r"invalid usage|ncclInvalid|unhandled cuda error|out of memory|not supported|Unconvertible",
    re.IGNORECASE,
)
"""What NCCL says of this process' own faults; it raises one class for all."""
_UNSUPPORTED: Final = re.compile(
    r"invalid scalar type|dense tensors|not supported|unconvertible|must be contiguous",
    re.IGNORECASE,
)
"""What both say of tensors that they cannot send."""

log = logging.getLogger(__name__)


def is_wire_failure(error: Exception) -> bool:
    """Whether a collective or a rendezvous has failed by a peer or the network: worth a retry.

    Everything else would fail in the same way again. NCCL, stores and sockets have classes of
    their own (`torch.distributed.DistError`); gloo is told by its texts.
    """
    if isinstance(error, (CollectiveError, OSError)):
        return True
    if isinstance(error, dist.DistBackendError):
        return _NCCL_LASTING.search(str(error)) is None
    if isinstance(error, dist.DistError):
        return True
    is_plain = type(error) is RuntimeError
    return is_plain and _GLOO_WIRE.search(str(error)) is not None


def collective_failure(error: Exception, operation: str, tensor: Tensor) -> Exception:
    """What a failed collective raises: CollectiveError for the wire, else what ends the process."""
    if is_wire_failure(error):
        return CollectiveError(str(error))
    message = (
        f"the workers cannot exchange a tensor of {tensor.dtype} in shape {tuple(tensor.shape)} "
        f"({operation}): {error}"
    )
    if _UNSUPPORTED.search(str(error)):
        return TaskInvalid(f"{message}; give that parameter or buffer another dtype")
    return TrainerError(message)


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
        """Destroy the group; it is not used again."""


class LocalProcessGroup:
    """The group of a single member: nothing to reduce."""

    rank = 0
    size = 1
    seconds = 0.0

    def all_reduce_(self, *tensors: Tensor) -> None:
        """Do nothing: the only member's tensors are the sums."""

    def broadcast_(self, tensor: Tensor, source: int) -> None:
        """Do nothing: there is no other member."""

    def abort(self) -> None:
        """Do nothing."""


class TorchProcessGroup:
    """A process group of `torch.distributed` whose waits end with the view."""

    def __init__(self, group: Any, device: torch.device, check: Callable[[], None]) -> None:
        """`check`, called in each slice of a wait, raises CollectiveError once the view ends."""
        self._group, self._check = group, check
        self._wait_slice = _wait_slice if device.type == "cpu" else _poll
        self.rank, self.size = group.rank(), group.size()
        self.seconds = 0.0
        self._pending_ops: list[Any] = []
        """Operations that may still write to their tensors."""

    def all_reduce_(self, *tensors: Tensor) -> None:
        """Sum each tensor over all members, in place.

        Raises CollectiveError when the wire fails, and TrainerError for all else.
        """
        start = time.perf_counter()
        works = [(self._start("all-reduce", tensor), tensor) for tensor in tensors]
        for work, tensor in works:
            self._wait(work, "all-reduce", tensor)
        self.seconds += time.perf_counter() - start

    def broadcast_(self, tensor: Tensor, source: int) -> None:
        """Copy the tensor of rank `source` to all members, in place; raises as `all_reduce_`."""
        start = time.perf_counter()
        self._wait(self._start("broadcast", tensor, source), "broadcast", tensor)
        self.seconds += time.perf_counter() - start

    def abort(self) -> None:
        """Destroy the group and the tensors it may still write to, however long that takes.

        Raises RuntimeError, which ends the process, when too many groups are still waited for.
        """
        if self._group is None:
            return
        # The thread must hold the only references, so that the destructor runs there.
        doomed = [self._pending_ops, self._group]
        self._group = None
        threading.Thread(target=_destroy, args=(doomed,), name=REAPER, daemon=True).start()
        _check_reapers()

    def _start(self, operation: str, tensor: Tensor, source: int = 0) -> Any:
        try:
            if operation == "broadcast":
                return self._group.broadcast(tensor, root=source)
            return self._group.allreduce([tensor])
        except RuntimeError as error:
            raise collective_failure(error, operation, tensor) from error

    def _wait(self, work: Any, operation: str, tensor: Tensor) -> None:
        try:
            while not self._wait_slice(work):
                self._check()
        except (CollectiveError, RuntimeError) as error:
            self._pending_ops.append((work, tensor))
            raise collective_failure(error, operation, tensor) from error


def _check_reapers() -> None:
    """Log how many broken groups are still waited for, and end the process if they pile up."""
    waiting = sum(thread.name == REAPER for thread in threading.enumerate())
    if waiting > 1:
        log.info("%d broken process groups still wait for their operations", waiting)
    if waiting >= MAX_REAPERS:
        raise RuntimeError(
            f"{waiting} broken process groups hold their connections: views break faster than "
            "their operations time out, so the process ends to free them"
        )


def _destroy(doomed: list[Any]) -> None:
    pending_ops, group = doomed
    if pending_ops:
        group.abort()  # Frees NCCL's kernels at once; gloo's operations run into their timeout.
    del pending_ops, group
    doomed.clear()


def _wait_slice(work: Any) -> bool:
    """Wait for `work` at most `SLICE`: whether it is done. Raises RuntimeError if it has failed."""
    try:
        work.wait(SLICE)
    except RuntimeError:
        if not work.is_completed():
            return False  # Only the slice has run out; the operation goes on.
        work.wait()  # It has failed, or was completed just after the slice.
    return True


def _poll(work: Any) -> bool:
    """Like `_wait_slice`, for NCCL, where a wait that times out would abort the whole group."""
    if not work.is_completed():
        time.sleep(POLL_SECONDS)
        return False
    work.wait()
    return True


class Rendezvous:
    """The store at which the members of a view meet: each worker serves one, rank 0's is used.

    It belongs to a worker, so that process groups can be built without the coordinator.
    """

    def __init__(self, host: str) -> None:
        """Serve on a free port of this machine; `host` is how other workers reach it."""
        self._host = host
        self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False)

    @property
    def address(self) -> str:
        """`host:port`, for the other workers."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._store.port}"

    def create_group(
        self, address: str, prefix: str, rank: int, size: int, device: torch.device
    ) -> Any:
        """The process group of `size` members that meet at `address`; blocks until all have joined.

        Raises RuntimeError when one does not join within `BUILD_TIMEOUT`.
        """
        # A connection for each build, as one that waits for a lost member lets no other through.
        host, _, port = address.rpartition(":")
        client = TCPStore(host.strip("[]"), int(port), is_master=False, timeout=BUILD_TIMEOUT)
        store = PrefixStore(prefix, client)
        store.set_timeout(BUILD_TIMEOUT)
        if device.type == "cuda":
            return _nccl(store, rank, size)
        return _gloo(store, rank, size, self._host)


def _nccl(store: Store, rank: int, size: int) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = OPERATION_TIMEOUT
    return dist.ProcessGroupNCCL(store, rank, size, options)


def _gloo(store: Store, rank: int, size: int, host: str) -> Any:
    # Typed as Any: PyTorch's stubs lack what its own `init_process_group` uses.
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname=host)]
    options._timeout = BUILD_TIMEOUT
    group = gloo(store, rank, size, options)
    group._set_default_timeout(OPERATION_TIMEOUT)
    return group
