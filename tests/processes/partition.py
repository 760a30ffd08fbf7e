"""A proxy before a coordinator whose network can be cut, as when its node is lost."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

CHUNK = 1 << 16
LAST_CHUNK = b"0\r\n\r\n"
"""The end of a body that is sent in chunks."""


class Partition:
    """Forwards connections until the last byte of an upload has passed; then it is silent.

    Connections that are cut stay open and nobody learns of it. New ones are refused until there is
    another coordinator to forward them to.
    """

    def __init__(self, target: int, cut_after: str) -> None:
        """`target` is the coordinator's port; a PUT whose path has `cut_after` triggers the cut."""
        self.is_cut = threading.Event()
        self._target: int | None = target
        self._trigger = cut_after.encode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def forward_to(self, target: int) -> None:
        """Forward new connections to another coordinator; those that were cut stay silent."""
        with self._lock:
            self._target = target

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                with self._lock:
                    target = self._target
                try:
                    far = socket.create_connection(("127.0.0.1", target or 1), timeout=5.0)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                self._open += [near, far]
                first = not self.is_cut.is_set()
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=(*ends, first), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, first: bool) -> None:
        """Forward bytes; those of connections to the `first` coordinator until the cut."""
        is_upload, tail = False, b""
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                if first and self.is_cut.is_set():
                    return
                target.sendall(data)
                is_upload |= first and data.startswith(b"PUT ") and self._trigger in data
                tail = tail[-len(LAST_CHUNK) :] + data
                if is_upload and tail.endswith(LAST_CHUNK):
                    with self._lock:
                        self._target = None
                    self.is_cut.set()
                    return
        with contextlib.suppress(OSError):
            if not (first and self.is_cut.is_set()):
                target.shutdown(socket.SHUT_WR)
