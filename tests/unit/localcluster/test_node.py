"""What a node asks of the machine before it is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.localcluster.errors import ClusterError
from tools.localcluster.node import check_folder

LONGEST = 107 - len("/kubelet/device-plugins/kubelet.sock")
"""Characters of a cluster's folder below which every socket of the kubelet has a path that fits."""


def test_a_folder_that_leaves_room_for_sockets_is_accepted() -> None:
    check_folder(Path("/" + "a" * (LONGEST - 1)))


def test_a_folder_whose_sockets_would_not_fit_is_refused_with_what_helps() -> None:
    """The kubelet ended with `bind: invalid argument`, and a start waited 90 s in vain."""
    with pytest.raises(ClusterError, match=r"is 1 characters too long.*XDG_CACHE_HOME"):
        check_folder(Path("/" + "a" * LONGEST))
