"""Addresses between this host and its clusters."""

from __future__ import annotations

import pytest

from tools.localcluster.errors import ClusterError
from tools.localcluster.network import free_cable


def test_the_first_cluster_takes_the_first_addresses() -> None:
    assert free_cable(["default", "192.168.0.0/16"]) == ("10.253.0.1", "10.253.0.2")


def test_addresses_that_a_route_covers_are_taken() -> None:
    assert free_cable(["10.253.0.0/30", "10.253.0.4/31"]) == ("10.253.0.9", "10.253.0.10")


def test_a_host_whose_routes_cover_all_addresses_gets_an_error() -> None:
    with pytest.raises(ClusterError, match="No addresses are left"):
        free_cable(["10.0.0.0/8"])
