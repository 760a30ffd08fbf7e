"""What all tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings

# Before any test imports them: what they assert is then reported as well as what a test asserts.
pytest.register_assert_rewrite("tests.support")

# No test asserts on a speed: a busy machine is not a failure.
settings.register_profile("trainyard", deadline=None)
settings.load_profile("trainyard")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The share of the long tests that a run takes."""
    group = parser.getgroup("trainyard")
    group.addoption("--long-minutes", type=float, help="Draw long tests that fit into so long.")
    group.addoption("--long-seed", default="", help="Seed of the draw, such as a commit.")


@pytest.hookimpl(trylast=True)  # after the markers have selected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the drawn long tests, where a number of minutes is given."""
    budget = config.getoption("--long-minutes")
    if budget is None:
        return
    from tests.support.draw import draw  # after it has been registered above

    minutes = {item.nodeid: _minutes(item) for item in items if item.get_closest_marker("long")}
    drawn = draw(minutes, budget, config.getoption("--long-seed"))
    left_out = [item for item in items if item.nodeid in minutes.keys() - drawn]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _minutes(item: pytest.Item) -> float:
    """How long a long test takes on two cores, as its marker says."""
    marker = item.get_closest_marker("long")
    assert marker is not None
    return float(marker.kwargs["minutes"])
