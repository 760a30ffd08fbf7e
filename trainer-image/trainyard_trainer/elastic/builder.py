"""Builds a view's process group in a thread of its own, while the old group trains."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from trainyard_trainer.elastic.process_group import (
    LocalProcessGroup,
    ProcessGroup,
    Rendezvous,
    TorchProcessGroup,
    is_wire_failure,
)
from trainyard_trainer.membership.views import View
from trainyard_trainer.runtime.exits import TrainerError
from trainyard_trainer.training.loop import CollectiveError


def build_failure(error: Exception) -> Exception:
    """What a failed build raises: CollectiveError for the wire, else what ends the process."""
    if is_wire_failure(error):
        return CollectiveError(str(error))
    return TrainerError(f"the process group cannot be built: {type(error).__name__}: {error}")


class GroupBuilder:
    """Builds the process group of one view."""

    def __init__(
        self,
        view: View,
        member_id: str,
        rendezvous: Rendezvous,
        device: torch.device,
        check: Callable[[View], None],
    ) -> None:
        """Start building; `check` raises CollectiveError in waits once the view has ended."""
        self.view = view
        self.group: ProcessGroup | None = LocalProcessGroup() if len(view.members) == 1 else None
        self.error: Exception | None = None
        self.is_reported = False
        """Whether the coordinator was sent `error`."""
        self._member_id, self._rendezvous = member_id, rendezvous
        self._device, self._check = device, check
        self._is_abandoned = False
        if self.group is None:
            name = f"view-{view.id.number}"
            threading.Thread(target=self._build, name=name, daemon=True).start()

    @property
    def is_done(self) -> bool:
        """Whether there is a group, or none can be built."""
        return self.group is not None or self.error is not None

    def abandon(self) -> None:
        """Abort the group, now or once it is built: its view has ended or will not begin."""
        self._is_abandoned = True
        if self.group is not None:
            self.group.abort()

    def _build(self) -> None:
        view, check = self.view, self._check
        rank, size = view.member_ids.index(self._member_id), len(view.members)
        prefix = f"{view.id.term}.{view.id.number}"
        address = view.members[0].rendezvous
        try:
            group = self._rendezvous.create_group(address, prefix, rank, size, self._device)
            self.group = TorchProcessGroup(group, self._device, lambda: check(view))
        except Exception as error:  # Else nobody would learn that this thread has ended.
            self.error = error
        if self._is_abandoned:
            self.abandon()
