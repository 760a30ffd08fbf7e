"""Which provider serves what somebody asks for, and whether a running cluster does."""

from __future__ import annotations

import pytest

from tools.localcluster.errors import ClusterError
from tools.localcluster.options import ClusterOptions, choose_provider, differences


@pytest.mark.parametrize(
    ("options", "kind_works", "expected"),
    [
        pytest.param(ClusterOptions(), True, "kind", id="kind where it has an engine"),
        pytest.param(ClusterOptions(), False, "local", id="local where it has none"),
        pytest.param(
            ClusterOptions(control_plane_only=True), True, "local", id="kind always has nodes"
        ),
        pytest.param(ClusterOptions(context="mine"), True, "context", id="a context is explicit"),
        pytest.param(ClusterOptions(provider="local"), True, "local", id="local when asked for"),
        pytest.param(ClusterOptions(provider="kind"), False, "kind", id="kind when asked for"),
    ],
)
def test_the_provider_depends_on_the_options_and_the_machine(
    options: ClusterOptions, kind_works: bool, expected: str
) -> None:
    assert choose_provider(options, kind_works=kind_works) == expected


@pytest.mark.parametrize("name", ["", "Upper", "-dash", "dash-", "a" * 31, "under_score", "1st"])
def test_a_name_that_is_invalid_for_a_device_or_folder_is_rejected(name: str) -> None:
    with pytest.raises(ClusterError, match="cannot name a cluster"):
        ClusterOptions(name=name)


def test_the_context_provider_requires_a_context() -> None:
    with pytest.raises(ClusterError, match="--context NAME"):
        ClusterOptions(provider="context")


@pytest.mark.parametrize(
    ("wanted", "existing", "reasons"),
    [
        pytest.param(ClusterOptions(), ClusterOptions(), 0, id="the same"),
        pytest.param(
            ClusterOptions(control_plane_only=True, gpus=2),
            ClusterOptions(),
            0,
            id="a whole cluster serves as a control plane",
        ),
        pytest.param(
            ClusterOptions(), ClusterOptions(control_plane_only=True), 1, id="but not vice versa"
        ),
        pytest.param(
            ClusterOptions(simulated_nodes=9),
            ClusterOptions(simulated_nodes=2),
            0,
            id="simulated nodes are added",
        ),
        pytest.param(
            ClusterOptions(simulated_nodes=9, gpus_per_node=4),
            ClusterOptions(simulated_nodes=2, gpus_per_node=8),
            1,
            id="simulated nodes of another size",
        ),
        pytest.param(ClusterOptions(gpus=4), ClusterOptions(), 1, id="another count of GPUs"),
        pytest.param(
            ClusterOptions(stock_limits=True, gpus=4), ClusterOptions(), 2, id="two reasons"
        ),
    ],
)
def test_a_running_cluster_says_why_it_cannot_serve(
    wanted: ClusterOptions, existing: ClusterOptions, reasons: int
) -> None:
    assert len(differences(wanted, existing)) == reasons
